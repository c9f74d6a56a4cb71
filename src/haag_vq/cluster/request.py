"""What one Slurm job of a profile asks for: numbers, checked against the site's caps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from haag_vq.cluster.profiles import LISTS, read_settings
from haag_vq.errors import UsageError
from haag_vq.memory import format_bytes, parse_bytes

# Slurm counts the nanny's memory and what the worker passes its limit by before Dask acts on it:
# 140 MiB of a nanny (measured), and Dask looks every 100 ms.
MARGIN_BYTES = 512 << 20
MARGIN_SHARE = 0.1

# A worker leaves so long before its walltime: a task that runs then, at most a minute by design,
# is finished, and the job ends by itself.
END_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Caps:
    """What a site allows; None where that is not known."""

    jobs: int | None = None
    """In the queue and running at one time."""
    cores: int | None = None
    """Of one job."""
    memory_bytes: int | None = None
    """Of one job."""
    walltime_seconds: int | None = None
    cpu_hours: float | None = None
    """Cores times hours of one job."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One job: one node, one worker process with one Dask thread, all cores for its searches."""

    profile: str
    cores: int
    memory_bytes: int
    """Limit of the worker, by which Dask and the planner go."""
    job_memory_bytes: int
    """Asked of Slurm (--mem): the worker, its nanny, and a margin."""
    job_cores: int
    """Asked of Slurm (--cpus-per-task)."""
    walltime_seconds: int
    lifetime_seconds: int
    """After which a worker takes no more tasks and leaves, some by `stagger_seconds` sooner or
    later."""
    stagger_seconds: int
    death_timeout: str
    """Of a worker that finds no scheduler."""
    settings: Mapping[str, Any] = field(repr=False)
    """What else the profile says, as it was written."""
    caps: Caps = Caps()

    @property
    def cpu_hours(self) -> float:
        """Most that one job can use."""
        return self.job_cores * self.walltime_seconds / 3600

    def directives(self) -> list[str]:
        """Options of sbatch that dask-jobqueue has no name for."""
        options = [
            f"--{name}={self.settings[name]}"
            for name in ("qos", "constraint", "tmp")
            if self.settings.get(name)
        ]
        # A worker holds one node's memory and disk. Another job takes its place at once; Slurm lets
        # one that it queues again wait for minutes, and would give its worker's name out twice.
        fixed = ["--nodes=1", "--no-requeue"]
        return [*fixed, *options, *self.settings.get("job-extra-directives", ())]


