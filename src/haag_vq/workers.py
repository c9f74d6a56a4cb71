"""Who will run the tasks: the Dask client or local scheduler in force, and what it may use."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import dask
from dask.base import get_scheduler
from distributed import get_worker, wait
from distributed.client import FutureCancelledError, FuturesCancelledError
from distributed.comm import CommClosedError
from distributed.scheduler import KilledWorker

from haag_vq import interrupts
from haag_vq.deaths import Death, Deaths, Sight, keeper_of, sight
from haag_vq.errors import ClusterError
from haag_vq.lags import Lag, Lags, lagging
from haag_vq.memory import (
    Allowance,
    n_cores,
    peak_rss_bytes,
    process_allowance,
    worker_allowance,
)

# Dask's word for why futures are cancelled when the client has lost the scheduler.
_LOST = "scheduler-connection-lost"

# A nanny restarts its worker in a second or two, under load in half a minute; without nannies
# nobody does.
NO_WORKERS_SECONDS = 60

# Between two looks at a run, at first and later. One takes client and scheduler 9 ms: four a second
# were 3.8% of a core for as long as it ran (measured).
FIRST_LOOK_SECONDS, LOOK_SECONDS = 0.25, 1.0
# A run of this age is looked at as seldom as any. Arbitrary.
OLD_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes that tasks will run in."""

    client: Any
    """`distributed.Client`, or None for a local scheduler."""
    n_workers: int
    """Processes; 0 when a cluster has none yet."""
    n_threads: int
    """Tasks that one process runs at once."""
    allowance: Allowance
    """Of the process that may use least."""
    search_threads: int | None
    """Threads for one FAISS search; None: what the worker's environment says."""
    shares_memory: bool
    """Tasks run in this process: arguments are not copied."""

    def peak_rss(self) -> int:
        """Peak RSS of the largest process, in bytes, since it started."""
        if self.client is None:
            return peak_rss_bytes()
        return max(self.client.run(peak_rss_bytes).values(), default=0)


