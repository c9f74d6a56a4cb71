"""Keeps a cluster's jobs going: what Slurm ends is replaced while there is work.

A thread looks at Slurm's queue and at the scheduler's workers every few seconds. A job that was
cancelled, preempted, killed or that came to its end is replaced by another one, and told of in one
line. Jobs that end before their worker has come up are a fault that a replacement repeats: after
three in a row it gives up, with the tail of the log.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from distributed import Client
from distributed.core import Status

from haag_vq.cluster.ends import cause_of_end, log_end
from haag_vq.cluster.squeue import JobState, all_jobs, ended_job
from haag_vq.deaths import Cause
from haag_vq.errors import ClusterError

PERIOD_SECONDS = 2.0

# Started in vain, one after the other.
MOST_FAILED_STARTS = 3


@dataclass
class _Job:
    """What is known of one job."""

    number: str
    came_up: bool = False
    """Its worker was registered at some time."""
    told: str = ""
    """What was last said of its waiting."""
    absences: int = 0
    """Looks in a row in which the queue did not have it."""
    most_bytes: int = 0
    """The most memory that its worker was seen with."""


class Keeper:
    """Holds a cluster at its target number of jobs.

    Parameters
    ----------
    cluster : dask_jobqueue.SLURMCluster
    client : distributed.Client
        Of the cluster; not the one that computes, which may be closed first.
    least, most : int
        Jobs: as many as Dask finds work for, between these.
    logs : str
        Directory of the jobs' logs.
    job_bytes : int
        What a job asks of Slurm (``--mem``).
    tell : callable
        Called with one line for each event.
    """

    def __init__(
        self,
        cluster: Any,
        client: Client,
        least: int,
        most: int,
        logs: str,
        job_bytes: int,
        tell: Callable[[str], None],
    ) -> None:
        self.least, self.most = least, most
        self.trouble: ClusterError | None = None
        self._cluster = cluster
        self._client = client
        self._logs = logs
        self._job_bytes = job_bytes
        self._causes: dict[str, Cause] = {}
        self._tell = tell
        self._jobs: dict[str, _Job] = {}
        self._n_failed_starts = 0
        self._any_came_up = False
        # Never the name of a lost job again: when its worker has been gone for 15 s, Dask cancels
        # whatever has its name then, as a job that waits in the queue to replace it.
        self._names = (f"haag-vq-{i}" for i in itertools.count())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="haag-vq-keeper", daemon=True)

    def start(self) -> None:
        """Submit the first jobs, then keep them.

        Raises
        ------
        ClusterError
            If Slurm refuses them.
        """
        self._submit([], self.least)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; jobs stay as they are."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def job_of(self, worker: str) -> str:
        """Return the number of the job that has a worker now, by the worker's name; '' for none."""
        made = self._cluster.workers.get(worker)
        return "" if made is None else str(made.job_id)

    def cause_of(self, number: str) -> Cause | None:
        """Tell why a job of this cluster ended; None if it is not known to have."""
        return self._causes.get(number)

    def cause_of_job(self, number: str) -> Cause | None:
        """Tell why a job of an earlier run ended; None if Slurm has forgotten it, or it lives."""
        end = ended_job(number)
        if end is None or not end.ended:
            return None
        return self._cause(_Job(number), end)

    def _cause(self, job: _Job, end: JobState) -> Cause:
        _, lines = log_end(self._logs, job.number, wait=end.state == "FAILED")
        return cause_of_end(job.number, end, "\n".join(lines), job.most_bytes, self._job_bytes)

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_SECONDS):
            try:
                self._look()
            except ClusterError as error:
                self.trouble = error
                self._tell(str(error))
                return
            except (OSError, RuntimeError):
                # The scheduler is being closed, or Dask's connection to it: not ours to tell.
                if self._stop.is_set() or self._client.status != "running":
                    return

    def _look(self) -> None:
        try:
            queue = all_jobs()
        except ClusterError:
            # A controller that is away for a while ends no jobs.
            return
        self._note_jobs()
        lost = []
        for name, job in self._jobs.items():
            state = queue.get(job.number)
            job.absences = job.absences + 1 if state is None else 0
            if state is not None and not state.ended:
                self._tell_waiting(job, state)
            elif state is not None or job.absences > 1:
                self._tell_end(job, state)
                lost.append(name)
        # Dask gives up a job whose worker was gone for a while, and cancels it.
        lost += [name for name in list(self._cluster.worker_spec) if name not in self._jobs]
        kept = len(self._cluster.worker_spec) - len(lost)
        wanted = self._wanted(kept)
        if lost or kept < wanted or kept > wanted:
            self._submit(lost, wanted)

    def _note_jobs(self) -> None:
        """Take in which jobs there are, and which of their workers came up."""
        for name, made in list(self._cluster.workers.items()):
            if made.job_id and name not in self._jobs:
                self._jobs[name] = _Job(made.job_id)
        gone = set(self._jobs) - set(self._cluster.workers)
        for name in gone:
            del self._jobs[name]
        for info in self._client.scheduler_info(n_workers=-1)["workers"].values():
            job = self._jobs.get(str(info["name"]))
            if job is not None:
                job.most_bytes = max(job.most_bytes, int(info["metrics"].get("memory", 0)))
            if job is not None and not job.came_up:
                job.came_up = self._any_came_up = True
                self._n_failed_starts = 0
                self._tell(f"job {job.number}: its worker is up on {info['host']}.")

    def _tell_waiting(self, job: _Job, state: JobState) -> None:
        if state.state != "PENDING":
            return
        words = f"job {job.number} waits: {state.reason or 'to be looked at'}"
        if state.start:
            words += f"; Slurm expects it to start at {state.start}"
        if words != job.told:
            job.told = words
            self._tell(f"{words}.")

    def _tell_end(self, job: _Job, state: JobState | None) -> None:
        """Say how a job ended; ClusterError if too many ended before their workers came up."""
        end = ended_job(job.number) or state or JobState("no longer in the queue")
        where = f" on {end.node}" if end.node else ""
        why = f" ({end.reason})" if end.reason else ""
        before = "" if job.came_up else " before its worker was up"
        cause = self._causes[job.number] = self._cause(job, end)
        memory = ", out of memory" * (cause.kind == "memory")
        self._tell(f"job {job.number}{where} ended{before}{memory}: {end.state}{why}.")
        # One that was cancelled while it waited says nothing of those to come; Slurm cancels as
        # well what it cannot launch.
        if job.came_up or (end.state == "CANCELLED" and not end.node):
            return
        self._n_failed_starts += 1
        if self._n_failed_starts >= MOST_FAILED_STARTS:
            raise ClusterError(
                f"{self._n_failed_starts} jobs in a row ended before their workers were up, the "
                f"last, {job.number}, as {end.state}{why}. {_tail(self._logs, job.number)}"
            )

    def _wanted(self, kept: int) -> int:
        """Jobs that there should be now."""
        target, busy = self._client.run_on_scheduler(_load)
        if not busy and self._any_came_up:
            # Without work nothing is asked for anew, and nothing above the least is kept.
            return min(kept, self.least)
        return max(self.least, min(self.most, max(int(target), 1)))

    def _submit(self, lost: list[str], wanted: int) -> None:
        """Replace what is lost."""
        n_before = len(self._cluster.worker_spec) - len(lost)
        for name in lost:
            self._jobs.pop(name, None)
        try:
            self._cluster.sync(_correct, self._cluster, lost, wanted, self._names)
        except RuntimeError as error:
            # What sbatch said is in the middle of what dask-jobqueue says.
            said = str(error).partition("stderr:")[2] or str(error)
            raise ClusterError(f"Slurm refused a job: {' '.join(said.split())}") from error
        n_new = max(0, wanted - n_before)
        if n_new:
            again = " to replace it" if len(lost) == n_new == 1 else ""
            self._tell(f"asked for {n_new} job{'s' * (n_new > 1)}{again}.")


