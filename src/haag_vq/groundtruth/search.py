"""The public search: check, plan, refuse or run, certify."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, overload

from haag_vq.errors import UsageError
from haag_vq.groundtruth import resume
from haag_vq.groundtruth.answer import answer, own_rows
from haag_vq.groundtruth.inputs import Inputs, read_inputs
from haag_vq.groundtruth.part import Part, combine
from haag_vq.groundtruth.result import GroundTruth, RunReport
from haag_vq.groundtruth.runner import InMemory, Piece, Runner
from haag_vq.memory import parse_bytes
from haag_vq.workers import current_workers


@overload
def ground_truth(
    base: Any,
    queries: Any = None,
    k: int = 100,
    metric: str = "l2",
    *,
    prefixes: None = None,
    exclude_self: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    identity: str | None = None,
    chunk_size: int | str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> GroundTruth: ...


@overload
def ground_truth(
    base: Any,
    queries: Any = None,
    k: int = 100,
    metric: str = "l2",
    *,
    prefixes: Sequence[int | None],
    exclude_self: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    identity: str | None = None,
    chunk_size: int | str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> list[GroundTruth]: ...


def ground_truth(
    base: Any,
    queries: Any = None,
    k: int = 100,
    metric: str = "l2",
    *,
    prefixes: Sequence[int | None] | None = None,
    exclude_self: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    identity: str | None = None,
    chunk_size: int | str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> GroundTruth | list[GroundTruth]:
    """Find the exact k nearest rows of a base for each query.

    Parameters
    ----------
    base : dataset, VectorSource, dask array or (n, d) array
        A dataset or source is read by the search's own tasks, block by block, each row once.
        A Dask array must have blocks of whole rows.
    queries : (nq, d) array, dataset or VectorSource, optional
        The dataset's own when not given.
    k : int
        Neighbours of each query.
    metric : {"l2", "ip", "cosine", "auto"}
        Squared Euclidean distance, inner product or cosine; "auto" is the dataset's own.
    prefixes : sequence of int or None, optional
        Answer for the first so many rows each, None for all, from one pass.
    exclude_self : bool
        Leave out each query's own row: where the queries are known to be rows of the base, that
        row; otherwise the first row with the query's vector.
    checkpoint : path-like, optional
        Directory, seen by all workers, that keeps what is finished: the same call after a crash,
        with a larger base or a smaller k, searches only the rows that are missing.
    identity : str, optional
        What a Dask array holds, in words of your own; needed to checkpoint one.
    chunk_size : int or str, optional
        The most bytes of one block, as ``"128MiB"``. By default blocks are as large as helps
        and fits, up to 256 MiB.
    run_dir : path-like, optional
        Directory that all workers see, for queries above 1 MiB. By default the system's
        temporary directory, or the current one where workers are on other machines.
    progress : bool
        Show a line of progress on standard error.

    Returns
    -------
    GroundTruth, or a list of them in the order of `prefixes`
        ``ids`` (nq, k) int64, ``distances`` (nq, k) float64: squared distance ascending for l2,
        similarity descending for ip and cosine. Equal distances are ordered by id.

    Raises
    ------
    UsageError
        If k is larger than the base, dimensions differ, an argument is unknown, or the checkpoint
        is of another job or in use.
    DataError
        If rows or queries are not finite, or zero under cosine: file and rows are named.
    InsufficientMemoryError
        If a task would pass a worker's allowance; nothing has been read then.
    WriteError
        If the checkpoint does not fit on its file system or cannot be written.
    CertificateError
        If the answer could not be proven. It never is returned unproven.

    Notes
    -----
    Exact for the float32 rows of the base: distances are those of `groundtruth.d64`, and the
    answer is the same to the bit for any chunk size, scheduler, workers and order of arrival.
    It runs on the Dask client in force, else on Dask's local scheduler. Memory of a worker: one
    block, the source's scratch, the queries twice, a search workspace of 34 MiB and more
    (docs/memory-contract.md), and ``24·nq·k`` bytes for each part at hand; projected before
    the run and refused if too much.
    """
    started = time.perf_counter()
    if identity is not None and (not isinstance(identity, str) or not identity.strip()):
        raise UsageError(f"identity={identity!r} must be words that say what the array holds.")
    inputs = read_inputs(base, queries, k, metric, prefixes, exclude_self, progress)
    workers = current_workers()
    block_bytes = None if chunk_size is None else parse_bytes(chunk_size)
    runner = Runner(inputs, workers, block_bytes, run_dir, progress)
    if checkpoint is None:
        parts, n_reused = _in_memory(inputs, runner), 0
    else:
        parts, n_reused = resume.search(inputs, runner, checkpoint, identity)
    seconds, peak = time.perf_counter() - started, workers.peak_rss()
    truths = []
    for end in inputs.ends:
        part = parts[end]
        run = RunReport(runner.n_blocks, seconds, runner.projection, peak, n_reused)
        fingerprint = inputs.fingerprint(0, end, identity)
        truths.append(answer(inputs.question, part, fingerprint, own_rows(inputs), run))
    return truths[0] if prefixes is None else truths


def _in_memory(inputs: Inputs, runner: Runner) -> dict[int, Part]:
    """Search each segment once; the part of a prefix is that of all its segments."""
    pieces = [Piece(a, b, i) for i, (a, b) in enumerate(inputs.segments)]
    found = runner.search(pieces, InMemory(inputs.question.width))
    parts: dict[int, Part] = {}
    for piece, part in zip(pieces, found, strict=True):
        before = parts.get(piece.start)
        parts[piece.stop] = (
            part if before is None else combine([before, part], inputs.question.width)
        )
    return parts
