"""Where a job would run: so many workers, each with so many cores and so much memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from haag_vq.cluster.connect import MOST_LOCAL_WORKERS
from haag_vq.cluster.local import local_share
from haag_vq.cluster.request import JobRequest, job_request
from haag_vq.memory import Allowance, machine_memory, n_cores, worker_allowance
from haag_vq.workers import Workers


@dataclass(frozen=True, slots=True)
class Site:
    """Workers, all alike."""

    name: str
    """``here``, or of a Slurm profile."""
    n_workers: int
    cores: int
    """Of each worker, all for one search."""
    limit_bytes: int
    """Memory limit of each worker."""
    origin: str
    """Where that comes from, for messages."""
    request: JobRequest | None = None
    """Of Slurm, where the workers are its jobs."""

    @property
    def allowance(self) -> Allowance:
        """What each worker may plan to use."""
        return worker_allowance(self.limit_bytes, self.origin)

    @property
    def workers(self) -> Workers:
        """The same as a run meets it."""
        return Workers(None, self.n_workers, 1, self.allowance, self.cores, False)

    @property
    def n_nodes(self) -> int:
        """Machines that read side by side."""
        return self.n_workers if self.request is not None else 1


def this_process() -> Site:
    """Describe this process alone, with all of its cores and memory."""
    limit, origin = machine_memory()
    return Site("here", 1, n_cores(), limit, origin)


def local_site(n_workers: int | None = None, memory_limit: int | None = None) -> Site:
    """Describe the local workers that ``connect("local")`` would start; its errors."""
    n = n_workers or min(n_cores(), MOST_LOCAL_WORKERS)
    share = local_share(n, memory_limit)
    return Site("here", n, share.n_threads, share.memory_bytes, "the workers' memory limit")


def profile_site(where: str, jobs: int, overrides: Mapping[str, Any]) -> Site:
    """Describe `jobs` jobs of a Slurm profile."""
    return site_of(job_request(where, overrides), jobs)


def site_of(request: JobRequest, jobs: int) -> Site:
    """Describe jobs that are worked out already."""
    origin = f"memory of {request.profile}"
    return Site(request.profile, jobs, request.job_cores, request.memory_bytes, origin, request)


def alone(site: Site) -> Site:
    """Return the same with one worker, for a job that runs in one process."""
    return this_process() if site.request is None else replace(site, n_workers=1)
