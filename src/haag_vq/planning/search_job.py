"""`haag-vq ground-truth` as a job to plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from haag_vq.data import VectorDataset
from haag_vq.errors import InsufficientMemoryError
from haag_vq.groundtruth.forecast import Forecast, forecast
from haag_vq.groundtruth.kernel import n_readers
from haag_vq.memory import parse_bytes
from haag_vq.planning.jobs import halves, largest, rounded, word
from haag_vq.planning.need import Disk, Job, Need, Work, kind_of, remote_bytes
from haag_vq.planning.sites import Site
from haag_vq.sources import Metric, VectorSource
from haag_vq.workers import Workers

# A site's memory while it is asked what a job that does not fit would take.
_UNLIMITED = 1 << 60

# Bytes a neighbour takes in the largest format: id and distance, 8 each.
_OUTPUT_BYTES = 16

LEAST_CHUNK = 8 << 20

# A worker's first block takes so many times what scoring its lists does: it finds the ceilings and
# touches its buffers (1.3 to 4.5 measured).
OPENING = 3.0


@dataclass(frozen=True, slots=True)
class SearchJob:
    """Exact neighbours of some queries."""

    source: VectorSource
    n_queries: int
    k: int
    metric: Metric
    ends: tuple[int, ...]
    """Rows of each asked prefix."""
    rows: tuple[int, int] | None = None
    """Search these alone, in this process."""
    chunk_bytes: int | None = None
    checkpoint: str | None = None
    query_values: int = 0
    """Elements that are decoded to read the queries (`query_values`)."""
    on_disk: bool = False
    """The lists go to a checkpoint that is new, wherever it is."""
    name: str = "ground-truth"

    @property
    def is_parallel(self) -> bool:
        """On workers, unless some rows are searched alone."""
        return self.rows is None

    @property
    def resumes(self) -> bool:
        """With a checkpoint."""
        return self.on_disk or self.checkpoint is not None

    def need(self, site: Site) -> Need:
        """What the run itself would project, blocks and all."""
        refusal = ""
        try:
            found = self._forecast(site.workers)
        except InsufficientMemoryError as error:
            refusal = str(error)
            found = self._forecast(replace(site, limit_bytes=_UNLIMITED).workers)
        readers = n_readers(site.cores, self.source.scratch_bytes, found.projection.buffer_bytes)
        return Need(
            found.projection,
            refusal,
            found.n_blocks,
            found.max_rows,
            Disk(
                checkpoint_bytes=found.checkpoint_bytes,
                output_bytes=len(self.ends) * self.n_queries * self.k * _OUTPUT_BYTES,
            ),
            self._work(found, site.n_workers, readers),
        )

    def _forecast(self, workers: Workers) -> Forecast:
        return forecast(
            self.source,
            self.n_queries,
            self.k,
            self.metric,
            self.ends,
            workers,
            rows=self.rows,
            checkpoint=self.checkpoint,
            on_disk=self.resumes,
            block_bytes=self.chunk_bytes,
        )

    def _work(self, found: Forecast, n_workers: int, readers: int) -> Work:
        source, n_rows = self.source, found.n_rows
        share = n_rows / max(1, source.n_rows)
        remote = int(remote_bytes(source) * share)
        # A worker's first block scores all places of its lists, its j-th about one in j.
        busy = max(1, min(n_workers, found.n_blocks))
        rounds = OPENING + math.log(max(1, found.n_blocks / busy))
        width = min(found.width, n_rows)
        return Work(
            stored_bytes=int(source.stored_bytes * share) - remote,
            network_bytes=remote,
            kind=kind_of(source),
            n_values=n_rows * source.dim,
            n_values_before=self.query_values,
            flop=2 * self.n_queries * n_rows * source.dim,
            n_pairs=self.n_queries * n_rows,
            n_scored_values=int(busy * self.n_queries * width * rounds * source.dim),
            written_bytes=found.checkpoint_bytes,
            n_tasks=max(1, found.n_blocks),
            most_readers=readers,
        )

    def alternatives(self, site: Site) -> Iterator[tuple[str, Job, Site]]:
        """The same answer with less, then fewer queries at once, then fewer rows."""
        if site.request is None and site.n_workers > 1:
            limit = word(site.limit_bytes * site.n_workers)
            cores = site.cores * site.n_workers
            less = replace(site, n_workers=1, cores=cores, limit_bytes=parse_bytes(limit))
            yield f"--workers 1 --memory-limit {limit}", self, less
        if self.chunk_bytes is not None:
            for chunk in halves(self.chunk_bytes, max(LEAST_CHUNK, self.source.dim * 4)):
                yield f"--chunk-size {word(chunk)}", replace(self, chunk_bytes=chunk), site
        if self.checkpoint is None:
            yield (
                "--checkpoint DIR, which keeps the lists on disk",
                replace(self, on_disk=True),
                site,
            )
        # Another checkpoint: one is of all its queries.
        some = replace(self, checkpoint=None, on_disk=self.resumes)
        n = largest(self.n_queries - 1, lambda n: not replace(some, n_queries=n).need(site).refusal)
        if n:
            yield f"{rounded(n):,} queries at a time", replace(some, n_queries=rounded(n)), site


def query_values(dataset: VectorDataset) -> int:
    """Elements decoded to read a dataset's queries, about: of rows in groups, whole groups."""
    queries, base = dataset.query_source, dataset.source
    if queries is None:
        return 0
    rows = dataset.query_rows
    if rows is None or base.starts_anywhere:
        return queries.n_rows * queries.dim
    last = max(0, base.n_rows - 1)
    groups = np.searchsorted(base.edges, np.minimum(rows, last), side="right") - 1
    return int(np.diff(base.edges)[np.unique(groups)].sum()) * base.dim
