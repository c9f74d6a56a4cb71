"""Without Dask: one task searches some rows into a checkpoint, another merges them all.

What a job array needs: any number of such tasks, anywhere, at any time, and none of them knows of
the others.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from haag_vq import interrupts
from haag_vq.errors import UsageError, whole_number
from haag_vq.groundtruth.answer import IsOwn, answer
from haag_vq.groundtruth.blocks import SearchShape, plan_blocks
from haag_vq.groundtruth.checkpoint import (
    Checkpoint,
    load_queries,
    open_checkpoint,
    reopen_checkpoint,
)
from haag_vq.groundtruth.cover import cover, cut_at
from haag_vq.groundtruth.inputs import Question, ends_of, read_inputs
from haag_vq.groundtruth.ondisk import OnDisk, read_all, tagged
from haag_vq.groundtruth.part import uncertified
from haag_vq.groundtruth.result import GroundTruth
from haag_vq.groundtruth.resume import manifest_of
from haag_vq.groundtruth.tasks import BlockTask, Search
from haag_vq.memory import Projection, parse_bytes, peak_rss_bytes, process_allowance
from haag_vq.progress import ProgressLine
from haag_vq.sources import VectorSource, check_metric


@dataclass(frozen=True, slots=True)
class RowsReport:
    """What one task did."""

    start: int
    stop: int
    n_rows_searched: int
    """Rows that the checkpoint did not have yet."""
    n_blocks: int
    seconds: float
    projection: Projection
    peak_rss_bytes: int


def search_rows(
    base: Any,
    queries: Any = None,
    k: int = 100,
    metric: str = "l2",
    *,
    rows: tuple[int, int],
    checkpoint: str | os.PathLike[str],
    chunk_size: int | str | None = None,
    progress: bool = False,
) -> RowsReport:
    """Search rows ``rows[0]:rows[1]`` of a base into a checkpoint, in this process alone.

    Parameters
    ----------
    base, queries, k, metric, chunk_size, progress
        As of `ground_truth`; the base is a dataset or a source.
    rows : (start, stop)
    checkpoint : path-like
        Directory that the tasks of all other rows share.

    Raises
    ------
    UsageError, DataError, InsufficientMemoryError, WriteError
        As of `ground_truth`.

    Notes
    -----
    Uses `OMP_NUM_THREADS` threads, or all cores of the process. Memory as `ground_truth` projects
    it for one worker.
    """
    started = time.perf_counter()
    inputs = read_inputs(base, queries, k, metric, None, False, progress)
    source, question = inputs.target, inputs.question
    if not isinstance(source, VectorSource):
        raise UsageError("only a dataset or a source can be searched by rows, not a Dask array.")
    start, stop = rows_of(rows, source.n_rows)

    def fingerprint_of(a: int, b: int) -> str:
        return tagged(question.tag, inputs.fingerprint(a, b))

    asked = manifest_of(inputs, inputs.fingerprint(0, source.n_rows))
    with open_checkpoint(
        checkpoint, asked, question.xq, question.query_rows, exclusive=False
    ) as opened:
        width = opened.manifest.width
        gaps = cover(opened.verified(start, stop, fingerprint_of), start, stop)[1]
        opened.accept()
        gaps = cut_at(gaps, opened.manifest.cuts)
        shape = SearchShape(
            len(question.xq),
            source.dim,
            width,
            question.metric,
            source.scratch_bytes,
            1,
            on_disk=True,
        )
        parts = [source.narrow(a, b) for a, b in gaps]
        block_bytes = None if chunk_size is None else parse_bytes(chunk_size)
        plans, projection = plan_blocks(parts, shape, 1, process_allowance(), block_bytes)
        spans = [
            (gap[0] + a, gap[0] + b) for gap, plan in zip(gaps, plans, strict=True) for a, b in plan
        ]
        keeping = OnDisk(opened, width, 1, fingerprint_of)
        keeping.begin(len(spans))
        search = Search(uuid.uuid4().hex, width, question.metric, None)
        line = ProgressLine("blocks", len(spans)) if progress and spans else None
        try:
            for n, (a, b) in enumerate(spans, 1):
                interrupts.check()
                task = BlockTask(source.narrow(a, b), a, 0, search)
                keeping.block(task, (a, b), (a, b), projection)(question.xq)
                if line is not None:
                    line(n)
        finally:
            if line is not None:
                line.close()
    n_searched = sum(b - a for a, b in gaps)
    seconds = time.perf_counter() - started
    return RowsReport(start, stop, n_searched, len(spans), seconds, projection, peak_rss_bytes())


def rows_of(rows: Any, n_rows: int) -> tuple[int, int]:
    """Check a pair of rows ``start, stop`` of a base; UsageError for any other thing."""
    try:
        start, stop = rows
    except (TypeError, ValueError):
        raise UsageError(
            f"rows={rows!r} must be a pair: the first row and the one after."
        ) from None
    start, stop = whole_number("rows", start), whole_number("rows", stop)
    if not 0 <= start < stop <= n_rows:
        raise UsageError(f"rows {start:,}:{stop:,} are none of 0:{n_rows:,}.")
    return start, stop


def merge_checkpoint(
    directory: str | os.PathLike[str],
    k: int | None = None,
    prefixes: Sequence[int | None] | None = None,
    exclude_self: bool = False,
) -> list[GroundTruth]:
    """Make the answer of a checkpoint whose rows are all there.

    Parameters
    ----------
    k : int, optional
        Fewer neighbours than the checkpoint was made for.
    prefixes : sequence of int or None, optional
        Answer for the first so many rows each; None for all that were asked.
    exclude_self : bool
        As of `ground_truth`.

    Returns
    -------
    list of GroundTruth
        One for each prefix; one if there are none.

    Raises
    ------
    UsageError
        If the directory is no checkpoint, k or a prefix is none of its, or rows are missing:
        each gap is named. If what was kept does not prove a prefix, since rows were left out for
        nearer ones after it.

    Notes
    -----
    Memory: two intervals' lists. Nothing of the base is read.
    """
    with reopen_checkpoint(directory) as opened:
        manifest = opened.manifest
        xq, query_rows = load_queries(opened)
        k = manifest.k if k is None else whole_number("k", k)
        ends = ends_of(prefixes, manifest.n_rows, k, exclude_self)
        if k > manifest.k:
            raise UsageError(
                f"{opened.directory} holds {manifest.k} neighbours of each query, {k} are asked: "
                "merge with a k (--k) up to that, or search the base for more in another directory."
            )
        is_own = _own_rows(opened, query_rows, exclude_self)
        question = Question(
            xq,
            k,
            check_metric(manifest.metric),
            exclude_self,
            manifest.dataset,
            manifest.query_source,
            query_rows,
            manifest.commit,
        )
        truths = []
        for end in ends:
            chosen, gaps = cover(opened.spans(), 0, end)
            if gaps:
                raise UsageError(_missing(opened, gaps))
            part = read_all(str(opened.directory), chosen, question.width, question.tag)
            n_wrong = int(uncertified(part, question.width).sum())
            if n_wrong:
                raise UsageError(_unproven(opened, n_wrong, question, end))
            whole = end == manifest.n_rows
            fingerprint = manifest.base_fingerprint if whole else ""
            truths.append(answer(question, part, fingerprint, is_own, None))
    return truths


def _own_rows(opened: Checkpoint, query_rows: Any, exclude_self: bool) -> IsOwn | None:
    if query_rows is None:
        return None
    if not opened.manifest.rows_are_stored_rows:
        if exclude_self:
            raise UsageError(
                "which rows of this base the queries are can only be told from the base: run "
                f"`haag-vq ground-truth SOURCE … --checkpoint {opened.directory} --exclude-self`, "
                "which searches nothing again."
            )
        return None
    return lambda queries, ids: ids == query_rows[queries]


def _unproven(opened: Checkpoint, n_wrong: int, question: Question, end: int) -> str:
    return (
        f"{n_wrong:,} of {len(question.xq):,} queries are not proven for the first {end:,} rows: "
        "rows were left out for nearer ones that come after these. To search them again for those "
        f"queries, which takes the base: `haag-vq ground-truth SOURCE … --k {question.k} "
        f"--prefixes {end} --checkpoint {opened.directory}` with the job's own queries and metric."
    )


def _missing(opened: Checkpoint, gaps: Sequence[tuple[int, int]]) -> str:
    named = ", ".join(f"{a}:{b}" for a, b in gaps[:5])
    more = f" and {len(gaps) - 5:,} more" if len(gaps) > 5 else ""
    n = sum(b - a for a, b in gaps)
    return (
        f"{n:,} rows are missing in {opened.directory} (or lie in an interval that reaches over "
        f"the end of what is asked): {named}{more}. Search them with "
        f"`haag-vq ground-truth … --rows {gaps[0][0]}:{gaps[0][1]} --checkpoint "
        f"{opened.directory}`, or all of them at once without --rows."
    )
