"""How a search is cut into blocks, and what its largest worker will need: integers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import dask.array as da

from haag_vq.arrays import plan_for
from haag_vq.errors import UsageError
from haag_vq.groundtruth import kernel
from haag_vq.groundtruth.part import combine_bytes
from haag_vq.groundtruth.precompile import compiler_bytes
from haag_vq.groundtruth.workspace import ceilings_bytes
from haag_vq.memory import (
    PROCESS_BYTES,
    Allowance,
    Projection,
    check_fits,
    format_bytes,
    needed_limit,
)
from haag_vq.partition import Partitions, plan_partitions
from haag_vq.sources import Metric, VectorSource
from haag_vq.workers import Workers

# A block knows of k-th neighbours what the blocks before it found: the fewer blocks, the fewer rows
# are scored in vain (10,000 queries: 128 MiB is 4% slower than 200, measured).
DEFAULT_BLOCK_BYTES = 256 << 20
LEAST_BLOCK_BYTES = 8 << 20

# A block ends within a minute on one core of any age (35 GFLOP/s): a job's worker that comes to its
# end does not wait for it.
MOST_BLOCK_FLOP = 2 * 10**12

# A process's first block scores k rows a query by D64 however few rows it has: with fewer than this
# many times k it would spend its time on that.
ROWS_PER_NEIGHBOUR = 64

# Without an order for its size, a search has this many blocks a worker: enough to even out
# workers of unlike speed, few enough to spend no time on merging. Arbitrary.
BLOCKS_PER_WORKER = 4

# Parts merged at once. A worker holds some of them until their siblings are done, on each level of
# the tree: 8 at once would be fewer merges, of milliseconds each, and more that wait.
MERGE_WIDTH = 4


@dataclass(frozen=True, slots=True)
class SearchShape:
    """The sizes that a search's memory follows from."""

    nq: int
    d: int
    k: int
    """Length of the lists."""
    metric: Metric
    scratch_bytes: int
    """What reading a block allocates beside it."""
    n_threads: int
    """Tasks that one worker runs at once."""
    n_segments: int = 1
    """Pieces into which asked prefixes cut the base."""
    on_disk: bool = False
    """Parts are kept in a checkpoint and do not wait in memory."""

    @classmethod
    def of(
        cls,
        queries: tuple[int, int],
        width: int,
        metric: Metric,
        ends: Sequence[int],
        scratch_bytes: int,
        workers: Workers,
        on_disk: bool,
    ) -> SearchShape:
        """Work out the sizes of a search on `workers` for ``queries = (nq, d)``.

        Parameters
        ----------
        width : int
            Length of the lists; no longer than the largest of the asked prefixes, `ends`.
        """
        return cls(
            queries[0],
            queries[1],
            min(width, max(ends)),
            metric,
            scratch_bytes,
            workers.n_threads,
            len(set(ends)),
            on_disk,
        )

    def projection(self, block_rows: int, n_blocks: int) -> Projection:
        """Projected bytes of a worker that searches some of `n_blocks` of up to `block_rows`."""
        part_bytes = self.nq * (self.k * 24 + 32)
        buffer_bytes = block_rows * self.d * 4
        search = kernel.workspace_bytes(block_rows, self.nq, self.d, self.k, self.metric)
        # A merge searches nothing: what it needs beyond the place of a block, whose buffers are
        # kept for the next, is what counts.
        merge = combine_bytes(self.nq, self.k)
        # Readers work side by side as long as their scratch is small beside the block.
        scratch = max(
            self.scratch_bytes, min(buffer_bytes // 4, kernel.MOST_READERS * self.scratch_bytes)
        )
        return Projection(
            buffer_bytes=buffer_bytes,
            scratch_bytes=scratch,
            search_bytes=max(search, merge - buffer_bytes - scratch),
            # The queries, also while they are received; parts that wait to be merged; ceilings.
            results_bytes=self.nq * self.d * 4 * 2
            + self._n_waiting(n_blocks) * part_bytes
            + ceilings_bytes(self.nq, self.k, self.n_segments),
            process_bytes=PROCESS_BYTES + compiler_bytes(),
            n_threads=self.n_threads,
        )

    def _n_waiting(self, n_blocks: int) -> int:
        """Parts that a worker may hold beside those in the making.

        Dask takes blocks in order and merges before it goes on: at most one merge's parts are
        there, and on each level above it those that wait for one more.
        """
        if self.on_disk:
            return 1
        waiting, nodes = min(MERGE_WIDTH, n_blocks), -(-n_blocks // MERGE_WIDTH)
        while nodes > 1:
            waiting += min(MERGE_WIDTH, nodes) - 1
            nodes = -(-nodes // MERGE_WIDTH)
        return waiting


def plan_blocks(
    pieces: Sequence[VectorSource],
    shape: SearchShape,
    n_workers: int,
    allowance: Allowance,
    block_bytes: int | None,
) -> tuple[list[Partitions], Projection]:
    """Cut pieces of a base into search blocks that fit the workers' allowance.

    Parameters
    ----------
    block_bytes : int, optional
        The most that a block may take, as ordered. Without it the size follows from the
        number of workers and from what they may use.

    Raises
    ------
    InsufficientMemoryError
        If the ordered blocks, or the smallest that make sense, do not fit: the message says
        what would.
    UsageError
        If not one row fits in the ordered size.
    """
    row_bytes = shape.d * 4
    if block_bytes is None:
        n_rows = sum(piece.n_rows for piece in pieces)
        share = n_rows * row_bytes // max(1, n_workers * BLOCKS_PER_WORKER) + row_bytes
        enough = ROWS_PER_NEIGHBOUR * shape.k * row_bytes
        in_time = MOST_BLOCK_FLOP // max(1, 2 * shape.nq * shape.d) * row_bytes
        wanted = min(DEFAULT_BLOCK_BYTES, in_time, max(share, enough))
        most = max(LEAST_BLOCK_BYTES, row_bytes, wanted)
        block_bytes = _largest_that_fits(pieces, shape, most, allowance) or most
        block_bytes = _even(pieces, row_bytes, block_bytes)
    if block_bytes < row_bytes:
        raise UsageError(
            f"a block of {format_bytes(block_bytes)} cannot hold one row of {row_bytes:,} bytes; "
            "raise chunk_size (--chunk-size)."
        )
    plans = [plan_for(piece, block_bytes) for piece in pieces]
    max_rows, projection = _project(plans, shape)
    check_fits(
        f"searching a block of {max_rows:,} rows for {shape.nq:,} queries, "
        f"lists of {shape.k:,} (k and 2 more),",
        projection,
        allowance,
        _remedy(pieces, shape, block_bytes, projection, allowance),
    )
    return plans, projection


def plan_spans(
    source: VectorSource,
    spans: Sequence[tuple[int, int]],
    shape: SearchShape,
    workers: Workers,
    block_bytes: int | None,
) -> tuple[list[Partitions], Projection]:
    """Cut ranges of a source's rows into blocks for `workers`; otherwise as `plan_blocks`."""
    return plan_blocks(
        [source.narrow(start, stop) for start, stop in spans],
        shape,
        max(1, workers.n_workers) * workers.n_threads,
        workers.allowance,
        block_bytes,
    )


def _project(plans: Sequence[Partitions], shape: SearchShape) -> tuple[int, Projection]:
    max_rows = max((plan.max_rows for plan in plans), default=0)
    return max_rows, shape.projection(max_rows, sum(len(plan) for plan in plans))


def _largest_that_fits(
    pieces: Sequence[VectorSource], shape: SearchShape, block_bytes: int, allowance: Allowance
) -> int | None:
    """Halve the size of a block until it fits; None if not even the smallest does."""
    while block_bytes >= max(LEAST_BLOCK_BYTES, shape.d * 4):
        plans = [plan_partitions(piece.edges, shape.d * 4, block_bytes) for piece in pieces]
        if _project(plans, shape)[1].total_bytes <= allowance.bytes:
            return block_bytes
        block_bytes //= 2
    return None


def _even(pieces: Sequence[VectorSource], row_bytes: int, block_bytes: int) -> int:
    """Return the size with which as many blocks are of one length, where there is one.

    A process scores k rows a query in its first block, however short: were it a short last one,
    that would be done twice (3% of a search of seven blocks, measured).
    """
    n_blocks = sum(len(plan_partitions(p.edges, row_bytes, block_bytes)) for p in pieces)
    n_rows = sum(piece.n_rows for piece in pieces)
    even = -(-n_rows // max(1, n_blocks)) * row_bytes
    if even < row_bytes:
        return block_bytes
    n_even = sum(len(plan_partitions(p.edges, row_bytes, even)) for p in pieces)
    return even if n_even == n_blocks else block_bytes


def check_array(array: da.Array, shape: SearchShape, allowance: Allowance) -> Projection:
    """Project the largest task of a foreign array: its own graph's memory is not known.

    Raises
    ------
    InsufficientMemoryError
        If its largest block does not fit.
    """
    rows = max((int(n) for n in array.chunks[0]), default=0)
    # The block as Dask delivers it, beside its float32 form.
    stored = rows * shape.d * array.dtype.itemsize
    projection = replace(shape.projection(rows, len(array.chunks[0])), scratch_bytes=stored)
    check_fits(
        f"searching a block of {rows:,} rows of the array",
        projection,
        allowance,
        f"Rechunk it to fewer rows, or give each worker {format_bytes(needed_limit(projection))}.",
    )
    return projection


def _remedy(
    pieces: Sequence[VectorSource],
    shape: SearchShape,
    block_bytes: int,
    projection: Projection,
    allowance: Allowance,
) -> str:
    """Say which smaller chunk would fit, if any, and which memory limit would."""
    limit = format_bytes(needed_limit(projection))
    smaller = _largest_that_fits(pieces, shape, block_bytes // 2, allowance)
    if smaller is not None:
        return (
            f"Use chunk_size={format_bytes(smaller)!r} (--chunk-size) or less, or give each "
            f"worker {limit} (--memory-limit; Slurm's --mem)."
        )
    on_disk = replace(shape, on_disk=True)
    if not shape.on_disk and _largest_that_fits(pieces, on_disk, block_bytes, allowance):
        return (
            "Keep the lists on disk (checkpoint=DIR, --checkpoint DIR), or give each worker "
            f"{limit} (--memory-limit; Slurm's --mem)."
        )
    return (
        f"No chunk size fits. Give each worker {limit} (--memory-limit; Slurm's --mem), or search "
        "fewer queries or a smaller k at a time."
    )
