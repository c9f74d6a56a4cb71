"""The public search: check, plan, refuse or run, certify."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from haag_vq.arrays import check_whole_rows, read_array
from haag_vq.errors import DataError, UsageError, whole_number
from haag_vq.groundtruth import d64, graph
from haag_vq.groundtruth.blocks import SearchShape, plan_blocks
from haag_vq.groundtruth.part import finalize
from haag_vq.groundtruth.result import GroundTruth, RunReport
from haag_vq.memory import Projection, check_fits, format_bytes, needed_limit, parse_bytes
from haag_vq.progress import ProgressLine
from haag_vq.sources import ArraySource, Metric, VectorSource, check_metric
from haag_vq.sources.protocol import STORED_DTYPES
from haag_vq.workers import Workers, current_workers, run

F32 = NDArray[np.float32]


@runtime_checkable
class HasSource(Protocol):
    """What a dataset is to the search: something with a source."""

    @property
    def source(self) -> VectorSource:
        """Where the rows are."""


def ground_truth(
    base: Any,
    queries: Any = None,
    k: int = 100,
    metric: str = "l2",
    *,
    chunk_size: int | str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> GroundTruth:
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
    chunk_size : int or str, optional
        The most bytes of one block, as ``"128MiB"``. By default blocks are as large as helps
        and fits, up to 128 MiB.
    run_dir : path-like, optional
        Directory that all workers see, for queries above 1 MiB. By default the system's
        temporary directory, or the current one where workers are on other machines.
    progress : bool
        Show a line of progress on standard error.

    Returns
    -------
    GroundTruth
        ``ids`` (nq, k) int64, ``distances`` (nq, k) float64: squared distance ascending for l2,
        similarity descending for ip and cosine. Equal distances are ordered by id.

    Raises
    ------
    UsageError
        If k is larger than the base, dimensions differ, or an argument is unknown.
    DataError
        If rows or queries are not finite, or zero under cosine: file and rows are named.
    InsufficientMemoryError
        If a task would pass a worker's allowance; nothing has been read then.
    CertificateError
        If the answer could not be proven. It never is returned unproven.

    Notes
    -----
    Exact for the float32 rows of the base: distances are those of `groundtruth.d64`, and the
    answer is the same to the bit for any chunk size, scheduler, workers and order of arrival.
    It runs on the Dask client in force, else on Dask's local scheduler. Memory of a worker: one
    block, the source's scratch, the queries twice, about 100–200 MiB of search workspace and
    ``16·nq·k`` bytes for each part at hand; projected before the run and refused if too much.
    """
    started = time.perf_counter()
    k = whole_number("k", k)
    chosen = _choose_metric(metric, base)
    xq = _load_queries(queries, base)
    target = base.source if isinstance(base, HasSource) else base
    if isinstance(target, np.ndarray):
        target = ArraySource(target)
    if not isinstance(target, VectorSource | da.Array):
        raise UsageError(f"cannot search in a {type(base).__name__}; open it with open_dataset().")
    n_rows, dim = _shape_of(target)
    _check_arguments(n_rows, dim, xq, k, chosen)
    block_bytes = None if chunk_size is None else parse_bytes(chunk_size)
    workers = current_workers()
    search = graph.Search(k, chosen, workers.search_threads)
    shape = SearchShape(
        len(xq), dim, k, chosen, getattr(target, "scratch_bytes", 0), workers.n_threads, n_rows
    )
    with _sendable(xq, workers, run_dir) as sent:
        if isinstance(target, VectorSource):
            n_at_once = max(1, workers.n_workers) * workers.n_threads
            partitions, projection = plan_blocks(
                target, shape, n_at_once, workers.allowance, block_bytes
            )
            n_parts = len(partitions)
            merged, group = graph.search_source(target, partitions, sent, search)
        else:
            projection = _check_array(target, shape, workers)
            n_parts = len(target.chunks[0])
            merged, group = graph.search_array(target, sent, search)
        line = ProgressLine("blocks", n_parts) if progress else None
        try:
            part = run(merged, workers, group, n_parts, line)
        finally:
            if line is not None:
                line.close()
    keys, ids = finalize(part, k)
    report = RunReport(
        n_parts, time.perf_counter() - started, projection, workers.peak_rss(), part.n_widened
    )
    return GroundTruth(
        ids,
        keys if chosen == "l2" else 0.0 - keys,
        chosen,
        n_rows,
        dim,
        target.fingerprint if isinstance(target, VectorSource) else "",
        hashlib.sha256(xq.data).hexdigest(),
        getattr(base, "query_rows", None) if queries is None else None,
        report,
    )


