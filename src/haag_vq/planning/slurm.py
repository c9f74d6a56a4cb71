"""The Slurm request that fits a job: memory, time, cores and jobs, within a site's caps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from haag_vq.cluster.request import (
    Caps,
    JobRequest,
    check_jobs,
    format_walltime,
    job_request,
    parse_walltime,
)
from haag_vq.errors import UsageError
from haag_vq.memory import format_bytes, needed_limit, parse_bytes
from haag_vq.planning.duration import Duration, duration
from haag_vq.planning.jobs import word
from haag_vq.planning.need import Job, Need
from haag_vq.planning.rates import Rates
from haag_vq.planning.sites import site_of

# Memory and time are asked for in whole steps: what a person would write. Arbitrary.
MEMORY_STEP, TIME_STEP = 1 << 30, 600

# The most jobs that are proposed where nobody says how many. Arbitrary.
MOST_JOBS = 64


@dataclass(frozen=True, slots=True)
class SlurmPlan:
    """What to ask of Slurm for a job."""

    profile: str
    n_jobs: int
    """At one time."""
    n_walltimes: int
    """After one another: more than one where the work does not end within the caps."""
    request: JobRequest
    """Of each job."""
    directives: tuple[str, ...]
    """``#SBATCH`` lines of each job."""
    arguments: str
    """What to add to the command, so that it asks for this."""
    advice: str
    """What else to do; '' for nothing."""
    refusal: str
    """Why it cannot be had, with the arithmetic; '' if it can."""
    need: Need
    """Of the job there."""
    duration: Duration


def plan_slurm(
    job: Job, where: str, n_jobs: int | None, overrides: Mapping[str, Any], rates: Rates
) -> SlurmPlan:
    """Find the request that fits.

    Parameters
    ----------
    n_jobs : int, optional
        As ordered; otherwise as few as end within one walltime, or as many as there may be.
    overrides : mapping
        Of the profile's settings; memory and walltime are left as they say.

    Raises
    ------
    SourceNotFoundError, UsageError
        If there is no such profile, it says too little, or what the user ordered passes its caps.
    """
    request = job_request(where, overrides)
    if n_jobs is not None and job.is_parallel:
        check_jobs(request, n_jobs)
    most_seconds = _longest(request, overrides)
    for n in _candidates(job, request, n_jobs):
        plan = _of_jobs(job, request, n, overrides, rates, most_seconds)
        if plan.n_walltimes == 1 or plan.refusal:
            break
    return plan


def _candidates(job: Job, request: JobRequest, ordered: int | None) -> Iterator[int]:
    """Yield numbers of jobs to try: doubled, up to what there may be."""
    if ordered is not None or not job.is_parallel:
        yield (ordered or 1) if job.is_parallel else 1
        return
    most, n = request.caps.jobs or MOST_JOBS, 1
    while n < most:
        yield n
        n *= 2
    yield most


