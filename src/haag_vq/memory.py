"""What a task will need, what a process may use, and refusal where the two do not fit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from haag_vq.errors import InsufficientMemoryError, UsageError

# Dask spills at 70% and pauses a worker at 80% of its limit: what we plan for stays below.
ALLOWANCE_SHARE = 0.75

# RSS of a worker that has imported numpy, numba, pyarrow, dask, distributed and faiss, connected,
# loaded the compiled search and run a first task: 232 to 250 MiB measured (Python 3.11, NumPy 2.4,
# Numba 0.68, pyarrow 26). The rest is for other versions, and for what allocators keep.
PROCESS_BYTES = 280 << 20

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass(frozen=True, slots=True)
class Projection:
    """Projected bytes of one worker process while it runs a task, by what they are for."""

    buffer_bytes: int
    """The block that is filled: rows × dim × 4."""
    scratch_bytes: int = 0
    """What reading it allocates beside the block."""
    search_bytes: int = 0
    """Queries, candidates, FAISS's and rescoring's workspace."""
    results_bytes: int = 0
    """Results that rest in the worker until they are merged."""
    process_bytes: int = PROCESS_BYTES
    """The interpreter and its libraries."""
    n_threads: int = 1
    """Tasks that the process runs at once."""

    @property
    def total_bytes(self) -> int:
        """All parts; buffers, scratch and workspace count once a thread."""
        in_task = self.buffer_bytes + self.scratch_bytes + self.search_bytes
        return self.n_threads * in_task + self.results_bytes + self.process_bytes

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of all threads by what they are for; they add up to the total."""
        n = self.n_threads
        return {
            "process": self.process_bytes,
            "results": self.results_bytes,
            "search": n * self.search_bytes,
            "decoding": n * self.scratch_bytes,
            "buffer": n * self.buffer_bytes,
        }

    def __str__(self) -> str:
        parts = [
            ("block buffer", self.buffer_bytes),
            ("decoding", self.scratch_bytes),
            ("search workspace", self.search_bytes),
        ]
        times = f"{self.n_threads} × " if self.n_threads > 1 else ""
        named = [f"{times}{name} {format_bytes(n)}" for name, n in parts if n]
        if self.results_bytes:
            named.append(f"results {format_bytes(self.results_bytes)}")
        named.append(f"process {format_bytes(self.process_bytes)}")
        return f"{format_bytes(self.total_bytes)} ({' + '.join(named)})"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one process may plan to use."""

    bytes: int
    origin: str
    """Where the number comes from, for messages."""


def machine_memory() -> tuple[int, str]:
    """Bytes this process may use, and which limit says so: the smallest of all that apply.

    Looks at the process's own cgroup and those above it, at Slurm's grant to the job, and at
    physical memory.
    """
    limits = [(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "physical memory")]
    limits += [(n, f"cgroup {path}") for path, n in _cgroup_limits()]
    limits += _slurm_limits()
    return min(limits)


def worker_allowance(limit_bytes: int, origin: str) -> Allowance:
    """Allowance of a worker whose memory limit is `limit_bytes`."""
    return Allowance(
        int(limit_bytes * ALLOWANCE_SHARE),
        f"{ALLOWANCE_SHARE:.0%} of {format_bytes(limit_bytes)}, {origin}",
    )


def process_allowance(n_workers: int = 1) -> Allowance:
    """Allowance of each of `n_workers` processes that share this machine's memory."""
    total, origin = machine_memory()
    share = f"{origin} ÷ {n_workers} workers" if n_workers > 1 else origin
    return worker_allowance(total // n_workers, share)


def check_fits(what: str, projection: Projection, allowance: Allowance, remedy: str) -> None:
    """Raise InsufficientMemoryError if `projection` passes `allowance`.

    Parameters
    ----------
    what : str
        The task, to begin the message with.
    remedy : str
        A sentence that says what would fit.
    """
    if projection.total_bytes > allowance.bytes:
        raise InsufficientMemoryError(
            f"{what} needs {projection}, a worker may use {format_bytes(allowance.bytes)} "
            f"({allowance.origin}). {remedy}"
        )


def needed_limit(projection: Projection) -> int:
    """Memory limit of a worker for which `projection` would fit, in bytes."""
    return int(projection.total_bytes / ALLOWANCE_SHARE) + 1


def format_bytes(n: float) -> str:
    """Format a count of bytes with three digits and a binary unit: ``128 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 999.5:
            return f"{n:.3g} {unit}"
        n /= 1024
    return f"{n:.3g} TiB"


def parse_bytes(text: str | float) -> int:
    """Parse ``"128MiB"``, ``"2GB"``, ``"4G"`` (binary, as Slurm's) or a plain number of bytes.

    Raises
    ------
    UsageError
        If it is none of these, or not positive.
    """
    if not isinstance(text, str):
        n = float(text)
    else:
        digits = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
        unit = text.strip()[len(digits) :].strip().lower()
        try:
            n = float(digits) * _UNITS[unit]
        except (ValueError, KeyError):
            raise UsageError(f"{text!r} is not a size; write 128MiB, 2GB or 4G.") from None
    if not 1 <= n < 2**60:
        raise UsageError(f"{text!r} is not a size: between one byte and one exbibyte.")
    return int(n)


def oom_kills() -> int:
    """Processes of this one's memory cgroup that the kernel has killed for want of memory.

    0 where that cannot be told.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return 0
    n_killed = 0
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        kind, name = ("memory", "memory.oom_control") if controllers else ("", "memory.events")
        try:
            group = Path("/sys/fs/cgroup") / kind / path.lstrip("/")
            text = (group / name).read_text()
        except OSError:
            continue
        counts = dict(words.split() for words in text.splitlines() if len(words.split()) == 2)
        n_killed += int(counts.get("oom_kill", 0))
    return n_killed


def n_cores() -> int:
    """Cores that this process may run on: its affinity, not the machine's count."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def peak_rss_bytes() -> int:
    """Peak resident set size of this process so far, in bytes.

    From the kernel's high-water mark of the current program: ``ru_maxrss`` would include the
    parent that forked it.
    """
    return _status_bytes("VmHWM")


def rss_bytes() -> int:
    """Resident set size of this process now, in bytes."""
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    return 0


def _cgroup_limits() -> list[tuple[str, int]]:
    """Memory limits of this process's cgroup and of those that contain it (v1 and v2)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (
            (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")
            if controllers
            else (Path("/sys/fs/cgroup"), "memory.max")
        )
        group = root / path.lstrip("/")
        for directory in (group, *group.parents):
            if not directory.is_relative_to(root):
                break
            try:
                text = (directory / name).read_text().strip()
            except OSError:
                continue
            # v1 writes "no limit" as a number near 2**63.
            if text.isdigit() and int(text) < 2**60:
                found.append((str(directory), int(text)))
    return found


def _slurm_limits() -> list[tuple[int, str]]:
    """Slurm's grant to this job on this node, in bytes (its variables count MiB)."""
    try:
        per_node = int(os.environ.get("SLURM_MEM_PER_NODE", "0"))
        per_cpu = int(os.environ.get("SLURM_MEM_PER_CPU", "0"))
        n_cpus = int(os.environ.get("SLURM_CPUS_ON_NODE", "0"))
    except ValueError:
        return []
    granted = per_node or per_cpu * n_cpus
    return [(granted << 20, "Slurm's grant to this job")] if granted else []
