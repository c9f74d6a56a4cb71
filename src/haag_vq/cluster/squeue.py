"""What Slurm says of our jobs, by its own programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from haag_vq.errors import ClusterError

# A controller under load may take long; longer than this it is of no use to wait for.
TIMEOUT_SECONDS = 60

ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}


@dataclass(frozen=True, slots=True)
class JobState:
    """One job, as squeue or scontrol tells of it."""

    state: str
    """``PENDING``, ``RUNNING``, ``CANCELLED``, …"""
    reason: str = ""
    """Why it pends or ended, in Slurm's word; '' for none."""
    start: str = ""
    """Start, or an estimate of it; '' where Slurm has none."""
    node: str = ""

    @property
    def ended(self) -> bool:
        """Whether it will do nothing more."""
        return self.state in ENDED


def check_slurm() -> None:
    """Raise ClusterError unless Slurm's programs are here."""
    missing = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
    if missing:
        raise ClusterError(
            f"{', '.join(missing)} not found on this machine: jobs are submitted from a login node "
            "of the cluster, or inside a job (haag-vq submit). 'haag-vq cluster show' works "
            "anywhere."
        )


def all_jobs() -> dict[str, JobState]:
    """Return the user's jobs by number: those in the queue and those that ended minutes ago.

    Raises
    ------
    ClusterError
        If squeue fails: the controller may be away for a while.
    """
    out = ask_slurm("squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "-o", _FORMAT)
    jobs = {}
    for line in out.splitlines():
        number, state, reason, start, node = (line.split("|") + [""] * 4)[:5]
        jobs[number] = JobState(state, _word(reason), _word(start), _word(node))
    return jobs


_FORMAT = "%i|%T|%r|%S|%N"


def ended_job(number: str) -> JobState | None:
    """Return how a job ended, with Slurm's reason and exit code; None if Slurm has forgotten it."""
    try:
        out = ask_slurm("scontrol", "show", "job", "--oneliner", number)
    except ClusterError:
        return None
    told = dict(re.findall(r"(\w+)=(\S*)", out))
    reason = _word(told.get("Reason", ""))
    code = told.get("ExitCode", "0:0")
    words = [reason] * bool(reason) + [f"exit code {code}"] * (code != "0:0")
    return JobState(
        told.get("JobState", "?"), ", ".join(words), node=_word(told.get("NodeList", ""))
    )


def compute_nodes() -> set[str]:
    """Names of the cluster's nodes; empty if Slurm does not tell."""
    try:
        return set(ask_slurm("sinfo", "--noheader", "-N", "-o", "%n").split())
    except ClusterError:
        return set()


def _word(text: str) -> str:
    return "" if text in ("None", "N/A", "(null)", "Unknown") else text


def ask_slurm(*command: str) -> str:
    """Run one of Slurm's programs; returns what it prints, raises ClusterError if it fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{command[0]} did not answer: {error}") from error
    if done.returncode:
        raise ClusterError(f"{command[0]} failed: {' '.join(done.stderr.split())}")
    return done.stdout
