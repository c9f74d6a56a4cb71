"""Slurm jobs as Dask workers: dask-jobqueue's cluster, made private, with one search a job.

A job is one node's share: one worker process with one Dask thread, whose searches use all of the
job's cores. All connections are TLS; dashboards listen on loopback.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask
from distributed.security import Security

from haag_vq import inflight
from haag_vq.cluster.keys import (
    new_key_directory,
    remove_stale_keys,
    write_connection,
    write_keys,
)
from haag_vq.cluster.local import THREAD_VARIABLES
from haag_vq.cluster.quiet import quiet_settings, scheduler_settings
from haag_vq.cluster.request import JobRequest, format_walltime
from haag_vq.cluster.squeue import check_slurm, compute_nodes
from haag_vq.errors import ClusterError

# Seen by all nodes on any cluster that we know of, and private.
SHARED = "~/.cache/haag_vq/cluster"


def start_slurm_cluster(request: JobRequest, n_jobs: int) -> tuple[Any, Security, Path]:
    """Start a scheduler in this process for up to `n_jobs` of a profile; none is submitted yet.

    Returns
    -------
    cluster, security, key_directory
        The caller closes the cluster and removes the directory.

    Raises
    ------
    ClusterError
        If Slurm's programs are not on this machine, or the scheduler cannot start.
    WriteError
        If the directory for the keys cannot be made.
    """
    check_slurm()
    warn_on_a_login_node()
    dask_jobqueue = jobqueue()
    shared = shared_directory(request.settings)
    if os.path.isdir(shared):
        remove_stale_keys(shared)
    keys = new_key_directory(shared)
    try:
        security, paths = write_keys(keys)
        with dask.config.set(scheduler_settings()):
            cluster = dask_jobqueue.SLURMCluster(
                **_options(request, n_jobs),
                protocol="tls://",
                security=security,
                silence_logs="error",
                scheduler_options={"dashboard_address": "127.0.0.1:0", "dashboard": True},
            )
        write_connection(keys, cluster.scheduler_address, paths)
    except (RuntimeError, OSError, ValueError) as error:
        shutil.rmtree(keys, ignore_errors=True)
        raise ClusterError(
            f"the scheduler for {request.profile} did not start: {error}. If it is the network "
            "interface, name one that the nodes share: interface=… (as ib0; `ip addr` lists them)."
        ) from error
    except BaseException:
        shutil.rmtree(keys, ignore_errors=True)
        raise
    return cluster, security, keys


def job_script(request: JobRequest) -> str:
    """Return the script that a job of this profile runs, the scheduler's address left open."""
    options = _options(request, 1)
    job = jobqueue().slurm.SLURMJob(
        "tls://SCHEDULER:PORT",
        name="NAME",
        protocol="tls://",
        **{**options, "log_directory": None},
    )
    script: str = job.job_script()
    return script


def shared_directory(settings: Mapping[str, Any]) -> str:
    """Directory that all nodes see, for keys."""
    return os.path.expanduser(settings.get("shared-temp-directory") or SHARED)


def log_directory(request: JobRequest) -> str:
    """Directory of the jobs' logs."""
    named = request.settings.get("log-directory")
    return os.path.expanduser(named or f"{SHARED}/logs")


def _options(request: JobRequest, n_jobs: int) -> dict[str, Any]:
    """Arguments of dask-jobqueue for a request, of which there are so many."""
    settings = request.settings
    threads = [f"export {name}={request.job_cores}" for name in THREAD_VARIABLES]
    return {
        # One Dask thread; the search itself uses the cores.
        "cores": 1,
        "processes": 1,
        "job_cpu": request.job_cores,
        "memory": f"{request.memory_bytes} B",
        "job_mem": f"{-(-request.job_memory_bytes >> 20)}M",
        "walltime": format_walltime(request.walltime_seconds),
        "queue": settings.get("queue"),
        "account": settings.get("account"),
        "interface": settings.get("interface"),
        "local_directory": settings.get("local-directory"),
        "log_directory": log_directory(request),
        "death_timeout": request.death_timeout,
        "python": settings.get("python") or sys.executable,
        "job_name": settings.get("name") or "haag-vq",
        "job_extra_directives": request.directives(),
        "job_script_prologue": [
            "umask 077",
            *threads,
            "export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True",
            f"export {inflight.VARIABLE}={inflight.of_each_worker(n_jobs)}",
            *_quiet_variables(),
            *settings["job-script-prologue"],
        ],
        "worker_extra_args": [
            "--lifetime",
            f"{request.lifetime_seconds}s",
            "--lifetime-stagger",
            f"{request.stagger_seconds}s",
            "--dashboard-address",
            "127.0.0.1:0",
        ],
    }


def _quiet_variables() -> list[str]:
    """Settings of Dask as lines of a job script."""
    return [
        f"export DASK_{name.upper().replace('.', '__').replace('-', '_')}={value}"
        for name, value in quiet_settings().items()
    ]


def jobqueue() -> Any:
    """Import dask-jobqueue without what its import does to Ctrl-C.

    It replaces the handler of SIGINT by one that ends the program, and can only do so in the main
    thread.
    """
    if "dask_jobqueue" in sys.modules:
        return sys.modules["dask_jobqueue"]
    if threading.current_thread() is not threading.main_thread():
        raise ClusterError("connect to Slurm in the main thread first: dask-jobqueue needs it.")
    before = signal.getsignal(signal.SIGINT)
    try:
        return importlib.import_module("dask_jobqueue")
    finally:
        signal.signal(signal.SIGINT, before)


def warn_on_a_login_node() -> None:
    """Warn where client and scheduler would run on none of the cluster's compute nodes."""
    host = socket.gethostname()
    nodes = set() if "SLURM_JOB_ID" in os.environ else compute_nodes()
    if nodes and host not in nodes and host.split(".")[0] not in nodes:
        warnings.warn(
            f"client and scheduler run here, on {host}, which is none of the cluster's compute "
            "nodes. Sites allow little work on login nodes: for a long job, run this inside a job "
            "(haag-vq submit).",
            stacklevel=4,
        )
