"""One word for workers: `connect` gives a Dask client and closes what it started."""

from __future__ import annotations

import gc
import shutil
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import dask
from distributed import Client
from distributed.security import Security

from haag_vq.cluster.keeper import Keeper
from haag_vq.cluster.keys import CONNECTION, read_connection, remove_stale_keys
from haag_vq.cluster.local import start_local_cluster, wait_for_workers
from haag_vq.cluster.profiles import ALLOCATION, is_profile, shipped_names
from haag_vq.cluster.request import check_jobs, job_request
from haag_vq.cluster.slurm import log_directory, start_slurm_cluster
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

    def __init__(
        self,
        client: Client,
        cluster: Any = None,
        keys: Path | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.client = client
        self._cluster = cluster
        self._keys = keys
        self._keeper = keeper

    @property
    def file(self) -> Path | None:
        """The file by which a notebook or a second terminal attaches (``connect(FILE)``).

        None where the workers were not started here. It is private to the user (0600), and goes
        with the cluster.
        """
        return None if self._keys is None else self._keys / CONNECTION

    @property
    def dashboard_link(self) -> str:
        """Address of the scheduler's dashboard, on loopback."""
        return str(self.client.dashboard_link)

    def scale(self, jobs: int) -> None:
        """Change the number of workers (of Slurm: of jobs) that `connect` started.

        Each keeps the share it was given. Memory and threads are not divided anew: more local
        workers than `connect` was asked for may together use more than the machine has.

        Raises
        ------
        UsageError
            If they were not started here, are of an allocation, or there are more than the profile
            allows.
        """
        if self._keeper is not None:
            self.adapt(jobs, jobs)
            return
        if self._cluster is None:
            raise UsageError("these workers were not started here and cannot be scaled from here.")
        self._cluster.scale(jobs)

    def adapt(self, least: int, most: int) -> None:
        """Have as many Slurm jobs as there is work for, from `least` to `most`.

        Raises
        ------
        UsageError
            If the workers are no Slurm jobs of ours, or there are more than the profile allows.
        """
        if self._keeper is None:
            raise UsageError("only Slurm jobs that were started here follow the work.")
        check_jobs(self._cluster.request, most)
        if not 0 <= least <= most:
            raise UsageError(f"adapt({least}, {most}): from at least 0 jobs to at least as many.")
        self._keeper.least, self._keeper.most = least, most
        self._cluster.n_expected = max(1, least)

    def job_script(self) -> str:
        """Return the script that each Slurm job runs, or that makes an allocation; '' locally."""
        script = getattr(self._cluster, "job_script", None)
        return "" if script is None else str(script())

    def logs(self) -> dict[str, str]:
        """Return what the workers logged, by address."""
        found = self.client.get_worker_logs()
        return {
            address: "\n".join(line for _, line in reversed(lines))
            for address, lines in found.items()
        }

    def close(self) -> None:
        """Disconnect, and end what was started. Does nothing the second time."""
        if self._keeper is not None:
            self._keeper.stop()
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
    adapt: tuple[int, int] | None = None,
    memory_limit: int | str | None = None,
    threads: int | None = None,
    **overrides: Any,
) -> Connection:
    """Connect a Dask client to workers here or elsewhere.

    Parameters
    ----------
    where : str
        ``"local"``: worker processes on this machine, started now, over TLS on loopback. It works
        in a script without a ``__main__`` guard and in a notebook. The name of a Slurm profile
        (``"pace-ice"``) or the path of one (``"./my-site.yaml"``): jobs, submitted now.
        ``"slurm-allocation"``: the tasks of the srun that runs this program, of which it returns in
        one. Or the address of a scheduler, ``"tcp://…"``, or the connection file of one
        (`Connection.file`).
    jobs : int, optional
        Worker processes, of Slurm one a job; locally by default one for each core, at most four,
        of Slurm one.
    adapt : (int, int), optional
        Of Slurm: as many jobs as there is work for, between these.
    memory_limit : int or str, optional
        Of each worker, as ``"2GB"``; locally an equal share of what this process may use, of
        Slurm the profile's ``memory``.
    threads : int, optional
        Threads of each local worker's searches; an equal share of the cores by default. Of an
        allocation the task's cores.
    **overrides
        Of Slurm: anything that a profile says (``walltime="2:00:00"``, ``account="…"``); of an
        allocation ``interface``, ``shared_temp_directory``, ``local_directory``,
        ``death_timeout``.

    Returns
    -------
    Connection
        Use it as a context manager. Of Slurm it is there once the jobs are submitted: work
        begins with the first that starts, and jobs that Slurm ends are replaced while there is
        work.

    Raises
    ------
    UsageError, SourceNotFoundError, ClusterError
        If the arguments are unknown or pass the profile's caps, or workers or scheduler cannot be
        reached.
    SystemExit
        Of an allocation, in all tasks but one, when that one has ended.

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
    if where.endswith(".json"):
        return _attach(*read_connection(where))
    if where == ALLOCATION:
        if jobs is not None or adapt is not None:
            raise UsageError("jobs and adapt: srun's --ntasks says how many an allocation has.")
        return _join(memory_limit, threads, overrides)
    if is_profile(where):
        return _submit(where, jobs, adapt, {"memory": memory_limit, **overrides}, threads)
    if where != "local":
        raise UsageError(
            f"connect({where!r}): 'local', the address of a scheduler, or a Slurm profile is "
            f"needed: {', '.join(shipped_names())}, or the path of a YAML file."
        )
    if overrides or adapt is not None:
        names = [*overrides, *["adapt"] * (adapt is not None)]
        raise UsageError(f"{', '.join(names)}: of Slurm jobs, not of local workers.")
    return _start_local(jobs, memory_limit, threads)


def _start_local(
    jobs: int | None, memory_limit: int | str | None, threads: int | None
) -> Connection:
    n_workers = min(n_cores(), MOST_LOCAL_WORKERS) if jobs is None else jobs
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    remove_stale_keys()
    cluster, security, keys = start_local_cluster(n_workers, limit, threads)
    client = None
    try:
        client = Client(cluster, security=security)
        wait_for_workers(client, n_workers, limit)
    except BaseException:
        _end(client, cluster, keys)
        raise
    return Connection(client, cluster, keys)


def _join(
    memory_limit: int | str | None, threads: int | None, overrides: dict[str, Any]
) -> Connection:
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads} of each worker: at least 1 is needed.")
    # It imports dask-jobqueue, for which nothing else has to wait.
    from haag_vq.cluster.join import join_allocation

    return Connection(*join_allocation(overrides, limit, threads, tell))


def _submit(
    where: str,
    jobs: int | None,
    adapt: tuple[int, int] | None,
    overrides: dict[str, Any],
    threads: int | None,
) -> Connection:
    """Start a scheduler here and submit the first jobs of a profile."""
    if threads is not None:
        raise UsageError("threads is of local workers; a Slurm job's searches use its cores=.")
    if jobs is not None and adapt is not None:
        raise UsageError("pass jobs or adapt, not both.")
    least, most = adapt or (jobs or 1, jobs or 1)
    request = job_request(where, overrides)
    check_jobs(request, most)
    cluster, security, keys = start_slurm_cluster(request, most)
    client = None
    try:
        client = Client(cluster, security=security)
        keeper = Keeper(
            cluster,
            client,
            max(least, 1),
            most,
            log_directory(request),
            request.job_memory_bytes,
            tell,
        )
        keeper.start()
        cluster.request, cluster.keeper = request, keeper
        cluster.n_expected = max(least, 1)
        keeper.least = least
    except BaseException:
        _end(client, cluster, keys)
        raise
    return Connection(client, cluster, keys, keeper)


def _end(client: Client | None, cluster: Any, keys: Path) -> None:
    if client is not None:
        client.close()
    cluster.close()
    shutil.rmtree(keys, ignore_errors=True)


def tell(line: str) -> None:
    """Tell the user of an event of the cluster."""
    print(f"haag-vq: {line}", file=sys.stderr, flush=True)


def _attach(address: str, security: Security | None = None) -> Connection:
    problem = _why_not(address, security)
    if problem is not None:
        # The client that failed must go now, in this thread: collected later, in the thread that
        # starts another one, its finalizer waits for the lock of that start (10 s, then an error).
        gc.collect()
        raise ClusterError(
            f"no Dask scheduler answered at {address}: {problem}. Check the address; a tls:// one "
            "needs certificates: connect() to the connection file of who started it, or name them "
            "in Dask's configuration (distributed.comm.tls)."
        )
    return Connection(Client(address, security=security))


def _why_not(address: str, security: Security | None) -> str | None:
    """Connect and leave again; None if that went well, else what went wrong."""
    try:
        _check_answers(address)
        # A client that cannot connect would stay Dask's default, and hang what runs after it.
        Client(address, security=security, set_as_default=False).close()
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