def job_request(where: str, overrides: Mapping[str, Any]) -> JobRequest:
    """Read a profile and work out what its jobs ask for.

    Raises
    ------
    SourceNotFoundError, UsageError
        If there is no such profile, it is malformed or says too little, or its jobs would pass
        its caps: with the arithmetic.
    """
    settings = read_settings(where, overrides)
    for name in LISTS:
        value = settings.get(name, [])
        settings[name] = [value] if isinstance(value, str) else list(value)
    needed = settings.get("requires", "").split(",") if settings.get("requires") else []
    for name in ["cores", "memory", *(word.strip() for word in needed)]:
        if not settings.get(name):
            raise UsageError(
                f"cluster profile {where}: {name} is not set. Pass {name.replace('-', '_')}=…, or "
                f"write '{name}: …' into a profile of your own that says 'inherit: {where}'."
            )
    if _count(where, settings, "processes", 1) != 1:
        raise UsageError(
            f"cluster profile {where}: processes={settings['processes']}, but a job holds one "
            "worker process, which searches on all its cores; leave it out."
        )
    cores = _count(where, settings, "cores", 1)
    memory = parse_bytes(settings["memory"])
    margin = max(MARGIN_BYTES, int(memory * MARGIN_SHARE))
    walltime = parse_walltime(str(settings["walltime"]))
    # Workers that leave together would take with them what only they held.
    stagger = seconds_of(settings, "lifetime-stagger", min(600, walltime // 8))
    end = min(END_SECONDS, walltime // 4)
    request = JobRequest(
        where,
        cores,
        memory,
        parse_bytes(settings["job-mem"]) if settings.get("job-mem") else memory + margin,
        _count(where, settings, "job-cpu", cores),
        walltime,
        seconds_of(settings, "lifetime", walltime - stagger - end),
        stagger,
        str(settings["death-timeout"]),
        settings,
        _caps(where, settings.get("caps", {})),
    )
    _check_lifetime(request, end)
    _check_caps(request)
    return request


def worker_bytes(job_bytes: int) -> int:
    """Most that a worker may have where all of a job is `job_bytes`: the rest is its margin."""
    return min(job_bytes - MARGIN_BYTES, int(job_bytes / (1 + MARGIN_SHARE)))


def parse_walltime(text: str) -> int:
    """Parse a time as Slurm writes it into seconds: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S.

    Raises
    ------
    UsageError
        If it is none of these.
    """
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not (days.isdigit() or not dash) or len(parts) > 3 or not all(p.isdigit() for p in parts):
        raise UsageError(
            f"walltime {text!r} is no time; write it as Slurm does: 90 (minutes), 18:00:00, 2-00."
        )
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        return ((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds
    if len(numbers) < 3:
        minutes, seconds = [*numbers, 0][:2]
        return minutes * 60 + seconds
    return (numbers[0] * 60 + numbers[1]) * 60 + numbers[2]


def format_walltime(seconds: int) -> str:
    """Write seconds as H:MM:SS, which Slurm reads."""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def check_jobs(request: JobRequest, jobs: int) -> None:
    """Raise UsageError if so many jobs pass the profile's cap."""
    if jobs < 1:
        raise UsageError(f"jobs={jobs}: at least 1 is needed.")
    most = request.caps.jobs
    if most is not None and jobs > most:
        raise UsageError(
            f"jobs={jobs}, but {request.profile} allows {most} at one time (caps: jobs). Ask for "
            "fewer; a longer walltime or more cores a job does as much work."
        )


def _check_lifetime(request: JobRequest, end: int) -> None:
    longest = request.walltime_seconds - request.stagger_seconds - end
    if not 0 < request.lifetime_seconds <= longest:
        raise UsageError(
            f"lifetime={request.lifetime_seconds} s with a stagger of {request.stagger_seconds} s "
            f"does not fit a walltime of {format_walltime(request.walltime_seconds)}: workers must "
            f"have left {end} s before its end. Take 1 to {longest} s, or leave it out."
        )


def _check_caps(request: JobRequest) -> None:
    caps, name = request.caps, request.profile
    if caps.cores is not None and request.job_cores > caps.cores:
        raise UsageError(
            f"a job of {request.job_cores} cores passes the {caps.cores} that {name} allows."
        )
    if caps.memory_bytes is not None and request.job_memory_bytes > caps.memory_bytes:
        raise UsageError(
            f"a job of {format_bytes(request.job_memory_bytes)} (a worker of "
            f"{format_bytes(request.memory_bytes)} and its margin) passes the "
            f"{format_bytes(caps.memory_bytes)} that {name} allows: lower memory."
        )
    if caps.walltime_seconds is not None and request.walltime_seconds > caps.walltime_seconds:
        raise UsageError(
            f"a walltime of {format_walltime(request.walltime_seconds)} passes the "
            f"{format_walltime(caps.walltime_seconds)} that {name} allows."
        )
    if caps.cpu_hours is not None and request.cpu_hours > caps.cpu_hours:
        hours = request.walltime_seconds / 3600
        most = int(caps.cpu_hours * 3600 / request.job_cores)
        raise UsageError(
            f"{request.job_cores} cores × {hours:.2f} h = {request.cpu_hours:.0f} CPU-hours a job, "
            f"{name} allows {caps.cpu_hours:g}: take walltime={format_walltime(most)!r} or "
            f"{int(caps.cpu_hours / hours)} cores. Many small jobs do what a large one does."
        )


def _caps(where: str, caps: Any) -> Caps:
    known = ("jobs", "cores", "memory", "walltime", "cpu-hours")
    if not isinstance(caps, Mapping) or not set(caps) <= set(known):
        raise UsageError(f"cluster profile {where}: caps may have {', '.join(known)}, not {caps}.")
    try:
        return Caps(
            int(caps["jobs"]) if "jobs" in caps else None,
            int(caps["cores"]) if "cores" in caps else None,
            parse_bytes(caps["memory"]) if "memory" in caps else None,
            parse_walltime(str(caps["walltime"])) if "walltime" in caps else None,
            float(caps["cpu-hours"]) if "cpu-hours" in caps else None,
        )
    except ValueError as error:
        raise UsageError(f"cluster profile {where}: caps: {error}") from None


def _count(where: str, settings: Mapping[str, Any], name: str, default: int) -> int:
    value = settings.get(name, default)
    if not re.fullmatch(r"[1-9]\d*", str(value)):
        raise UsageError(f"cluster profile {where}: {name}={value} must be a whole number from 1.")
    return int(value)


def seconds_of(settings: Mapping[str, Any], name: str, default: int) -> int:
    """Read a time that Dask would, in seconds: a number of them, or as ``10m``."""
    value = settings.get(name)
    if value is None:
        return default
    found = re.fullmatch(r"(\d+)\s*(s|m|h|)", str(value).strip())
    if not found:
        raise UsageError(f"{name}={value!r} is no time; write seconds, or as 10m or 2h.")
    return int(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
