"""One task of an srun takes its part: it schedules, or works, or is the client.

All tasks run the same program, up to `join_allocation`. In the client's it returns; the others do
their part there, and leave the program when the client's has ended, however it ended.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import dask
import psutil
from distributed import Client

from haag_vq.cluster.allocation import Allocation, connect_client
from haag_vq.cluster.keys import (
    key_paths,
    named_key_directory,
    new_key_directory,
    remove_stale_keys,
    write_keys,
)
from haag_vq.cluster.local import worker_environment
from haag_vq.cluster.profiles import ALLOCATION, read_settings
from haag_vq.cluster.quiet import scheduler_settings
from haag_vq.cluster.ranks import CLIENT, SCHEDULER, Rank, memory_of_worker, this_rank
from haag_vq.cluster.request import seconds_of
from haag_vq.cluster.runner import Lead, Runner
from haag_vq.cluster.slurm import shared_directory
from haag_vq.cluster.watch import Watch
from haag_vq.errors import ClusterError, HaagVQError, UsageError

SETTINGS = ("interface", "shared-temp-directory", "local-directory", "death-timeout")


def join_allocation(
    overrides: Mapping[str, Any],
    memory_limit: int | None,
    threads: int | None,
    tell: Callable[[str], None],
) -> tuple[Client, Allocation, Path]:
    """Take this task's part; returns in the client's alone.

    Parameters
    ----------
    overrides : mapping
        Any of `SETTINGS`.
    memory_limit : int, optional
        Bytes of each worker; by default its task's share of the node's, less a margin.
    threads : int, optional
        Of each worker's searches; the task's cores by default.
    tell : callable
        Called with a line for each event.

    Returns
    -------
    client, allocation, key_directory
        The caller closes client and allocation and removes the directory.

    Raises
    ------
    UsageError
        If this is no task of an srun, there are too few, or they have too little memory.
    ClusterError
        If scheduler or workers do not come in time (``death-timeout``, 300 s).
    SystemExit
        In all tasks but the client's, at their end.
    """
    rank = this_rank()
    settings = _settings(overrides)
    if rank.number not in (SCHEDULER, CLIENT):
        memory_limit = memory_limit or memory_of_worker(rank)
    seconds = seconds_of(settings, "death-timeout", 300)
    shared = shared_directory(settings)
    if rank.number == SCHEDULER:
        _schedule(rank, shared, seconds, settings.get("interface"))
    keys = named_key_directory(shared, rank.step)
    try:
        runner = Runner(rank, keys, seconds)
    except HaagVQError:
        if rank.number == CLIENT:
            raise
        # It is the client's to say.
        sys.exit(1)
    if rank.number != CLIENT:
        _work(runner, rank, keys, settings, memory_limit or 0, threads or rank.n_cores)
    return *connect_client(runner, rank, keys, seconds, tell), keys


def _settings(overrides: Mapping[str, Any]) -> dict[str, Any]:
    given = {name.replace("_", "-"): value for name, value in overrides.items()}
    wrong = sorted(set(given) - set(SETTINGS))
    if wrong:
        raise UsageError(
            f"{wrong[0]}: an allocation has what its sbatch or salloc asked for; of a profile's "
            f"words only {', '.join(SETTINGS)} are for it."
        )
    settings = read_settings(ALLOCATION, given)
    interface, there = settings.get("interface"), psutil.net_if_addrs()
    if interface and interface not in there:
        raise UsageError(
            f"interface={interface}: {socket.gethostname()} has no such network interface, but "
            f"{', '.join(there)}."
        )
    return settings


def _schedule(rank: Rank, shared: str, seconds: float, interface: str | None) -> NoReturn:
    """Be the scheduler, then leave the program."""
    watch = Watch(rank.n_workers, seconds)
    if threading.current_thread() is threading.main_thread():
        # A Ctrl-C, and what Slurm sends before it kills, is for the client: with it this ends, in
        # order, and leaves no keys behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: watch.hurry())
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if os.path.isdir(shared):
        remove_stale_keys(shared)
    keys = new_key_directory(shared, rank.step)
    try:
        security, paths = write_keys(keys)
        with dask.config.set(scheduler_settings()):
            Runner(rank, keys, seconds, Lead(security, paths, interface, watch))
    except (RuntimeError, OSError, ValueError) as error:
        raise ClusterError(
            f"slurm-allocation, {rank}: the scheduler did not start: {error}. If it is the "
            "network interface, name one that the nodes share: interface=… (as ib0)."
        ) from error
    finally:
        shutil.rmtree(keys, ignore_errors=True)
    if not watch.client_came:
        raise ClusterError(
            "slurm-allocation: the scheduler's client, task 1, never came; it had "
            f"{seconds:.0f} s (death-timeout). What it wrote says why."
        )
    sys.exit(0)


def _work(
    runner: Runner, rank: Rank, keys: Path, settings: Mapping[str, Any], memory: int, threads: int
) -> NoReturn:
    """Become a nanny with a worker, as every other worker of ours: a program of its own."""
    scratch = os.path.expanduser(os.path.expandvars(settings.get("local-directory") or ""))
    opts = {
        "name": rank.number,
        "nthreads": 1,
        "memory_limit": memory,
        "interface": settings.get("interface"),
        "dashboard_address": "127.0.0.1:0",
        "local_directory": scratch or tempfile.gettempdir(),
        "death_timeout": settings["death-timeout"],
    }
    spec = json.dumps({"cls": "distributed.Nanny", "opts": opts})
    command = [sys.executable, "-m", "distributed.cli.dask_spec", runner.scheduler_address]
    # What Dask logs of connections that end would be the end of every log; errors are raised.
    quiet = {"DASK_LOGGING__DISTRIBUTED": "critical"}
    env = {**os.environ, **worker_environment(key_paths(keys), threads, rank.n_workers), **quiet}
    os.execve(sys.executable, [*command, "--spec", spec], env)
