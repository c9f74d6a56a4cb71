"""One word for workers: `connect` gives a Dask client and closes what it started."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import dask
from distributed import Client

from haag_vq.cluster.local import (
    KEY_DIR_PREFIX,
    process_space,
    start_local_cluster,
    wait_for_workers,
)
from haag_vq.errors import ClusterError, UsageError
from haag_vq.memory import n_cores, parse_bytes

# Worker processes that `connect("local")` starts by itself: more cores go to each search
# rather than to more copies of the queries and the libraries. Arbitrary.
MOST_LOCAL_WORKERS = 4


class Connection:
    """A Dask client, and the workers behind it if `connect` started them.

    A context manager: inside it the client is Dask's default, so that every ``compute()`` and
    `ground_truth` run on its workers; at its end the workers are gone.
    """

    def __init__(self, client: Client, cluster: Any = None, keys: Path | None = None) -> None:
        self.client = client
        self._cluster = cluster
        self._keys = keys

    @property
    def dashboard_link(self) -> str:
        """Address of the scheduler's dashboard, on loopback."""
        return str(self.client.dashboard_link)

    def scale(self, jobs: int) -> None:
        """Change the number of workers that `connect` started; each keeps the share it was given.

        Memory and threads are not divided anew: more workers than `connect` was asked for may
        together use more than the machine has.
        """
        if self._cluster is None:
            raise UsageError("these workers were not started here and cannot be scaled from here.")
        self._cluster.scale(jobs)

    def close(self) -> None:
        """Disconnect, and end what was started. Does nothing the second time."""
        try:
            self.client.close()
        finally:
            # Also when an interrupt came in between: workers and keys must not stay.
            if self._cluster is not None:
                self._cluster.close()
            if self._keys is not None:
                shutil.rmtree(self._keys, ignore_errors=True)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Connection({self.client!r})"


def connect(
    where: str = "local",
    jobs: int | None = None,
    *,
    memory_limit: int | str | None = None,
    threads: int | None = None,
) -> Connection:
    """Connect a Dask client to workers here or elsewhere.

    Parameters
    ----------
    where : str
        ``"local"``: worker processes on this machine, started now, over TLS on loopback. It works
        in a script without a ``__main__`` guard and in a notebook. Or the address of a
        scheduler, ``"tcp://…"``.
    jobs : int, optional
        Worker processes; by default one for each core, at most four.
    memory_limit : int or str, optional
        Of each worker, as ``"2GB"``; an equal share of what this process may use by default.
    threads : int, optional
        Threads of each worker's FAISS searches; an equal share of the cores by default.

    Returns
    -------
    Connection
        Use it as a context manager.

    Raises
    ------
    UsageError, ClusterError
        If the arguments are unknown, or workers or scheduler cannot be reached.

    Examples
    --------
    >>> from haag_vq import connect, load_dummy_dataset, ground_truth
    >>> with connect("local", jobs=1):
    ...     truth = ground_truth(load_dummy_dataset(2_000, 16), k=10)
    >>> truth.ids.shape
    (100, 10)
    """
    if "://" in where:
        return _attach(where)
    if where != "local":
        raise UsageError(f"connect({where!r}): 'local' or the address of a scheduler is needed.")
    n_workers = min(n_cores(), MOST_LOCAL_WORKERS) if jobs is None else jobs
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    _remove_stale_keys()
    cluster, security, keys = start_local_cluster(n_workers, limit, threads)
    client = None
    try:
        client = Client(cluster, security=security)
        wait_for_workers(client, n_workers, limit)
    except BaseException:
        if client is not None:
            client.close()
        cluster.close()
        shutil.rmtree(keys, ignore_errors=True)
        raise
    return Connection(client, cluster, keys)


def _attach(address: str) -> Connection:
    problem = _why_not(address)
    if problem is not None:
        # The client that failed must go now, in this thread: collected later, in the thread that
        # starts another one, its finalizer waits for the lock of that start (10 s, then an error).
        gc.collect()
        raise ClusterError(
            f"no Dask scheduler answered at {address}: {problem}. Check the address; a tls:// one "
            "needs certificates in Dask's configuration (distributed.comm.tls)."
        )
    return Connection(Client(address))


def _why_not(address: str) -> str | None:
    """Connect and leave again; None if that went well, else what went wrong."""
    try:
        _check_answers(address)
        # A client that cannot connect would stay Dask's default, and hang what runs after it.
        Client(address, set_as_default=False).close()
    except (OSError, TypeError, ValueError) as error:
        return str(error) or type(error).__name__
    return None


def _check_answers(address: str) -> None:
    """Raise OSError or ValueError unless something listens at a tcp:// or tls:// address."""
    scheme, _, place = address.partition("://")
    host, _, port = place.rpartition(":")
    if scheme not in ("tcp", "tls") or not host or not port.isdigit():
        raise ValueError("tcp://HOST:PORT or tls://HOST:PORT is needed")
    seconds = dask.utils.parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
    socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()


def _remove_stale_keys() -> None:
    """Remove key directories of this user that a killed process left: its scheduler is dead."""
    for path in Path(tempfile.gettempdir()).glob(f"{KEY_DIR_PREFIX}*"):
        try:
            owner = path.stat().st_uid
            where, pid = (path / "pid").read_text().split()
        except (OSError, ValueError):
            continue
        # Nodes and containers whose processes we cannot see may share a temporary directory.
        if owner == os.getuid() and where == process_space() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)