async def _correct(cluster: Any, lost: list[str], wanted: int, names: Iterator[str]) -> None:
    """Let go of lost jobs and bring the cluster to `wanted` of them, on its event loop."""
    for name in lost:
        cluster.worker_spec.pop(name, None)
        job = cluster.workers.pop(name, None)
        if job is not None:
            await job.close()
    while len(cluster.worker_spec) < wanted:
        cluster.worker_spec[next(names)] = cluster.new_spec
    idle = list(cluster.worker_spec)[wanted:]
    for name in idle:
        cluster.worker_spec.pop(name)
    try:
        # To await a cluster brings its jobs to what its specification says.
        await asyncio.shield(cluster)
    except RuntimeError:
        # Those that Slurm refused were never there.
        for name in [n for n, job in cluster.workers.items() if job.job_id is None]:
            cluster.worker_spec.pop(name, None)
            cluster.workers.pop(name).status = Status.failed
        raise


def _load(dask_scheduler: Any) -> tuple[int, bool]:
    """Tell, on the scheduler, how many workers Dask would have, and whether there is work."""
    unfinished = any(
        task.state not in ("memory", "erred", "released", "forgotten")
        for task in dask_scheduler.tasks.values()
    )
    return int(dask_scheduler.adaptive_target()), unfinished


def _tail(directory: str, number: str) -> str:
    """Quote the end of a job's log."""
    path, lines = log_end(directory, number, wait=True)
    if path is None:
        return f"There is no log of it in {directory}."
    return f"The end of {path}: " + " | ".join(lines)
