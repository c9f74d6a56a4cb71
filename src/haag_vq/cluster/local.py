"""Worker processes on this machine, over TLS, that work from an unguarded script.

The scheduler lives in this process, so it cannot outlive it, and workers leave when it is gone.
Workers are programs of their own, not forks or spawns of the caller's ``__main__``: a script
needs no ``if __name__ == "__main__"``, and a notebook works. TLS is on because loopback is
shared by every user of a machine, and whoever reaches a Dask scheduler can run code.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import psutil
from distributed import Scheduler
from distributed.deploy.spec import SpecCluster
from distributed.deploy.subprocess import Subprocess
from distributed.security import Security

from haag_vq import inflight
from haag_vq.cluster.keys import new_key_directory, write_connection, write_keys
from haag_vq.cluster.quiet import quiet_settings, scheduler_settings
from haag_vq.errors import ClusterError, UsageError
from haag_vq.memory import format_bytes, machine_memory, n_cores

# A worker that cannot reach its scheduler gives up after this: slow file systems make imports
# slow, and a scheduler that is gone for good should not keep processes alive.
DEATH_TIMEOUT = "300s"
START_SECONDS = 90


# What says how many threads a process's searches have.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class _WorkerProcess(Subprocess):  # type: ignore[misc, unused-ignore]
    """One nanny and its worker, started by command line with an environment of their own."""

    def __init__(
        self, scheduler: str, name: int, opts: dict[str, Any], env: dict[str, str]
    ) -> None:
        self.scheduler = scheduler
        self.name = name
        self._opts = opts
        self._env = env
        super().__init__()

    async def _start(self) -> None:
        spec = {"cls": "distributed.Nanny", "opts": {**self._opts, "name": self.name}}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "distributed.cli.dask_spec",
            self.scheduler,
            "--spec",
            json.dumps(spec),
            env={**os.environ, **self._env},
            stdin=asyncio.subprocess.DEVNULL,
            # A Ctrl-C at the terminal goes to the program that owns the cluster, which ends
            # its workers in order; sent to them too, each would print a traceback of its own.
            start_new_session=True,
        )

    async def close(self) -> None:
        """Kill worker and nanny; the nanny stands still meanwhile, or it would report the death."""
        if self.process is not None and self.process.returncode is None:
            with suppress(psutil.NoSuchProcess):
                nanny = psutil.Process(self.process.pid)
                nanny.suspend()
                for process in (*reversed(nanny.children(recursive=True)), nanny):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
            await self.process.wait()
        await super().close()


class _LocalCluster(SpecCluster):  # type: ignore[misc, unused-ignore]
    """Ends its workers at once.

    `SpecCluster` tells them to retire and kills them while they do. One that was just saying
    goodbye then ends the program with a trace of the connection that broke.
    """

    # Nannies restart workers; nobody restarts nannies.
    loses_workers_for_good = True

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # SpecCluster ends a nanny whose worker is not back within 15 s. A machine under load takes
        # longer to start it again; who waits for it has a limit of his own.
        super(SpecCluster, self)._update_worker_status(op, msg)

    async def _close(self) -> None:
        await asyncio.gather(*(worker.close() for worker in self.workers.values()))
        await super()._close()


@dataclass(frozen=True, slots=True)
class LocalShare:
    """What each of some workers gets of this machine."""

    n_threads: int
    """Of a search."""
    memory_bytes: int
    """Limit of the worker."""


def local_share(n_workers: int, memory_limit: int | None = None) -> LocalShare:
    """Divide this machine among workers, of which each may have a limit of its own.

    Raises
    ------
    UsageError
        If all of them together may use more memory than this machine.
    """
    total, origin = machine_memory()
    if memory_limit is not None and memory_limit * n_workers > total:
        raise UsageError(
            f"{n_workers:,} worker(s) of {format_bytes(memory_limit)} may use "
            f"{format_bytes(memory_limit * n_workers)} together, this machine "
            f"{format_bytes(total)} ({origin}). Give each at most "
            f"{format_bytes(total // n_workers)} (--memory-limit), or start fewer (--workers)."
        )
    return LocalShare(max(1, n_cores() // n_workers), memory_limit or total // n_workers)


def start_local_cluster(
    n_workers: int, memory_limit: int | None = None, threads: int | None = None
) -> tuple[SpecCluster, Security, Path]:
    """Start `n_workers` worker processes with one Dask thread each.

    Parameters
    ----------
    memory_limit : int, optional
        Bytes of each worker; an equal share of what this machine may use by default.
    threads : int, optional
        Threads of one FAISS search; an equal share of the cores by default.

    Returns
    -------
    cluster, security, key_directory
        The caller closes the cluster and removes the directory.

    Raises
    ------
    UsageError
        If fewer than one worker or thread is asked for, or more memory than there is.
    ClusterError
        If the workers do not come up.
    """
    if n_workers < 1:
        raise UsageError(f"{n_workers} workers were asked for: at least 1 is needed.")
    share = local_share(n_workers, memory_limit)
    n_threads = share.n_threads if threads is None else threads
    if n_threads < 1:
        raise UsageError(f"threads={n_threads} of each worker: at least 1 is needed.")
    # Dask logs a trace for each connection that ends while it is closed.
    for name in ("batched", "comm", "core"):
        logging.getLogger(f"distributed.{name}").setLevel(logging.ERROR)
    keys = new_key_directory()
    try:
        security, paths = write_keys(keys)
        env = worker_environment(paths, n_threads, n_workers)
        opts = {
            "nthreads": 1,
            "memory_limit": share.memory_bytes,
            "host": "127.0.0.1",
            "dashboard_address": "127.0.0.1:0",
            "local_directory": str(keys),
            "death_timeout": DEATH_TIMEOUT,
            # What a task raises comes back whole; a worker whose scheduler was killed just ends.
            "silence_logs": "CRITICAL",
        }
        worker = {"cls": _WorkerProcess, "options": {"opts": opts, "env": env}}
        scheduler = {
            "cls": Scheduler,
            "options": {
                "protocol": "tls://",
                "host": "127.0.0.1",
                "security": security,
                "dashboard_address": "127.0.0.1:0",
                "dashboard": True,
                "local_directory": str(keys),
            },
        }
        with dask.config.set(scheduler_settings()):
            cluster = _LocalCluster(
                scheduler=scheduler,
                workers=dict.fromkeys(range(n_workers), worker),
                worker=worker,
                security=security,
                name="haag_vq local",
                silence_logs="ERROR",
            )
        write_connection(keys, cluster.scheduler_address, paths)
    except BaseException:
        shutil.rmtree(keys, ignore_errors=True)
        raise
    return cluster, security, keys


def wait_for_workers(client: Any, n_workers: int, limit: int | None) -> None:
    """Wait until all workers have registered, or say why that does not happen."""
    try:
        client.wait_for_workers(n_workers, timeout=START_SECONDS)
    except TimeoutError as error:
        there = len(client.scheduler_info(n_workers=-1)["workers"])
        size = format_bytes(limit) if limit else "their share of the memory"
        raise ClusterError(
            f"{there} of {n_workers} workers came up within {START_SECONDS} s, each with {size}. "
            "The machine may be overloaded; start fewer with jobs= (--workers)."
        ) from error


def worker_environment(keys: dict[str, str], n_threads: int, n_workers: int) -> dict[str, str]:
    """Environment of each of some workers: TLS files, by Dask's configuration, and its shares."""
    config = {
        "distributed": {
            "comm": {
                "require-encryption": True,
                "tls": {
                    "ca-file": keys["ca"],
                    "worker": {"cert": keys["cert"], "key": keys["key"]},
                },
            }
        }
    }
    with dask.config.set(quiet_settings()):
        merged = dask.config.merge(dask.config.global_config, config)
    return {
        "DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(merged),
        inflight.VARIABLE: str(inflight.of_each_worker(n_workers)),
        **dict.fromkeys(THREAD_VARIABLES, str(n_threads)),
    }
