"""`haag-vq fetch` as a job to plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from haag_vq.hub.stage import PIECE_BYTES, STAGE_THREADS
from haag_vq.memory import Projection, check_fits
from haag_vq.planning.jobs import refusal_of
from haag_vq.planning.need import Disk, Job, Need, Work
from haag_vq.planning.sites import Site


@dataclass(frozen=True, slots=True)
class FetchJob:
    """Files of the Hub, copied to disk."""

    n_bytes: int
    """Of the files that are not there."""
    n_files: int
    name: str = "fetch"
    source: None = None
    is_parallel: bool = False
    resumes: bool = True

    def need(self, site: Site) -> Need:
        """Memory of the pieces on their way, disk of the copies."""
        projection = Projection(PIECE_BYTES, n_threads=STAGE_THREADS)
        remedy = "Give this process more memory."
        return Need(
            projection,
            refusal_of(lambda: check_fits("fetching", projection, site.allowance, remedy)),
            self.n_files,
            0,
            Disk(stage_bytes=self.n_bytes),
            Work(network_bytes=self.n_bytes, written_bytes=self.n_bytes),
        )

    def alternatives(self, site: Site) -> Iterator[tuple[str, Job, Site]]:
        """None: it takes as little as it can."""
        return iter(())
