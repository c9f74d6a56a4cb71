"""The plan of a job: memory by parts, disk, time and the Slurm request, before anything is read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from haag_vq.cluster.profiles import read_settings
from haag_vq.groundtruth.openblas import this_cpu
from haag_vq.memory import Allowance, Projection, format_bytes
from haag_vq.planning.duration import Duration, duration
from haag_vq.planning.need import Disk, Job, Need, remote_bytes
from haag_vq.planning.rates import Rates, known_rates
from haag_vq.planning.sites import Site, alone, local_site
from haag_vq.planning.slurm import SlurmPlan, plan_slurm

# Jobs that ask for less, shown where one does not fit.
MOST_NEAREST = 3


@dataclass(frozen=True, slots=True)
class Nearest:
    """A job that fits where the planned one does not; planned itself."""

    words: str
    """What to write otherwise."""
    total_bytes: int
    """Its projection."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job will take."""

    job: str
    """The command."""
    n_rows: int
    dim: int
    dtype: str
    """As stored."""
    stored_bytes: int
    float32_bytes: int
    n_partitions: int
    max_rows: int
    """Of the largest partition."""
    n_workers: int
    projection: Projection
    """Of the largest worker, by its parts."""
    allowance: Allowance
    """Of each worker here."""
    disk: Disk
    flop: int
    duration: Duration
    """On the workers here."""
    refusal: str
    """Why it cannot run here; '' if it can."""
    nearest: tuple[Nearest, ...]
    """Jobs that could, the nearest first."""
    slurm: SlurmPlan | None
    """Where a profile is named."""

    @property
    def fits(self) -> bool:
        """It can run on this machine."""
        return not self.refusal

    @property
    def verdict(self) -> str:
        """One line: whether it fits this machine, and what would."""
        size, most = format_bytes(self.projection.total_bytes), format_bytes(self.allowance.bytes)
        workers = f"each of {self.n_workers} workers" if self.n_workers > 1 else "the process"
        if self.fits:
            return f"yes: {workers} needs {size} of the {most} that it may use"
        if self.projection.total_bytes <= self.allowance.bytes:
            return f"no: {self.refusal}"
        nearest = "; or ".join(
            f"{near.words} ({format_bytes(near.total_bytes)})" for near in self.nearest
        )
        return f"no: {workers} needs {size}, may use {most}. It fits with {nearest or 'nothing'}"


def plan(
    job: Job,
    site: Site | None = None,
    *,
    profile: str | None = None,
    jobs: int | None = None,
    rates: Rates | None = None,
    directory: str | os.PathLike[str] | None = None,
    staged: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan a job from headers alone; no vectors are read.

    Parameters
    ----------
    job : Job
        A `LoadJob`, `SearchJob`, `ExportJob`, or any other value with their methods.
    site : Site, optional
        The workers here; by default those that the command would start.
    profile : str, optional
        A Slurm profile that the job shall be fitted to as well.
    jobs : int, optional
        Slurm jobs, as ordered.
    rates : Rates, optional
        By default what was measured on this CPU, or what is assumed; for Slurm the profile's own.
    directory : path-like, optional
        Where the job writes: its free space is looked at.
    staged : bool
        Remote files are copied to disk first.
    settings : mapping, optional
        Of the profile, stronger than what it says.

    Raises
    ------
    SourceNotFoundError, UsageError
        If there is no such profile, or the job is none that could run anywhere.

    Notes
    -----
    Memory: 8 bytes for each partition and each place where a read starts cheaply.
    """
    here = site or local_site()
    if not job.is_parallel:
        here = alone(here) if site is None else site
    need = job.need(here)
    source = job.source
    if staged and source is not None:
        need = replace(need, disk=replace(need.disk, stage_bytes=remote_bytes(source)))
    own = rates or known_rates(this_cpu().model)
    refusal = need.refusal or _no_room(need.disk, directory)
    return Plan(
        job=job.name,
        n_rows=0 if source is None else source.n_rows,
        dim=0 if source is None else source.dim,
        dtype="" if source is None else source.stored_as,
        stored_bytes=need.work.network_bytes if source is None else source.stored_bytes,
        float32_bytes=0 if source is None else source.n_rows * source.dim * 4,
        n_partitions=need.n_partitions,
        max_rows=need.max_rows,
        n_workers=here.n_workers,
        projection=need.projection,
        allowance=here.allowance,
        disk=need.disk,
        flop=need.work.flop,
        duration=duration(need.work, here, own),
        refusal=refusal,
        nearest=_nearest(job, here) if need.refusal else (),
        slurm=None if profile is None else _slurm(job, profile, jobs, settings or {}, rates),
    )


def _slurm(
    job: Job, profile: str, jobs: int | None, settings: Mapping[str, Any], rates: Rates | None
) -> SlurmPlan:
    own = rates or known_rates("", read_settings(profile, settings))
    return plan_slurm(job, profile, jobs, settings, own)


def _nearest(job: Job, site: Site) -> tuple[Nearest, ...]:
    """Jobs that ask for less and fit: each is planned before it is named."""
    found: list[Nearest] = []
    kinds: set[str] = set()
    for words, smaller, where in job.alternatives(site):
        kind = words.split()[0]
        # Of ever smaller chunks the largest that fits is enough.
        if kind in kinds:
            continue
        need: Need = smaller.need(where)
        if not need.refusal:
            found.append(Nearest(words, need.projection.total_bytes))
            kinds.add(kind)
            if len(found) == MOST_NEAREST:
                break
    return tuple(found)


def _no_room(disk: Disk, directory: str | os.PathLike[str] | None) -> str:
    """Say that a file system has too little room; '' if it has enough or is not named."""
    if directory is None or not disk.total_bytes:
        return ""
    home = Path(directory).expanduser().absolute()
    while not home.exists():
        home = home.parent
    free = shutil.disk_usage(home).free
    if disk.total_bytes <= free:
        return ""
    return (
        f"it writes {format_bytes(disk.total_bytes)} in {directory}, whose file system has "
        f"{format_bytes(free)} free."
    )
