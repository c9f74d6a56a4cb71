"""Which workers died while they ran a job's tasks, and of what.

Dask's scheduler logs every worker that leaves it, with the tasks that it had; a nanny logs every
worker that it kills for its memory. What Slurm says of a job is the cluster's keeper's to tell.
Who killed a worker is often known some seconds after it is gone, so that a death is told late.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from haag_vq.memory import oom_kills

# A nanny's word comes within its next look at its worker; a keeper looks every two seconds, and
# believes the queue the second time.
NANNY_SECONDS = 2.0
KEEPER_SECONDS = 15.0

Kind = Literal["memory", "ended", "unknown"]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a worker is gone."""

    kind: Kind
    """Out of memory; ended by someone's will or a clock (cancelled, preempted, expired, its node
    lost); or not known: a crash looks like that."""
    told: str
    """What is known, as the end of a sentence that begins with the worker."""
    measured_bytes: int = 0
    """The most memory that it was seen with; 0 where nobody looked."""
    limit_bytes: int = 0
    """Which it passed; 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class Death:
    """A worker that left while it had tasks of a job."""

    worker: str
    """Its Dask address."""
    host: str
    when: float
    """Seconds since 1970, by the scheduler's clock."""
    running: tuple[int | str, ...]
    """Tasks that it ran: the number of one of the group, the name of another. By their priority:
    the scheduler does not know which of those that it had sent were begun."""
    cause: Cause


@dataclass(frozen=True, slots=True)
class _Seen:
    """A worker, as the scheduler last knew it."""

    name: str
    host: str
    limit_bytes: int
    measured_bytes: int
    n_threads: int
    job: str
    """Number of its Slurm job; '' where there is none."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What the scheduler knows at one moment."""

    workers: dict[str, tuple[str, str, int, int, int]]
    """Name, host, memory limit, memory, threads; by address."""
    left: list[tuple[float, str, bool, list[int | str]]]
    """Those that left since: when, address, whether in order, tasks by priority."""
    killed: dict[str, int]
    """Bytes of those that their nannies killed for their memory, by address."""


def sight(scheduler: Any, group: str, since: float) -> Sight:
    """Look, on the scheduler, at its workers and its log."""
    workers = {
        ws.address: (
            str(ws.name),
            str(ws.host),
            int(ws.memory_limit or 0),
            int(ws.metrics.get("memory", 0)),
            int(ws.nthreads),
        )
        for ws in scheduler.workers.values()
    }
    job = group.partition("-")[2]
    left = []
    for stamp, event in reversed(scheduler.get_events("all")):
        if stamp <= since:
            break
        if event.get("action") == "remove-worker":
            keys = [key for key in event["processing-tasks"] if job in str(key)]
            tasks = [_number_or_name(key, group) for key in _by_priority(scheduler, keys)]
            if tasks:
                left.append((stamp, event["worker"], bool(event["expected"]), tasks))
    killed = {e["worker"]: int(e["rss"]) for _, e in scheduler.get_events("worker-restart-memory")}
    return Sight(workers, left[::-1], killed)


def _by_priority(scheduler: Any, keys: Any) -> list[Any]:
    known = [scheduler.tasks[key] for key in keys if key in scheduler.tasks]
    return [task.key for task in sorted(known, key=lambda task: task.priority or ())]


def _number_or_name(key: Any, group: str) -> int | str:
    return int(key[1]) if isinstance(key, tuple) and key[0] == group else str(key)


@dataclass(frozen=True, slots=True)
class _Open:
    """A death whose cause is waited for."""

    worker: str
    seen: _Seen
    when: float
    in_order: bool
    running: tuple[int | str, ...]
    noticed: float
    """By this process's clock."""


def keeper_of(client: Any) -> Any:
    """Return the `cluster.keeper` of the Slurm jobs that a client computes on; None for others."""
    return getattr(getattr(client, "cluster", None), "keeper", None)


def job_of(client: Any, worker: str) -> str:
    """Return the number of the Slurm job that a worker is in, by its name; '' for none."""
    keeper = keeper_of(client)
    return "" if keeper is None else str(keeper.job_of(worker))


class Deaths:
    """Tells of the workers that a job loses while it runs, each once its cause is known.

    Parameters
    ----------
    client : distributed.Client
    told : callable
        Called with each `Death`; what it raises ends the job.
    """

    def __init__(self, client: Any, told: Callable[[Death], None]) -> None:
        self.since = 0.0
        self._client = client
        self._told = told
        self._seen: dict[str, _Seen] = {}
        self._n_killed = {"": oom_kills()}
        self._open: list[_Open] = []

    def look(self, now: Sight, *, last: bool = False) -> None:
        """Take in what the scheduler knows; `last`: wait for no more words."""
        for address, (name, host, limit, memory, threads) in now.workers.items():
            before = self._seen.get(address)
            most = max(memory, before.measured_bytes if before else 0)
            # Looked up while it lives: of a job that is replaced nothing is known by its name.
            job = before.job if before else job_of(self._client, name)
            self._seen[address] = _Seen(name, host, limit, most, threads, job)
        for when, address, in_order, tasks in now.left:
            self.since = max(self.since, when)
            seen = self._seen.get(address, _Seen("", address, 0, 0, 1, ""))
            running = tuple(tasks[: seen.n_threads])
            self._open.append(_Open(address, seen, when, in_order, running, time.monotonic()))
        causes = [(death, self._cause(death, now, last)) for death in self._open]
        self._open = [death for death, cause in causes if cause is None]
        for death, cause in causes:
            if cause is not None:
                host = death.seen.host
                self._told(Death(death.worker, host, death.when, death.running, cause))

    def _cause(self, death: _Open, now: Sight, last: bool) -> Cause | None:
        """Find why a worker is gone; None while that may still be told."""
        seen = death.seen
        if death.worker in now.killed:
            return Cause(
                "memory",
                "Dask killed it as it came near its limit",
                max(now.killed[death.worker], seen.measured_bytes),
                seen.limit_bytes,
            )
        if death.in_order:
            return Cause("ended", "it left in order, at the end of its time")
        waited = float("inf") if last else time.monotonic() - death.noticed
        keeper = keeper_of(self._client)
        told: Cause | None = None if keeper is None else keeper.cause_of(seen.job)
        back = [
            address
            for address, (name, *_) in now.workers.items()
            if name == seen.name and address != death.worker
        ]
        if told is not None:
            return told
        # A nanny that has brought its worker back shows that the job lives: it has no end to tell.
        if waited < (NANNY_SECONDS if keeper is None or back else KEEPER_SECONDS):
            return None
        if self._kernel_killed(seen.name, back, keeper is not None):
            killed = "the kernel killed it, for want of memory in its cgroup"
            return Cause("memory", killed, seen.measured_bytes, seen.limit_bytes)
        return Cause("unknown", "nobody said why it died", seen.measured_bytes, seen.limit_bytes)

    def _kernel_killed(self, name: str, back: list[str], in_a_job: bool) -> bool:
        """Whether the kernel has killed, lately, in the cgroup where a worker was.

        A job has one of its own, of which the worker that is back can tell; the workers that
        `connect` starts on this machine are in this process's own.
        """
        if in_a_job:
            found = self._client.run(oom_kills, workers=back, on_error="ignore") if back else {}
            n = max((int(count) for count in found.values()), default=0)
        elif getattr(self._client.cluster, "loses_workers_for_good", False):
            name, n = "", oom_kills()
        else:
            return False
        before, self._n_killed[name] = self._n_killed.get(name, 0), n
        return n > before
