"""Jobs of one process: vectors into memory, by blocks, or into another file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from haag_vq.arrays import (
    DEFAULT_CHUNK_BYTES,
    READ_PIECE_BYTES,
    check_reading,
    plan_for,
    read_projection,
)
from haag_vq.errors import InsufficientMemoryError
from haag_vq.export import check_export, export_projection, output_bytes
from haag_vq.memory import Projection, check_fits, format_bytes
from haag_vq.partition import plan_partitions
from haag_vq.planning.need import Disk, Job, Need, Work, kind_of, remote_bytes
from haag_vq.planning.sites import Site
from haag_vq.sources import RangeSource, VectorSource
from haag_vq.sources.write import stored_dtype

LEAST_CHUNK_BYTES = 1 << 20


def refusal_of(check: Callable[[], object]) -> str:
    """Return what `check` would refuse a run with; '' if it lets it start."""
    try:
        check()
    except InsufficientMemoryError as error:
        return str(error)
    return ""


def work_of(source: VectorSource, written_bytes: int = 0) -> Work:
    """What reading a whole source takes, and writing so many bytes."""
    remote = remote_bytes(source)
    return Work(
        stored_bytes=source.stored_bytes - remote,
        network_bytes=remote,
        kind=kind_of(source),
        n_values=source.n_rows * source.dim,
        written_bytes=written_bytes,
    )


def largest(n_most: int, fits: Callable[[int], bool]) -> int:
    """Find about the largest number up to `n_most` that fits, where all below it do; 0 for none.

    To within 5%: what is said is rounded, and each question plans a whole job.
    """
    low, high = 0, n_most
    while low < high - low // 20:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def rounded(n: int) -> int:
    """Round down to two digits: a number that a person would write."""
    step = int(10 ** max(0, len(str(n)) - 2))
    return n - n % step


def halves(chunk_bytes: int, row_bytes: int) -> Iterator[int]:
    """Yield half a chunk's size, a quarter, and so on, while a row fits."""
    chunk = chunk_bytes // 2
    while chunk >= max(LEAST_CHUNK_BYTES, row_bytes):
        yield chunk
        chunk //= 2


def word(n_bytes: int) -> str:
    """Write a size as one word of a command line."""
    return format_bytes(n_bytes).replace(" ", "")


@dataclass(frozen=True, slots=True)
class LoadJob:
    """``dataset.compute()``: all vectors into one float32 array."""

    source: VectorSource
    name: str = "load"
    is_parallel: bool = False
    resumes: bool = False

    def need(self, site: Site) -> Need:
        """Memory of the array and the readers."""
        source = self.source
        projection = read_projection(source, site.cores)
        plan = plan_partitions(source.edges, source.dim * 4, max(READ_PIECE_BYTES, source.dim * 4))
        return Need(
            projection,
            refusal_of(lambda: check_reading(source, projection, site.allowance)),
            len(plan),
            plan.max_rows,
            Disk(),
            work_of(source),
        )

    def alternatives(self, site: Site) -> Iterator[tuple[str, Job, Site]]:
        """Fewer rows, or all of them by blocks."""

        def first(n: int) -> LoadJob:
            return replace(self, source=RangeSource(self.source, 0, n))

        n = largest(self.source.n_rows - 1, lambda n: not first(n).need(site).refusal)
        if n:
            yield f"--limit {rounded(n)}, or a sample of as many", first(rounded(n)), site
        yield "all rows, streamed by blocks (dataset.vectors)", StreamJob(self.source), site


@dataclass(frozen=True, slots=True)
class StreamJob:
    """``dataset.vectors``, one block after the other: nothing is kept."""

    source: VectorSource
    chunk_bytes: int = DEFAULT_CHUNK_BYTES
    name: str = "load"
    is_parallel: bool = False
    resumes: bool = False

    def need(self, site: Site) -> Need:
        """Memory of one block and its reader."""
        plan = plan_for(self.source, self.chunk_bytes)
        projection = Projection(
            plan.max_rows * self.source.dim * 4, scratch_bytes=self.source.scratch_bytes
        )
        remedy = "Take a smaller chunk_size."
        return Need(
            projection,
            refusal_of(lambda: check_fits("a block", projection, site.allowance, remedy)),
            len(plan),
            plan.max_rows,
            Disk(),
            work_of(self.source),
        )

    def alternatives(self, site: Site) -> Iterator[tuple[str, Job, Site]]:
        """Smaller blocks."""
        for chunk in halves(self.chunk_bytes, self.source.dim * 4):
            yield f"chunk_size={format_bytes(chunk)!r}", replace(self, chunk_bytes=chunk), site


@dataclass(frozen=True, slots=True)
class ExportJob:
    """`haag-vq export`: a partition is read while the one before is written."""

    source: VectorSource
    out: str
    dtype: str | None
    chunk_bytes: int
    name: str = "export"
    is_parallel: bool = False
    resumes: bool = False

    def need(self, site: Site) -> Need:
        """Memory of three partitions, disk of the output."""
        source = self.source
        stored = stored_dtype(Path(self.out), self.dtype)
        plan = plan_partitions(source.edges, source.dim * 4, self.chunk_bytes)
        size = output_bytes(source, Path(self.out), stored)
        work = work_of(source, written_bytes=size)
        return Need(
            export_projection(source, self.chunk_bytes),
            refusal_of(lambda: check_export(source, self.chunk_bytes, site.allowance)),
            len(plan),
            plan.max_rows,
            Disk(output_bytes=size),
            # One thread reads, another converts back and writes.
            replace(work, most_readers=1),
        )

    def alternatives(self, site: Site) -> Iterator[tuple[str, Job, Site]]:
        """Smaller partitions."""
        for chunk in halves(self.chunk_bytes, self.source.dim * 4):
            yield f"--chunk-size {word(chunk)}", replace(self, chunk_bytes=chunk), site
