"""How a search is cut into blocks, and what its largest worker will need: integers only."""

from __future__ import annotations

from dataclasses import dataclass

from haag_vq.arrays import plan_for
from haag_vq.errors import UsageError
from haag_vq.groundtruth import kernel
from haag_vq.groundtruth.part import combine_bytes
from haag_vq.memory import Allowance, Projection, check_fits, format_bytes, needed_limit
from haag_vq.partition import Partitions
from haag_vq.sources import Metric, VectorSource

DEFAULT_BLOCK_BYTES = 128 << 20
LEAST_BLOCK_BYTES = 8 << 20

# A block's k candidates a query are scored by D64 however few rows it has: blocks of fewer rows
# than this many times k would spend their time on that.
ROWS_PER_CANDIDATE = 64

# Without an order for its size, a search has this many blocks a worker: enough to even out
# workers of unlike speed, few enough to spend no time on merging. Arbitrary.
BLOCKS_PER_WORKER = 4

# Parts merged at once. A worker holds some of them until their siblings are done.
MERGE_WIDTH = 8


@dataclass(frozen=True, slots=True)
class SearchShape:
    """The sizes that a search's memory follows from."""

    nq: int
    d: int
    k: int
    metric: Metric
    scratch_bytes: int
    """What reading a block allocates beside it."""
    n_threads: int
    """Tasks that one worker runs at once."""
    n_rows: int = 1 << 40
    """Rows of the base; they say how many parts can wait to be merged."""

    def projection(self, block_rows: int) -> Projection:
        """Projected bytes of a worker that searches blocks of `block_rows`."""
        part_bytes = self.nq * self.k * 16
        buffer_bytes = block_rows * self.d * 4
        search = kernel.workspace_bytes(block_rows, self.nq, self.d, self.k, self.metric)
        # A merge has no block beside it: what it needs beyond one's place is what counts.
        merge = part_bytes + combine_bytes(MERGE_WIDTH, self.k)
        return Projection(
            buffer_bytes=buffer_bytes,
            scratch_bytes=self.scratch_bytes,
            search_bytes=max(search, merge - buffer_bytes - self.scratch_bytes),
            # The queries, also while they are received, and parts that wait to be merged.
            results_bytes=self.nq * self.d * 4 * 2 + self._n_waiting(block_rows) * part_bytes,
            n_threads=self.n_threads,
        )

    def _n_waiting(self, block_rows: int) -> int:
        """Parts that a worker may hold: at most one merge's, on each level of the tree.

        Dask takes blocks in order and merges before it goes on, so a level never holds more.
        """
        # Edges can leave blocks half full, hence twice as many.
        n_blocks = 2 * -(-self.n_rows // max(1, block_rows))
        levels = 1
        while MERGE_WIDTH**levels < n_blocks:
            levels += 1
        return min(n_blocks, levels * MERGE_WIDTH)


def plan_blocks(
    source: VectorSource,
    shape: SearchShape,
    n_workers: int,
    allowance: Allowance,
    block_bytes: int | None,
) -> tuple[Partitions, Projection]:
    """Cut a source into search blocks that fit the workers' allowance.

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
    row_bytes = source.dim * 4
    least = max(LEAST_BLOCK_BYTES, row_bytes)
    if block_bytes is None:
        share = source.n_rows * row_bytes // max(1, n_workers * BLOCKS_PER_WORKER) + row_bytes
        enough = ROWS_PER_CANDIDATE * (shape.k + kernel.SPARE) * row_bytes
        block_bytes = max(least, min(DEFAULT_BLOCK_BYTES, max(share, enough)))
        while block_bytes > least and not _fits(shape, block_bytes, allowance):
            block_bytes = max(least, block_bytes // 2)
    if block_bytes < row_bytes:
        raise UsageError(
            f"a block of {format_bytes(block_bytes)} cannot hold one row of {row_bytes:,} bytes; "
            "raise chunk_size (--chunk-size)."
        )
    partitions = plan_for(source, block_bytes)
    projection = shape.projection(partitions.max_rows)
    check_fits(
        f"searching a block of {partitions.max_rows:,} rows for {shape.nq:,} queries, k={shape.k}",
        projection,
        allowance,
        _remedy(shape, partitions.max_rows, allowance),
    )
    return partitions, projection


def _fits(shape: SearchShape, block_bytes: int, allowance: Allowance) -> bool:
    rows = block_bytes // (shape.d * 4)
    return shape.projection(rows).total_bytes <= allowance.bytes


def _remedy(shape: SearchShape, block_rows: int, allowance: Allowance) -> str:
    """Say which smaller chunk would fit, if any, and which memory limit would."""
    limit = format_bytes(needed_limit(shape.projection(block_rows)))
    size = block_rows * shape.d * 4
    while size > LEAST_BLOCK_BYTES:
        size //= 2
        if _fits(shape, size, allowance):
            return (
                f"Use chunk_size={format_bytes(size)!r} (--chunk-size) or less, or give each "
                f"worker {limit} (--memory-limit; Slurm's --mem)."
            )
    return (
        f"No chunk size fits. Give each worker {limit} (--memory-limit; Slurm's --mem), or search "
        "fewer queries or a smaller k at a time."
    )