def current_workers() -> Workers:
    """Describe the scheduler that ``compute()`` would use now."""
    scheduler = get_scheduler() or dask.threaded.get
    client = getattr(scheduler, "__self__", None)
    if client is not None and hasattr(client, "scheduler_info"):
        return _of_client(client)
    if scheduler is dask.local.get_sync:
        return Workers(None, 1, 1, process_allowance(), None, True)
    # Searches that share a process or a machine must share its cores.
    n = _pool_size()
    if scheduler is dask.threaded.get:
        return Workers(None, 1, n, process_allowance(), max(1, n_cores() // n), True)
    return Workers(None, n, 1, process_allowance(n), max(1, n_cores() // n), False)


def _of_client(client: Any) -> Workers:
    infos = list(client.scheduler_info(n_workers=-1)["workers"].values())
    if not infos:
        request = getattr(client.cluster, "request", None)
        if request is None:
            return Workers(client, 0, 1, process_allowance(), None, False)
        # Jobs that wait: what their workers will be is known.
        allowance = worker_allowance(request.memory_bytes, f"memory of {request.profile}")
        return Workers(client, client.cluster.n_expected, 1, allowance, None, False)
    n_threads = max(int(info["nthreads"]) for info in infos)
    limits = [int(info["memory_limit"]) for info in infos if info["memory_limit"]]
    hosts = [info["host"] for info in infos]
    if limits:
        allowance = worker_allowance(min(limits), "the workers' memory limit")
    else:
        allowance = process_allowance(max(hosts.count(host) for host in hosts))
    threads = None if n_threads == 1 else 1
    return Workers(client, len(infos), n_threads, allowance, threads, False)


def _pool_size() -> int:
    configured = dask.config.get("num_workers", None)
    pool = dask.config.get("pool", None)
    if pool is not None:
        return int(getattr(pool, "_max_workers", 0)) or n_cores()
    return int(configured or dask.system.CPU_COUNT)


def run(
    collection: Any,
    workers: Workers,
    group: str,
    n_tasks: int,
    progress: Callable[[int], None] | None,
    lost: Callable[[Death], None] | None = None,
    slow: Callable[[Lag], None] | None = None,
) -> Any:
    """Compute a Delayed where `workers` says, telling `progress` how many of a group are done.

    Parameters
    ----------
    group : str
        First element of the keys ``(group, i)`` that are counted.
    progress : callable, optional
        Called with the number of finished tasks, now and then, from this thread or another.
    lost : callable, optional
        Called with each worker that died with tasks of these; what it raises ends the run.
    slow : callable, optional
        Called with each of these tasks that takes far longer than others.

    Notes
    -----
    An interrupt cancels what is running on a cluster before it goes on.
    """
    if workers.client is None:
        return _run_local(collection, group, progress)
    future = workers.client.compute(collection)
    deaths = Deaths(workers.client, lost or (lambda death: None))
    lags = Lags(slow or (lambda lag: None))
    try:
        _watch(workers.client, future, group, n_tasks, progress, deaths, lags)
        return future.result()
    except KilledWorker as error:
        raise ClusterError(
            f"a task was lost with its worker {error.allowed_failures + 1} times and given up "
            f"({error.task}). The usual cause is memory: the operating system or Slurm killed the "
            "worker. Give each worker more, use a smaller chunk_size, or see the workers' logs."
        ) from error
    except (
        _UnreachableError,
        CommClosedError,
        FutureCancelledError,
        FuturesCancelledError,
    ) as error:
        groups = getattr(error, "error_groups", [error])
        if any(getattr(group, "reason", _LOST) != _LOST for group in groups):
            raise
        raise ClusterError(
            "the Dask scheduler was lost: it has ended, or this process cannot reach it any more. "
            "Start it again, and the same job; what is finished is in the checkpoint, if it has "
            "one."
        ) from error
    except BaseException:
        future.cancel()
        raise


def _run_local(collection: Any, group: str, progress: Callable[[int], None] | None) -> Any:
    n_done = 0

    def count(key: Any, *_: Any) -> None:
        nonlocal n_done
        if isinstance(key, tuple) and key[0] == group:
            n_done += 1
            if progress is not None:
                progress(n_done)

    with dask.callbacks.Callback(posttask=count):
        return collection.compute()


class _UnreachableError(Exception):
    """The scheduler did not answer."""


def _watch(
    client: Any,
    future: Any,
    group: str,
    n_tasks: int,
    progress: Callable[[int], None] | None,
    deaths: Deaths,
    lags: Lags,
) -> None:
    """Wait for `future`; give up where all workers are gone and none will come again."""
    started = last_seen = time.monotonic()
    while not future.done():
        interrupts.check()
        age = min(1.0, (time.monotonic() - started) / OLD_SECONDS)
        with suppress(TimeoutError):
            wait(future, timeout=max(FIRST_LOOK_SECONDS, age * LOOK_SECONDS))
            continue
        keeper = keeper_of(client)
        if keeper is not None and keeper.trouble is not None:
            raise keeper.trouble
        n_done, seen, late = _looked(client, group, n_tasks, deaths.since)
        if progress is not None:
            progress(n_done)
        deaths.look(seen)
        lags.look(late)
        if seen.workers:
            last_seen = time.monotonic()
        elif getattr(client.cluster, "loses_workers_for_good", False) and (
            time.monotonic() - last_seen > NO_WORKERS_SECONDS
        ):
            raise ClusterError(
                f"all workers have been gone for {NO_WORKERS_SECONDS} s. Most likely the system "
                "killed them for want of memory: give each more, or use a smaller chunk_size."
            )
    if future.status != "finished":
        # What is known of the workers may say more than the error.
        _, seen, _ = _looked(client, group, n_tasks, deaths.since)
        deaths.look(seen, last=True)
    elif progress is not None:
        progress(n_tasks)


def _looked(client: Any, group: str, n_tasks: int, since: float) -> tuple[int, Sight, list[Lag]]:
    """Have the scheduler look."""
    try:
        found: tuple[int, Sight, list[Lag]] = client.run_on_scheduler(
            _look, group=group, n_tasks=n_tasks, since=since
        )
    except OSError as error:  # Dask's own of connections among them
        raise _UnreachableError from error
    return found


def _look(
    dask_scheduler: Any, group: str, n_tasks: int, since: float
) -> tuple[int, Sight, list[Lag]]:
    """Count, on the scheduler, a group's tasks that are or were finished; look at the workers."""
    seen = sight(dask_scheduler, group, since)
    found = dask_scheduler.task_groups.get(group)
    if found is None:
        return 0, seen, []
    unfinished = sum(
        int(found.states[s]) for s in ("waiting", "no-worker", "queued", "processing", "released")
    )
    n_done = max(0, n_tasks - unfinished)
    return n_done, seen, lagging(dask_scheduler, group, n_done)


def this_worker() -> str:
    """Address of the Dask worker that runs this task; '' outside of one."""
    try:
        return str(get_worker().address)
    except ValueError:
        return ""
