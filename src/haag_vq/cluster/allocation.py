"""The client's side of one Slurm allocation: its workers, which srun started, as a cluster."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from distributed import Client
from distributed.core import Status

from haag_vq.cluster.profiles import SHIPPED
from haag_vq.cluster.ranks import Rank
from haag_vq.cluster.watch import CLIENT_NAME, TOPIC
from haag_vq.deaths import Cause
from haag_vq.errors import ClusterError, UsageError

SCRIPT = SHIPPED / "allocation.sbatch"

# Tasks of one srun start together: one that is so much later than the first may never come.
REST_SECONDS = 60


class _Ends:
    """What is known of the ends of an allocation's tasks: nothing that Slurm would tell.

    It stands where a keeper does, which knows of jobs.
    """

    trouble = None

    def job_of(self, worker: str) -> str:
        """Return '': no task is a job of its own."""
        return ""

    def cause_of(self, number: str) -> Cause | None:
        """Return None: the worker that its nanny brings back knows more."""
        return None

    def cause_of_job(self, number: str) -> Cause | None:
        """Return None: an earlier run's allocation is gone, and its tasks with it."""
        return None


class Allocation:
    """The other tasks, as the client's has them; its `client.cluster`."""

    loses_workers_for_good = True
    """Nannies restart workers; nobody restarts tasks."""

    def __init__(self, runner: Any, n_workers: int) -> None:
        self.keeper = _Ends()
        self.status = Status.running
        self._runner = runner
        self._n_workers = n_workers

    def scale(self, jobs: int) -> NoReturn:
        """Raise UsageError: srun started as many as there are."""
        raise UsageError(
            f"scale({jobs}): an allocation has the {self._n_workers} workers that its srun "
            "started. Ask for more tasks when it starts: --ntasks=N has N-2 workers."
        )

    def job_script(self) -> str:
        """Return a script that makes such an allocation."""
        return SCRIPT.read_text(encoding="utf-8")

    def close(self) -> None:
        """End the scheduler and the workers. Does nothing the second time."""
        if self.status == Status.running:
            self.status = Status.closed
            self._runner.close()


def connect_client(
    runner: Any, rank: Rank, keys: Path, seconds: float, tell: Callable[[str], None]
) -> tuple[Client, Allocation]:
    """Connect to the scheduler and wait for the workers.

    Parameters
    ----------
    runner : haag_vq.cluster.runner.Runner
        It knows the scheduler.
    keys : Path
        Directory that is removed if this fails.
    seconds : float
        For the first worker.
    tell : callable
        Called with a line for each event.

    Raises
    ------
    ClusterError
        If none comes in time.
    """
    allocation = Allocation(runner, rank.n_workers)
    client = None
    try:
        client = Client(runner.scheduler_address, security=runner.security, name=CLIENT_NAME)
        client.cluster = allocation
        client.subscribe_topic(TOPIC, lambda event: tell(event[1]))
        _wait(client, rank, seconds, tell)
    except BaseException:
        if client is not None:
            client.close()
        allocation.close()
        shutil.rmtree(keys, ignore_errors=True)
        raise
    return client, allocation


def _wait(client: Client, rank: Rank, seconds: float, tell: Callable[[str], None]) -> None:
    """Wait for all workers: blocks are planned by the least memory of those that are there."""
    started = time.monotonic()
    until = started + seconds
    n_there = 0
    while n_there < rank.n_workers:
        before, n_there = n_there, len(client.scheduler_info(n_workers=-1)["workers"])
        if n_there and not before:
            until = time.monotonic() + min(seconds, REST_SECONDS)
        if time.monotonic() > until:
            break
        time.sleep(0.1)
    took = time.monotonic() - started
    if not n_there:
        raise ClusterError(
            f"slurm-allocation: none of the {rank.n_workers} workers came up within {took:.0f} s "
            "(death-timeout). What they wrote says why."
        )
    if n_there < rank.n_workers:
        tell(f"{n_there} of {rank.n_workers} workers are up after {took:.0f} s, and begin.")
