"""What a job of a profile finds where it runs: measured by one that does nothing else."""

from __future__ import annotations

import os
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from haag_vq.cluster import connect
from haag_vq.doctor import doctor
from haag_vq.errors import ClusterError
from haag_vq.memory import n_cores, worker_allowance


@dataclass(frozen=True, slots=True)
class JobFacts:
    """A job, as its worker sees it."""

    node: str
    address: str
    """Of the worker, as the scheduler reaches it."""
    interface: str
    """Which that address is of; '' if it cannot be told."""
    n_cores: int
    cpu: str
    memory_bytes: int
    """That a task may be planned with."""
    memory_origin: str
    scratch: str
    """The worker's local directory."""
    scratch_free_bytes: int
    gflops: float
    """Of a search by FAISS; 0 where it was not measured."""
    data_root: str
    data_entries: int
    """Files and directories in it; -1 if the node does not see it."""
    seconds: float
    """From submission to the worker's first answer."""


def check_profile(where: str, wait_seconds: float, **overrides: Any) -> JobFacts:
    """Submit one job of a profile, look at what it finds, and end it.

    Parameters
    ----------
    wait_seconds : float
        How long the job may wait in the queue.

    Raises
    ------
    ClusterError
        If no worker came up by then, or jobs end before one does.
    UsageError, SourceNotFoundError
        As of `connect`.
    """
    started = time.monotonic()
    with connect(where, jobs=1, **overrides) as connection:
        client, cluster = connection.client, connection.client.cluster
        while not client.scheduler_info(n_workers=-1)["workers"]:
            if cluster.keeper.trouble is not None:
                raise cluster.keeper.trouble
            if time.monotonic() - started > wait_seconds:
                raise ClusterError(
                    f"no job of {where} has started within {wait_seconds:.0f} s. Wait for longer "
                    "with --wait, or ask for less."
                )
            time.sleep(0.2)
        root = cluster.request.settings.get("data-root") or ""
        ((address, facts),) = client.run(_look, root=root).items()
        return JobFacts(address=address, seconds=time.monotonic() - started, **facts)


def _look(root: str, dask_worker: Any) -> dict[str, Any]:
    """Look around, in the job."""
    report = doctor(quick=True)
    scratch = dask_worker.local_directory
    limit = dask_worker.memory_manager.memory_limit
    allowance = worker_allowance(limit, "the worker's limit") if limit else report.allowance
    host = dask_worker.address.partition("://")[2].rpartition(":")[0]
    data = Path(os.path.expandvars(os.path.expanduser(root)))
    return {
        "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "interface": _interface_of(host),
        "n_cores": int(os.environ.get("SLURM_CPUS_PER_TASK") or n_cores()),
        "cpu": report.blas.cpu.model,
        "memory_bytes": allowance.bytes,
        "memory_origin": allowance.origin,
        "scratch": scratch,
        "scratch_free_bytes": shutil.disk_usage(scratch).free,
        "gflops": 0.0 if report.speeds is None else report.speeds.faiss_gflops,
        "data_root": str(data) if root else "",
        "data_entries": sum(1 for _ in data.iterdir()) if root and data.is_dir() else -1,
    }


def _interface_of(host: str) -> str:
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == host for address in addresses):
            return str(name)
    return ""
