"""Searching with a checkpoint: only the rows that are not on disk yet, each of them once."""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from haag_vq.errors import CertificateError, UsageError
from haag_vq.groundtruth.checkpoint import Checkpoint, open_checkpoint
from haag_vq.groundtruth.cover import cover, cut_at, mergeable
from haag_vq.groundtruth.inputs import Inputs
from haag_vq.groundtruth.intervals import Span, read_interval, write_interval
from haag_vq.groundtruth.losses import settle
from haag_vq.groundtruth.manifest import Manifest
from haag_vq.groundtruth.ondisk import OnDisk, read_all, tagged
from haag_vq.groundtruth.part import Part, Tally, combine, replaced, select, uncertified
from haag_vq.groundtruth.result import software_versions
from haag_vq.groundtruth.runner import InMemory, Piece, Runner
from haag_vq.sources import VectorSource

# Files that were merged are removed now and then while a run goes on. Arbitrary.
TIDY_SECONDS = 10.0


def search(
    inputs: Inputs, runner: Runner, directory: str | os.PathLike[str], identity: str | None
) -> tuple[dict[int, Part], int]:
    """Search what a checkpoint lacks; returns the part of each prefix, and the rows it had.

    Raises
    ------
    UsageError
        If the checkpoint is of another question or base, or in use; or an array has no identity.
    """
    if not isinstance(inputs.target, VectorSource) and identity is None:
        raise UsageError(
            "a Dask array has no identity of its own to tell a checkpoint from another's: pass "
            "identity='…', words that change when its content does."
        )

    def fingerprint_of(start: int, stop: int) -> str:
        return tagged(inputs.question.tag, inputs.fingerprint(start, stop, identity))

    asked = manifest_of(inputs, inputs.fingerprint(0, max(inputs.ends), identity))
    rows = inputs.question.query_rows
    with open_checkpoint(directory, asked, inputs.question.xq, rows, exclusive=True) as checkpoint:
        runner.width, runner.on_disk = checkpoint.manifest.width, True
        # Before it is tidied: what a damaged interval covers is still there.
        checkpoint.verified(0, max(inputs.ends), fingerprint_of)
        checkpoint.accept()
        checkpoint.tidy()
        settle(checkpoint.directory, runner.cause_of_job)
        spans = [span for span in checkpoint.spans() if span[1] <= max(inputs.ends)]
        pieces = plan_pieces(inputs.ends, spans, checkpoint.manifest.cuts)
        keeping = OnDisk(checkpoint, runner.width, runner.n_workers, fingerprint_of)
        tidying = _Tidying(checkpoint, [(piece.start, piece.stop) for piece in pieces])
        runner.search(pieces, keeping, tick=tidying)
        n_reused = max(inputs.ends) - sum(piece.stop - piece.start for piece in pieces)
        compact(checkpoint, max(inputs.ends), keeping)
        parts = {end: _part_of(inputs, runner, keeping, end) for end in set(inputs.ends)}
        checkpoint.tidy()
    return parts, max(0, n_reused)


def manifest_of(inputs: Inputs, base_fingerprint: str) -> Manifest:
    """Write down a question."""
    source = inputs.target
    plain = True
    if isinstance(source, VectorSource) and source.n_rows:
        some = np.unique(np.linspace(0, source.n_rows - 1, 1000).astype(np.int64))
        plain = bool(np.array_equal(source.stored_rows(some), some))
    return Manifest(
        inputs.question.metric,
        inputs.question.k,
        inputs.question.width,
        inputs.question.xq.shape[1],
        len(inputs.question.xq),
        inputs.question.queries_sha256,
        tuple(sorted(set(inputs.ends))),
        base_fingerprint,
        inputs.question.dataset,
        inputs.question.query_source,
        plain,
        software_versions(),
        inputs.question.commit,
    )


def plan_pieces(
    prefix_ends: Sequence[int], spans: list[Span], all_cuts: Sequence[int] = ()
) -> list[Piece]:
    """Choose the rows to search: what some prefix lacks, cut where any of them begins or ends.

    And at all cuts of the checkpoint: what reaches over one would not serve it.
    """
    ends = sorted(set(prefix_ends))
    gaps = [gap for end in ends for gap in cover(spans, 0, end)[1]]
    cuts = [*ends, *all_cuts, *(row for gap in gaps for row in gap)]
    return [Piece(a, b, bisect_left(ends, b)) for a, b in cut_at(gaps, cuts)]


def compact(checkpoint: Checkpoint, n_rows: int, keeping: OnDisk) -> None:
    """Make one interval of those that follow one another and meet at no cut, and tidy up."""
    checkpoint.tidy()
    cuts = [cut for cut in checkpoint.manifest.cuts if cut <= n_rows]
    for run in mergeable(checkpoint.spans(), cuts):
        start, stop = run[0][0], run[-1][1]
        keeping.merge((start, stop), start, stop)(run)
    checkpoint.tidy()


def _part_of(inputs: Inputs, runner: Runner, keeping: OnDisk, end: int) -> Part:
    """Combine what the checkpoint has of a prefix, and search again what that leaves unproven.

    Rows may have been left out for a nearer row that is not in this prefix, of a larger base. What
    is found of them is kept as one interval.
    """
    checkpoint = keeping.checkpoint
    chosen, gaps = cover(checkpoint.spans(), 0, end)
    if gaps:
        raise CertificateError(
            f"rows {gaps[0][0]:,}:{gaps[0][1]:,} are not in {checkpoint.directory} after they "
            "were searched; something removes files there. Run again."
        )
    directory = str(checkpoint.directory)
    part = read_all(directory, chosen, runner.width, inputs.question.tag)
    wrong = np.flatnonzero(uncertified(part, inputs.question.width))
    if not len(wrong):
        return part
    short, sound = [], []
    kth = np.full(len(wrong), np.inf)
    if part.keys.shape[1] >= inputs.question.width:
        kth = part.keys[wrong, inputs.question.width - 1]
    for span in chosen:
        found = read_interval(directory, span)
        # What it took is counted with the others already.
        of_wrong = found and replace(select(found[0], wrong), tally=Tally())
        if of_wrong is None or np.any(
            (of_wrong.frontier < kth) | ((of_wrong.frontier == kth) & np.isfinite(kth))
        ):
            short.append(Piece(*span, 0))
        else:
            sound.append(of_wrong)
    runner.on_disk = False
    redone = runner.search(short, InMemory(runner.width), inputs.question.xq[wrong])
    again = combine([*sound, *redone], runner.width)
    if again.n_rows != part.n_rows:
        raise CertificateError(
            f"{again.n_rows:,} of {part.n_rows:,} rows were searched again for {len(wrong):,} "
            "queries. This is a fault of the program; please report it."
        )
    mended = replaced(part, wrong, again)
    write_interval(checkpoint.directory, (0, end), mended, keeping.fingerprint_of(0, end))
    return mended


class _Tidying:
    """Tidies a checkpoint when called, but not more often than every `TIDY_SECONDS`."""

    def __init__(self, checkpoint: Checkpoint, pieces: list[Span]) -> None:
        self._checkpoint = checkpoint
        self._pieces = pieces
        self._next = time.monotonic() + TIDY_SECONDS

    def __call__(self) -> None:
        if time.monotonic() >= self._next:
            self._checkpoint.tidy_meanwhile(self._pieces)
            self._next = time.monotonic() + TIDY_SECONDS
