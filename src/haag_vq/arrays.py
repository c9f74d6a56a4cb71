"""A source and its partitions as a Dask array: the only module that builds a loading graph.

The layer is lazy: a block's task is made when the block is asked for, and carries a source
narrowed to that block, so a task pickles to a few hundred bytes however many shards there are.
Each task is Dask's own ``getter`` on an adapter, which lets Dask fuse a following slice into
it: ``vectors[a:b]`` reads rows ``a:b``, not the chunks around them.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import getter
from dask.blockwise import BlockwiseDep, blockwise
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from haag_vq.errors import UsageError
from haag_vq.memory import (
    PROCESS_BYTES,
    Allowance,
    Projection,
    check_fits,
    n_cores,
    process_allowance,
    rss_bytes,
)
from haag_vq.partition import Partitions, plan_partitions, widest_gap
from haag_vq.sources import VectorSource

F32 = NDArray[np.float32]

DEFAULT_CHUNK_BYTES = 128 << 20

# Pieces of a whole-array read: small enough that threads end together, large enough that a
# Parquet row group is seldom cut. Arbitrary within 8–64 MiB.
READ_PIECE_BYTES = 32 << 20


class SourceArray:
    """A source with NumPy's basic indexing: ints, slices with steps, negative, columns.

    Every read allocates one float32 buffer and fills it once. Only the rows asked for are read.
    """

    ndim = 2

    def __init__(self, source: VectorSource) -> None:
        self._source = source
        self.shape = (source.n_rows, source.dim)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, index: Any) -> Any:
        rows, columns = _basic_index(index)
        found: Any
        if isinstance(rows, slice):
            found = self._read(rows)[:, columns]
        else:
            row = _normal_row(rows, self.shape[0])
            found = self._read(slice(row, row + 1))[0, columns]
        # A view of some columns would keep the whole buffer alive in a worker's memory.
        return np.ascontiguousarray(found) if isinstance(found, np.ndarray) else found

    def _read(self, rows: slice) -> F32:
        start, stop, step = rows.indices(self.shape[0])
        picked = range(start, stop, step)
        out = np.empty((len(picked), self.shape[1]), np.float32)
        if not len(picked):
            return out
        if step == 1:
            self._source.read_into(start, out)
        else:
            ascending = np.array(picked if step > 0 else picked[::-1], dtype=np.int64)
            self._source.take_into(ascending, out)
        return out if step > 0 else out[::-1]


class _Blocks(BlockwiseDep):  # type: ignore[misc, unused-ignore]
    """The source of each block, narrowed when it is asked for."""

    produces_tasks = False

    def __init__(self, source: VectorSource, partitions: Partitions) -> None:
        self._source = source
        self._bounds = partitions.bounds
        self.numblocks = (len(partitions), 1)

    def __getitem__(self, index: tuple[int, ...]) -> SourceArray:
        start, stop = (int(n) for n in self._bounds[index[0] : index[0] + 2])
        return SourceArray(self._source.narrow(start, stop))


class _WholeBlock(BlockwiseDep):  # type: ignore[misc, unused-ignore]
    """The index of a whole block within its own adapter."""

    produces_tasks = False

    def __init__(self, partitions: Partitions, dim: int) -> None:
        self._bounds = partitions.bounds
        self._dim = dim
        self.numblocks = (len(partitions), 1)

    def __getitem__(self, index: tuple[int, ...]) -> tuple[slice, slice]:
        start, stop = (int(n) for n in self._bounds[index[0] : index[0] + 2])
        return slice(0, stop - start), slice(0, self._dim)


def plan_for(source: VectorSource, chunk_bytes: int) -> Partitions:
    """Cut a source into blocks, and warn where that cuts row groups that are decoded whole."""
    edges = source.edges
    partitions = plan_partitions(edges, source.dim * 4, chunk_bytes)
    gap, most = widest_gap(edges), partitions.max_rows
    if not source.starts_anywhere and gap > most and not np.isin(partitions.bounds, edges).all():
        warnings.warn(
            f"row groups of up to {gap:,} rows are larger than a block of {most:,}: such a group "
            f"is decoded about {1 + gap // (2 * most)} times. Raise chunk_size (--chunk-size), "
            "or export the set to .npy first (haag-vq export).",
            stacklevel=3,
        )
    return partitions


def to_dask_array(source: VectorSource, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> da.Array:
    """Make a lazy (n_rows, dim) float32 Dask array of a source.

    Parameters
    ----------
    source : VectorSource
    chunk_bytes : int
        The most that one block takes. Blocks hold whole rows and end at shard and row-group
        edges where they can.

    Returns
    -------
    dask.array.Array
        Nothing has been read. Memory of a block's task: the block and the source's scratch.
    """
    partitions = plan_for(source, chunk_bytes)
    # A name of its own: two arrays of one path are not one, if the file changed in between.
    name = f"vectors-{uuid.uuid4().hex}"
    if not len(partitions):
        return da.zeros((0, source.dim), dtype=np.float32, chunks=(0, source.dim))
    layer = blockwise(
        getter,
        name,
        "ij",
        _Blocks(source, partitions),
        "ij",
        _WholeBlock(partitions, source.dim),
        "ij",
        numblocks={},
        _data_producer=True,
        asarray=False,
    )
    graph = HighLevelGraph.from_collections(name, layer)
    return da.Array(graph, name, chunks=(partitions.sizes, (source.dim,)), dtype=np.float32)


def read_projection(
    source: VectorSource, n_threads: int, process_bytes: int = PROCESS_BYTES
) -> Projection:
    """Projected bytes of a process that reads a whole source into one array."""
    return Projection(
        source.n_rows * source.dim * 4,
        scratch_bytes=n_threads * source.scratch_bytes,
        process_bytes=process_bytes,
    )


def check_reading(source: VectorSource, projection: Projection, allowance: Allowance) -> None:
    """Raise InsufficientMemoryError if the array and what reads into it do not fit."""
    check_fits(
        f"reading {source.n_rows:,} × {source.dim} vectors into one array",
        projection,
        allowance,
        "Take fewer with limit= or sample(), or work by blocks on dataset.vectors.",
    )


def read_array(source: VectorSource, n_threads: int | None = None) -> F32:
    """Read a whole source into one (n_rows, dim) float32 array with this process's threads.

    The array is allocated once and filled in place; nothing passes through a scheduler, which
    would hold every chunk beside it.

    Raises
    ------
    InsufficientMemoryError
        If the array and the readers' scratch do not fit this process's allowance.
    """
    threads = n_threads or n_cores()
    process_bytes = max(PROCESS_BYTES, rss_bytes())
    check_reading(source, read_projection(source, threads, process_bytes), process_allowance())
    out = np.empty((source.n_rows, source.dim), np.float32)
    edges, row_bytes = source.edges, source.dim * 4
    # A row group that is cut is decoded twice; here whole ones cost no more memory.
    uncut = 0 if source.starts_anywhere else widest_gap(edges) * row_bytes
    pieces = plan_partitions(edges, row_bytes, max(READ_PIECE_BYTES, row_bytes, uncut))
    fill_pieces(source, list(pieces), out, threads)
    return out


def fill_pieces(
    source: VectorSource, pieces: list[tuple[int, int]], out: F32, n_threads: int
) -> None:
    """Read row ranges into their places in `out`, several at a time; the first error ends it."""

    def read(piece: tuple[int, int]) -> None:
        source.read_into(piece[0], out[piece[0] : piece[1]])

    run_all(read, pieces, n_threads)


def run_all(
    work: Callable[[tuple[int, int]], None], items: list[tuple[int, int]], n_threads: int
) -> None:
    """Do work for row ranges on threads of its own; the first error ends it."""
    if n_threads == 1 or len(items) <= 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(min(n_threads, len(items))) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
        for future in done:
            future.result()


def _basic_index(index: Any) -> tuple[Any, Any]:
    """Split a basic index into one for rows and one for columns."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(part is Ellipsis for part in parts):
        at = next(i for i, part in enumerate(parts) if part is Ellipsis)
        fill = (slice(None),) * (2 - (len(parts) - 1))
        parts = (*parts[:at], *fill, *parts[at + 1 :])
    parts = (*parts, *(slice(None),) * (2 - len(parts)))
    for part in parts:
        # A bool is an int to Python and a mask to NumPy.
        if isinstance(part, bool) or not isinstance(part, slice | int | np.integer):
            raise IndexError(
                f"only ints and slices index vectors directly, not {type(part).__name__}; "
                "use take() for chosen rows"
            )
    if len(parts) > 2:
        raise IndexError(f"too many indices: vectors have 2 dimensions, {len(parts)} were given")
    return parts


def _normal_row(row: Any, n_rows: int) -> int:
    if not -n_rows <= row < n_rows:
        raise IndexError(f"row {row:,} is out of bounds: there are {n_rows:,} rows")
    return int(row) % n_rows


def check_whole_rows(array: da.Array) -> None:
    """Raise UsageError unless a Dask array is two-dimensional with blocks of whole rows."""
    if array.ndim != 2:
        raise UsageError(f"a two-dimensional array of vectors is needed, not {array.ndim} dims")
    if len(array.chunks[1]) != 1:
        raise UsageError(
            f"blocks must hold whole rows, but the columns are cut into {array.chunks[1]}. "
            "Use array.rechunk({1: -1}) first."
        )
    if any(np.isnan(n) for n in array.chunks[0]):
        raise UsageError("the array has unknown chunk sizes; call compute_chunk_sizes() first.")
