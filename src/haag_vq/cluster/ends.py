"""Of what a Slurm job ended: its state, and what its log has of memory."""

from __future__ import annotations

import re
import time
from pathlib import Path

from haag_vq.cluster.squeue import JobState
from haag_vq.deaths import Cause, Kind

LOG_LINES = 15

# A network file system may show a log late.
LOG_SECONDS = 5.0

# These say nothing of what ran; FAILED and what is not known may be a crash of it.
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "NODE_FAIL",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}

# slurmstepd's words: where it looks by itself, and where the kernel's cgroup killed.
_LOOKED = re.compile(r"exceeded memory limit \((\d+) > (\d+)\), being killed")
_KILLED = re.compile(r"oom.?kill event|OOM Killed|Exceeded job memory limit", re.IGNORECASE)


def cause_of_end(number: str, end: JobState, log: str, seen_bytes: int, asked_bytes: int) -> Cause:
    """Tell why a job ended.

    Parameters
    ----------
    end : JobState
        As it was found last.
    log : str
        The end of its log.
    seen_bytes : int
        The most memory that its worker was seen with.
    asked_bytes : int
        Of the job (``--mem``).
    """
    looked = _LOOKED.search(log)
    if looked:
        measured, limit = int(looked[1]), int(looked[2])
        return Cause("memory", f"Slurm killed job {number} for it (--mem)", measured, limit)
    if end.state == "OUT_OF_MEMORY" or _KILLED.search(log):
        return Cause(
            "memory", f"the kernel killed in job {number} (--mem)", seen_bytes, asked_bytes
        )
    why = f" ({end.reason})" if end.reason else ""
    kind: Kind = "ended" if end.state in _ENDED else "unknown"
    return Cause(kind, f"Slurm's job {number} ended: {end.state}{why}", seen_bytes)


def log_end(directory: str, number: str, *, wait: bool) -> tuple[Path | None, list[str]]:
    """Read the last lines of a job's log; `wait` some seconds for there to be any."""
    deadline = time.monotonic() + (LOG_SECONDS if wait else 0)
    while True:
        for path in sorted(Path(directory).glob(f"*-{number}.err")):
            lines = path.read_text(errors="replace").splitlines()
            if lines:
                return path, lines[-LOG_LINES:]
        if time.monotonic() >= deadline:
            return None, []
        time.sleep(0.5)