def _choose_metric(metric: str, base: Any) -> Metric:
    if metric == "auto":
        own = getattr(base, "metric", None)
        if own is None:
            raise UsageError(
                "metric='auto', but this base has no metric of its own: pass l2, ip or cosine."
            )
        return check_metric(own)
    return check_metric(metric)


def _load_queries(queries: Any, base: Any) -> F32:
    """Read queries from wherever they are into one finite (nq, d) float32 array."""
    if queries is None:
        queries = getattr(base, "queries", None)
        if queries is None:
            raise UsageError("this base has no queries of its own: pass queries=.")
    if isinstance(queries, HasSource):
        queries = queries.source
    if isinstance(queries, da.Array):
        queries = queries.compute()
    if not isinstance(queries, VectorSource):
        queries = ArraySource(np.asarray(queries), name="the array of queries")
    return read_array(queries)


def _shape_of(target: VectorSource | da.Array) -> tuple[int, int]:
    if isinstance(target, VectorSource):
        return target.n_rows, target.dim
    check_whole_rows(target)
    return int(target.shape[0]), int(target.shape[1])


def _check_arguments(n_rows: int, dim: int, xq: F32, k: int, metric: Metric) -> None:
    if xq.shape[1] != dim:
        raise UsageError(
            f"the queries have dimension {xq.shape[1]:,}, the base has {dim:,}: "
            "they must be embedded by one model (or cut to the same dims)."
        )
    if not len(xq):
        raise UsageError("there are no queries.")
    if not 1 <= k <= n_rows:
        raise UsageError(f"k={k:,} neighbours asked of a base of {n_rows:,} rows: take 1 to that.")
    if metric == "cosine":
        zero = np.flatnonzero(d64.squared_norms(xq) == 0)
        if len(zero):
            raise DataError(
                f"{len(zero):,} zero vector(s) among the queries, the first is query "
                f"{int(zero[0]):,}: the cosine with a zero vector is not defined."
            )


def _check_array(array: da.Array, shape: SearchShape, workers: Workers) -> Projection:
    """Project the largest task of a foreign array: its own graph's memory is not known."""
    if array.dtype.name not in STORED_DTYPES:
        raise UsageError(
            f"the array holds {array.dtype}; vectors are {', '.join(STORED_DTYPES)}. Convert it "
            "with .astype('float32')."
        )
    rows = max((int(n) for n in array.chunks[0]), default=0)
    # The block as Dask delivers it, and its float32 form.
    projection = shape.projection(rows)
    stored = rows * shape.d * array.dtype.itemsize
    projection = Projection(
        projection.buffer_bytes,
        stored,
        projection.search_bytes,
        projection.results_bytes,
        n_threads=shape.n_threads,
    )
    check_fits(
        f"searching a block of {rows:,} rows of the array",
        projection,
        workers.allowance,
        f"Rechunk it to fewer rows, or give each worker {format_bytes(needed_limit(projection))}.",
    )
    return projection


def _sendable(
    xq: F32, workers: Workers, run_dir: str | os.PathLike[str] | None
) -> AbstractContextManager[Any]:
    """Queries as the tasks get them: in the graph, or above 1 MiB in a file all workers see."""
    if workers.shares_memory:
        return nullcontext(xq)
    if run_dir is None and workers.client is not None and not _is_local(workers.client):
        run_dir = os.getcwd()
    return graph.spilled(xq, run_dir)


def _is_local(client: Any) -> bool:
    address = str(client.scheduler.address)
    return address.startswith("inproc://") or "://127.0.0.1:" in address
