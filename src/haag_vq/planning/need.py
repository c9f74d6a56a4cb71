"""What a job asks of the machine that runs it: the value that every kind of job gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from haag_vq.memory import Projection
from haag_vq.planning.sites import Site
from haag_vq.sources import VectorSource


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes that a job writes, by what for."""

    stage_bytes: int = 0
    """Copies of remote files."""
    checkpoint_bytes: int = 0
    """Finished lists, at the most while they are merged."""
    output_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of them."""
        return self.stage_bytes + self.checkpoint_bytes + self.output_bytes


@dataclass(frozen=True, slots=True)
class Work:
    """How much there is to do, whoever does it."""

    stored_bytes: int = 0
    """Read from files."""
    network_bytes: int = 0
    """Received from other machines."""
    kind: str = "float32"
    """How the vectors are stored: a name that rates of conversion have."""
    n_values: int = 0
    """Elements converted to float32, on all cores."""
    n_values_before: int = 0
    """Elements converted before that on one core: what the queries are read from."""
    flop: int = 0
    """Of the products: 2 · queries · rows · dimensions."""
    n_pairs: int = 0
    """(row, query) pairs looked at."""
    n_scored_values: int = 0
    """Elements of pairs that are scored in float64, about."""
    n_encoded_values: int = 0
    """Elements that are compared with the centroids of a product codec."""
    written_bytes: int = 0
    n_tasks: int = 1
    """Pieces that cannot be shared any further."""
    most_readers: int | None = None
    """Threads of one process that convert side by side; None: as many as it has cores."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a job takes at one site."""

    projection: Projection
    """Of the largest worker: the run's own."""
    refusal: str
    """What the run would say instead of starting; '' where it would start."""
    n_partitions: int
    max_rows: int
    """Of the largest partition."""
    disk: Disk
    work: Work


class Job(Protocol):
    """A job of the command line that can be planned.

    To have one more planned, write a value with these attributes, and let its command's module
    make it of parsed arguments (`planned`); `haag_vq.commands.plan` lists those modules.
    """

    @property
    def name(self) -> str:
        """The command."""

    @property
    def source(self) -> VectorSource | None:
        """The vectors, where it reads any."""

    @property
    def is_parallel(self) -> bool:
        """It runs on workers; otherwise in one process."""

    @property
    def resumes(self) -> bool:
        """What is finished when it ends early is kept."""

    def need(self, site: Site) -> Need:
        """Say what it takes there."""

    def alternatives(self, site: Site) -> Iterator[tuple[str, Job, Site]]:
        """Yield jobs that ask for less, nearest first, each with what to write otherwise."""


def kind_of(source: VectorSource) -> str:
    """Name the way in which a source's vectors are stored, as `Rates.convert` does."""
    if not source.files:
        return "synthetic" if not source.stored_bytes else "float32"
    name = source.dtype.name
    return name if source.starts_anywhere else f"parquet-{name}"


def remote_bytes(source: VectorSource) -> int:
    """Bytes of a source's vectors that are read over the network."""
    is_remote = any("://" in path for path in source.files[:1])
    return source.stored_bytes if is_remote else 0