def _of_jobs(
    job: Job,
    request: JobRequest,
    n_jobs: int,
    overrides: Mapping[str, Any],
    rates: Rates,
    most_seconds: int,
) -> SlurmPlan:
    need = job.need(site_of(request, n_jobs))
    memory = _memory(need, request, overrides)
    fitted = replace(request, memory_bytes=memory)
    site = site_of(fitted, n_jobs)
    need = job.need(site)
    took = duration(need.work, site, rates)
    wanted = _walltime(took.high_seconds, request, overrides)
    seconds = min(wanted, most_seconds)
    settings = {
        **overrides,
        "memory": f"{memory} B",
        "walltime": format_walltime(seconds),
    }
    if not job.is_parallel:
        # No nanny: what Slurm grants is the process's limit.
        settings["job_mem"] = f"{memory} B"
    refusal = need.refusal
    try:
        fitted = job_request(request.profile, settings)
    except UsageError as error:
        refusal = str(error)
    lifetime = fitted.lifetime_seconds if job.is_parallel else seconds
    n_walltimes = max(1, -(-int(took.high_seconds) // max(1, lifetime)))
    if not refusal and not overrides.get("memory") and memory > _usual(request):
        usual = format_bytes(_usual(request))
        refusal = (
            f"a job takes {format_bytes(memory)}, {request.profile} has {usual} for one. Where the "
            f"site has larger nodes, say so: --set memory={word(memory)}."
        )
    if n_walltimes > 1 and not refusal and not job.is_parallel:
        refusal = (
            f"it may take {format_walltime(int(took.high_seconds))}, {request.profile} allows "
            f"{format_walltime(most_seconds)} for one job, and `haag-vq {job.name}` does not go "
            "on where it ended: take fewer rows at a time."
        )
    return SlurmPlan(
        request.profile,
        n_jobs,
        n_walltimes,
        fitted,
        tuple(directives(fitted)),
        _arguments(job, fitted, n_jobs, memory),
        _advice(job, n_walltimes),
        refusal,
        need,
        took,
    )


def directives(request: JobRequest) -> list[str]:
    """List the ``#SBATCH`` lines of one job."""
    named = [
        f"--{option}={request.settings[name]}"
        for option, name in (("partition", "queue"), ("account", "account"))
        if request.settings.get(name)
    ]
    options = [
        f"--job-name={request.settings.get('name') or 'haag-vq'}",
        *named,
        *request.directives(),
        "--ntasks=1",
        f"--cpus-per-task={request.job_cores}",
        f"--mem={-(-request.job_memory_bytes >> 20)}M",
        f"--time={format_walltime(request.walltime_seconds)}",
    ]
    return [f"#SBATCH {option}" for option in options]


def _memory(need: Need, request: JobRequest, overrides: Mapping[str, Any]) -> int:
    """Memory limit of a worker: as ordered, or what the projection asks for."""
    if overrides.get("memory"):
        return parse_bytes(overrides["memory"])
    return -(-needed_limit(need.projection) // MEMORY_STEP) * MEMORY_STEP


def _walltime(high_seconds: float, request: JobRequest, overrides: Mapping[str, Any]) -> int:
    """Walltime in which workers live for `high_seconds`, their stagger and end beside it."""
    if overrides.get("walltime"):
        return request.walltime_seconds
    wanted = max(high_seconds + 900, high_seconds * 1.6)
    return int(-(-wanted // TIME_STEP)) * TIME_STEP


def _longest(request: JobRequest, overrides: Mapping[str, Any]) -> int:
    """Longest walltime that a job of so many cores may ask for."""
    if overrides.get("walltime"):
        return parse_walltime(str(overrides["walltime"]))
    caps: Caps = request.caps
    limits = [caps.walltime_seconds or request.walltime_seconds]
    if caps.cpu_hours is not None:
        limits.append(int(caps.cpu_hours * 3600 / request.job_cores))
    return min(limits)


def _usual(request: JobRequest) -> int:
    """The most memory that a job may be given without a word of the user's."""
    return request.caps.memory_bytes or request.memory_bytes


def _advice(job: Job, n_walltimes: int) -> str:
    if n_walltimes == 1:
        return ""
    if job.resumes:
        return "jobs that end are replaced, and the checkpoint keeps what is finished"
    return "add --checkpoint DIR: what is finished when jobs end is kept there"


def _arguments(job: Job, request: JobRequest, n_jobs: int, memory: int) -> str:
    if not job.is_parallel:
        return ""
    walltime = format_walltime(request.walltime_seconds)
    size = word(memory)
    return (
        f"--cluster {request.profile} --jobs {n_jobs} --set memory={size} --set walltime={walltime}"
    )


def caps_arithmetic(plan: SlurmPlan) -> str:
    """Say how the request stands to the caps that are known."""
    request, caps = plan.request, plan.request.caps
    hours = request.walltime_seconds / 3600
    told = [
        (
            caps.cpu_hours,
            f"{request.job_cores} cores × {hours:.2f} h = {request.cpu_hours:.0f} of "
            f"{caps.cpu_hours or 0:g} CPU-hours",
        ),
        (
            caps.walltime_seconds,
            f"{format_walltime(request.walltime_seconds)} of "
            f"{format_walltime(caps.walltime_seconds or 0)}",
        ),
        (caps.cores, f"{request.job_cores} of {caps.cores} cores"),
        (
            caps.memory_bytes,
            f"{format_bytes(request.job_memory_bytes)} of {format_bytes(caps.memory_bytes or 0)}",
        ),
        (caps.jobs, f"{plan.n_jobs} of {caps.jobs} jobs"),
    ]
    return ", ".join(words for cap, words in told if cap is not None) or "no caps are known"
