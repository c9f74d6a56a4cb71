"""Tasks that leave their part on disk: what a lost worker had finished is not lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haag_vq.errors import DataError
from haag_vq.groundtruth.attempts import attempted
from haag_vq.groundtruth.blocks import MERGE_WIDTH
from haag_vq.groundtruth.checkpoint import Checkpoint
from haag_vq.groundtruth.cover import served
from haag_vq.groundtruth.inputs import question_tag
from haag_vq.groundtruth.intervals import (
    Span,
    interval_path,
    list_intervals,
    read_interval,
    write_interval,
)
from haag_vq.groundtruth.part import Part, combine
from haag_vq.memory import Projection
from haag_vq.workers import this_worker


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block's task that writes its part, unless it is there."""

    task: Callable[..., Part]
    directory: str
    span: Span
    base_fingerprint: str
    piece: Span
    """The rows that were missing, of which these are some: nothing larger is merged of them."""
    projected_bytes: int = 0
    """Of the worker, for the note that this leaves while it runs."""

    def __call__(self, *given: Any) -> Span:
        # A task is run again where a worker was lost that had finished it, or had merged it.
        if not _is_there(self.directory, self.span, self.piece):
            with attempted(self.directory, self.span, self.projected_bytes, this_worker()):
                part = self.task(*given)
                write_interval(self.directory, self.span, part, self.base_fingerprint)
        return self.span


@dataclass(frozen=True, slots=True)
class StoredMerge:
    """Merges the parts of intervals that fill a span into one file."""

    directory: str
    span: Span
    width: int
    tag: str
    base_fingerprint: str
    piece: Span
    """The rows that were missing, of which these are some."""

    def __call__(self, spans: Sequence[Span]) -> Span:
        if not _is_there(self.directory, self.span, self.piece):
            try:
                part = read_all(self.directory, spans, self.width, self.tag)
            except DataError:
                # A worker that was given up may have gone on, merged them, and had them tidied.
                if _is_there(self.directory, self.span, self.piece):
                    return self.span
                raise
            write_interval(self.directory, self.span, part, self.base_fingerprint)
        return self.span


def _is_there(directory: str, span: Span, piece: Span) -> bool:
    """Tell whether rows are on disk: in their own file, or in one that theirs was merged into."""
    return served(span, list_intervals(directory), piece)


def tagged(tag: str, base_fingerprint: str) -> str:
    """Join the identities of a question and of rows: what an interval is of."""
    return f"{tag}/{base_fingerprint}"


def read_all(directory: str, spans: Sequence[Span], width: int, tag: str) -> Part:
    """Read and combine the parts of some intervals, one after the other.

    Raises
    ------
    DataError
        If one of them is gone, damaged, or of another question than `tag` says.
    """
    merged: Part | None = None
    for span in spans:
        found = read_interval(directory, span)
        if found is None:
            raise DataError(
                f"{interval_path(directory, span)} is gone or damaged. Remove it and search its "
                f"rows again (--rows {span[0]}:{span[1]}, or the whole command): the other "
                "intervals are kept."
            )
        if not found[1].startswith(tagged(tag, "")):
            raise DataError(
                f"{interval_path(directory, span)} is of another metric or other queries. Remove "
                "it and run again: the other intervals are kept."
            )
        merged = combine([found[0]] if merged is None else [merged, found[0]], width)
    if merged is None:
        raise ValueError("no intervals to combine")
    return merged


@dataclass(frozen=True, slots=True)
class OnDisk:
    """Keeps every block's part in a checkpoint, and merges them there."""

    checkpoint: Checkpoint
    width: int
    n_workers: int
    fingerprint_of: Callable[[int, int], str]

    def begin(self, n_blocks: int) -> None:
        """Refuse what the file system has no room for."""
        self.checkpoint.check_space(
            projected_bytes(
                self.checkpoint.manifest.n_queries, self.width, n_blocks, self.n_workers
            )
        )

    @property
    def directory(self) -> Path:
        """The checkpoint's."""
        return self.checkpoint.directory

    def block(
        self, task: Callable[..., Part], span: Span, piece: Span, projection: Projection
    ) -> StoredBlock:
        """Write the part of the block, and note who searches it."""
        return StoredBlock(
            task,
            str(self.checkpoint.directory),
            span,
            self.fingerprint_of(*span),
            piece,
            projection.total_bytes,
        )

    def merge(self, piece: Span, start: int, stop: int) -> StoredMerge:
        """Merge files into one; what is merged is removed by `Checkpoint.tidy`."""
        return StoredMerge(
            str(self.checkpoint.directory),
            (start, stop),
            self.width,
            question_tag(self.checkpoint.manifest.metric, self.checkpoint.manifest.queries_sha256),
            self.fingerprint_of(start, stop),
            piece,
        )


def projected_bytes(n_queries: int, width: int, n_blocks: int, n_workers: int) -> int:
    """Bytes that a checkpoint takes at most while its blocks come in no special order.

    A worker's first block keeps `width` rows a query, its j-th about width/j, for what it knows
    then. Merges of some are beside what they were made of until that is tidied away: on each level
    of the tree no more entries than below it, and no more than full lists.
    """
    per_worker = max(1, n_blocks // n_workers)
    entries = n_workers * width * (1 + math.log(per_worker))
    total, n_files = 0.0, n_blocks
    while n_files:
        total += n_queries * (min(entries, n_files * width) * 24 + n_files * 20) + n_files * 8192
        n_files = -(-n_files // MERGE_WIDTH) if n_files > 1 else 0
    return int(total)
