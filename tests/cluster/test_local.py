"""Local workers: where they listen, who may reach them, and that nothing of them stays."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
from distributed import Client

from haag_vq import connect, ground_truth, load_dummy_dataset, open_dataset
from haag_vq.cluster import Connection
from haag_vq.cluster.keys import KEY_DIR_PREFIX, remove_stale_keys
from haag_vq.errors import ClusterError, DataError, UsageError
from haag_vq.groundtruth import engine
from haag_vq.memory import format_bytes, machine_memory, n_cores
from haag_vq.planning.sites import local_site
from haag_vq.sources import ArraySource
from haag_vq.tempdirs import process_space
from tests.cluster.gated import GatedSource, readers
from tests.groundtruth import oracle
from tests.support.files import vectors, write_parquet
from tests.support.waiting import WAIT_SECONDS, wait_until

ROOT = Path(__file__).parents[2]


def alive(pids: set[int]) -> set[int]:
    """Those that run; one that died and was not reaped does not."""
    found = set()
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.add(pid)
        except psutil.NoSuchProcess:
            pass
    return found


def descendants(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def worker_pids(connection: Connection) -> dict[str, int]:
    found: dict[str, int] = connection.client.run(os.getpid)
    return found


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory that takes the place of /tmp; and workers that can import these tests."""
    directory = tmp_path_factory.mktemp("tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(directory))
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        yield directory


@pytest.fixture(scope="module")
def workers(scratch: Path) -> Iterator[Connection]:
    with connect("local", jobs=2) as connection:
        yield connection


# --- who is there, and who may come ------------------------------------------------------------


def test_two_processes_of_one_dask_thread(workers: Connection) -> None:
    pids = set(worker_pids(workers).values())
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert set(workers.client.nthreads().values()) == {1}


def test_everything_speaks_tls_on_loopback(workers: Connection) -> None:
    infos = workers.client.scheduler_info(n_workers=-1)["workers"]
    addresses = [workers.client.scheduler.address, *infos]
    addresses += [info["nanny"] for info in infos.values()]
    assert len(addresses) == 5
    for address in addresses:
        assert address.startswith("tls://127.0.0.1:")


def test_nothing_listens_beyond_loopback(workers: Connection) -> None:
    processes = [psutil.Process(pid) for pid in {os.getpid(), *descendants(os.getpid())}]
    listening = [
        (process.pid, connection.laddr.ip)
        for process in processes
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    # Scheduler and dashboard; each worker, its dashboard and its nanny.
    assert len(listening) >= 8
    assert {pid for pid, _ in listening} >= set(worker_pids(workers).values())
    assert {ip for _, ip in listening} <= {"127.0.0.1", "::1"}


def test_a_stranger_without_certificate_is_refused(workers: Connection) -> None:
    infos = workers.client.scheduler_info(n_workers=-1)["workers"]
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for address in [workers.client.scheduler.address, *infos]:
        host, port = address.removeprefix("tls://").split(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            pytest.raises((ssl.SSLError, ConnectionError)),
            context.wrap_socket(plain) as wrapped,
        ):
            # TLS 1.3 tells a client that it was refused when it first reads.
            wrapped.recv(1)


def test_a_client_without_certificate_is_refused(workers: Connection) -> None:
    port = workers.client.scheduler.address.rsplit(":", 1)[1]
    with dask.config.set({"distributed.comm.timeouts.connect": "2s"}):
        with pytest.raises(ClusterError, match="needs certificates"):
            connect(f"tls://127.0.0.1:{port}")
        with pytest.raises(ClusterError, match="no Dask scheduler answered"):
            connect(f"tcp://127.0.0.1:{port}")


def test_a_client_with_certificates_may_come_and_go(workers: Connection, scratch: Path) -> None:
    (keys,) = scratch.glob(f"{KEY_DIR_PREFIX}*")
    tls = "distributed.comm.tls"
    settings = {
        f"{tls}.ca-file": str(keys / "ca.pem"),
        f"{tls}.client.cert": str(keys / "cert.pem"),
        f"{tls}.client.key": str(keys / "key.pem"),
    }
    with dask.config.set(settings), connect(workers.client.scheduler.address) as second:
        assert worker_pids(second) == worker_pids(workers)
        with pytest.raises(UsageError, match="not started here"):
            second.scale(1)
    assert len(worker_pids(workers)) == 2, "leaving ends nothing that one did not start"


def test_keys_are_private(workers: Connection, scratch: Path) -> None:
    (keys,) = scratch.glob(f"{KEY_DIR_PREFIX}*")
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    pems = sorted(path.name for path in keys.glob("*.pem"))
    assert pems == ["ca.pem", "cert.pem", "key.pem"]
    assert {stat.S_IMODE((keys / name).stat().st_mode) for name in pems} == {0o600}
    assert (keys / "pid").read_text() == f"{process_space()} {os.getpid()}"


# --- shares --------------------------------------------------------------------------------------


def test_cores_and_memory_are_shared(workers: Connection) -> None:
    infos = workers.client.scheduler_info(n_workers=-1)["workers"].values()
    assert {info["memory_limit"] for info in infos} == {machine_memory()[0] // 2}
    share = str(max(1, n_cores() // 2))
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        assert set(workers.client.run(os.getenv, variable).values()) == {share}


def test_shares_can_be_chosen_and_everything_is_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = descendants(os.getpid())
    connection = connect("local", jobs=1, memory_limit="700MB", threads=3)
    try:
        (info,) = connection.client.scheduler_info(n_workers=-1)["workers"].values()
        assert info["memory_limit"] == 700_000_000
        assert set(connection.client.run(lambda: engine.faiss.omp_get_max_threads()).values()) == {
            3
        }
        assert connection.dashboard_link.startswith("http://127.0.0.1:")
        assert "Connection(" in repr(connection)
        connection.scale(2)
        connection.client.wait_for_workers(2, timeout=WAIT_SECONDS)
        infos = connection.client.scheduler_info(n_workers=-1)["workers"].values()
        assert [info["memory_limit"] for info in infos] == [700_000_000] * 2
        started = descendants(os.getpid()) - before
    finally:
        connection.close()
    connection.close()  # a second time changes nothing
    assert len(started) >= 4
    wait_until("all processes end", lambda: not alive(started))
    assert list(tmp_path.iterdir()) == []


def test_workers_that_together_want_more_than_the_machine_are_refused() -> None:
    total, origin = machine_memory()
    each = total // 2 + 1
    with pytest.raises(UsageError) as caught:
        connect("local", jobs=2, memory_limit=each)
    told = str(caught.value)
    for words in (format_bytes(each), f"this machine {format_bytes(total)}", origin, "--workers"):
        assert words in told
    with pytest.raises(UsageError, match=r"2 worker\(s\)"):
        local_site(2, each)
    assert local_site(2, total // 2).limit_bytes == total // 2


# --- jobs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_job_on_the_workers_is_right(workers: Connection, metric: str) -> None:
    dataset = load_dummy_dataset(3_000, 16, num_queries=20)
    truth = ground_truth(dataset, k=7, metric=metric, chunk_size=500 * 16 * 4)
    keys, ids = oracle.neighbours(dataset.compute(), dataset.queries, 7, metric)
    np.testing.assert_array_equal(truth.ids, ids)
    np.testing.assert_array_equal(truth.distances, keys if metric == "l2" else 0 - keys)
    assert truth.run is not None
    assert truth.run.n_partitions == 6
    assert 0 < truth.run.peak_rss_bytes <= truth.run.projection.total_bytes


def test_the_array_runs_on_the_workers_too(workers: Connection) -> None:
    dataset = load_dummy_dataset(3_000, 16)
    mean = dataset.vectors.mean(axis=0).compute()
    np.testing.assert_allclose(mean, dataset.compute().mean(axis=0), atol=1e-6)


def test_an_error_of_a_worker_is_our_error_here(workers: Connection, tmp_path: Path) -> None:
    rows = vectors(400, 8)
    write_parquet(tmp_path / "a.parquet", rows, row_group_size=100)
    rows[[321, 322]] = np.nan
    write_parquet(tmp_path / "b.parquet", rows, row_group_size=100)
    dataset = open_dataset(tmp_path / "*.parquet", queries="first:5")
    for search in (
        lambda: ground_truth(dataset, k=3, chunk_size=100 * 8 * 4),
        lambda: dataset.vectors.sum().compute(),
    ):
        with pytest.raises(DataError, match=r"b\.parquet holds NaN.* 2 of .* row 321\b"):
            search()
    # And the workers are as good as before.
    assert ground_truth(dataset.limit(400), k=3).ids.shape == (5, 3)


def test_a_killed_worker_is_replaced_and_the_answer_is_right(
    workers: Connection, tmp_path: Path
) -> None:
    rows, queries = vectors(600, 8), vectors(9, 8, seed=5)
    gated = GatedSource(ArraySource(rows), tmp_path)
    before = set(worker_pids(workers).values())
    killed: list[int] = []

    def kill_one_that_reads() -> None:
        try:
            killed.append(min(wait_until("a worker reads", lambda: readers(tmp_path))))
            os.kill(killed[0], signal.SIGKILL)
        finally:
            (tmp_path / "open").touch()

    killer = threading.Thread(target=kill_one_that_reads)
    killer.start()
    truth = ground_truth(gated, queries, k=5, chunk_size=100 * 8 * 4)
    killer.join()
    np.testing.assert_array_equal(truth.ids, oracle.neighbours(rows, queries, 5, "l2")[1])
    workers.client.wait_for_workers(2, timeout=WAIT_SECONDS)
    after = set(worker_pids(workers).values())
    assert set(killed) <= before
    assert len(after) == 2
    assert killed[0] not in after


def test_an_unguarded_script_can_start_workers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from haag_vq import connect, ground_truth, load_dummy_dataset

            print("once")
            with connect("local", jobs=2):
                print(ground_truth(load_dummy_dataset(2_000, 8), k=3).ids.shape)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["once", "(100, 3)"]
    assert list(tmp_path.iterdir()) == [script]


# --- ends ----------------------------------------------------------------------------------------


class Job:
    """A `haag-vq ground-truth` that is in the middle of its blocks, in a session of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, "-m", "haag_vq.cli", "ground-truth", "synthetic:4000000x128"]
            + ["--queries", "first:300", "--k", "50", "--chunk-size", "8MiB"]
            + ["--workers", "2", "--out", str(directory / "out.npz")],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(directory)},
        )
        assert self.process.stderr is not None
        self.told = b""
        while b"blocks" not in self.told:
            piece = os.read(self.process.stderr.fileno(), 4096)
            assert piece, f"it ended before it began: {self.told.decode()}"
            self.told += piece
        self.pids = descendants(self.process.pid)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def still_there(self) -> set[int]:
        """Its children, and whatever else has its key directory in its command line."""
        named = set()
        for process in psutil.process_iter(["pid", "cmdline"]):
            if any(str(self.directory) in part for part in process.info["cmdline"] or ()):
                named.add(process.pid)
        return alive(self.pids | named)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    running = Job(tmp_path)
    yield running
    for pid in alive({running.process.pid, *running.pids}):
        os.kill(pid, signal.SIGKILL)
    running.process.communicate()


def test_an_interrupt_ends_the_workers(job: Job) -> None:
    assert len(alive(job.pids)) >= 4, "two nannies and their workers"
    # A terminal's Ctrl-C goes to a whole group: workers must not be in it, or each would answer.
    assert all(os.getpgid(pid) != job.process.pid for pid in job.pids)
    os.killpg(job.process.pid, signal.SIGINT)
    out, told = job.process.communicate(timeout=WAIT_SECONDS)
    assert job.process.returncode == 130, told.decode()
    assert out == b""
    # Progress, then one line.
    lines = [line for line in told.decode().splitlines() if not re.match("^[█·]+ ", line)]
    assert len(lines) == 1, told.decode()
    assert lines[0].startswith("haag-vq: interrupted")
    wait_until("all processes end", lambda: not job.still_there())
    assert job.left() == []


def test_workers_do_not_outlive_a_killed_client(job: Job) -> None:
    (keys,) = job.directory.glob(f"{KEY_DIR_PREFIX}*")
    job.process.kill()
    wait_until("all processes end", lambda: not job.still_there())
    # Nobody was there to remove the keys: the next start does.
    assert job.left() == [keys.name]
    job.process.wait()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(job.directory))
        remove_stale_keys()
    assert job.left() == []


# --- what cannot work ----------------------------------------------------------------------------


def test_only_keys_of_dead_processes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    contents = {
        f"{KEY_DIR_PREFIX}dead": f"{process_space()} {dead.pid}",
        f"{KEY_DIR_PREFIX}live": f"{process_space()} {os.getpid()}",
        # Of a process on another node or in another container, which is not seen from here.
        f"{KEY_DIR_PREFIX}elsewhere": f"another-boot:1 {dead.pid}",
        f"{KEY_DIR_PREFIX}unreadable": "no number",
        "another-dead": str(dead.pid),
    }
    for name, text in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "pid").write_text(text)
    (tmp_path / f"{KEY_DIR_PREFIX}starting").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UsageError):
        connect("local", jobs=0)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*contents, f"{KEY_DIR_PREFIX}starting"} - {f"{KEY_DIR_PREFIX}dead"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"where": "nonsense"}, r"connect\('nonsense'\): 'local', the address"),
        ({"jobs": 0}, "0 workers were asked for: at least 1"),
        ({"jobs": -3}, "-3 workers"),
        ({"jobs": 1, "memory_limit": "lots"}, "'lots' is not a size"),
        ({"jobs": 1, "memory_limit": 0}, "0 is not a size"),
        ({"jobs": 1, "threads": 0}, "threads=0"),
    ],
)
def test_arguments_that_cannot_be(
    arguments: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UsageError, match=told):
        connect(**arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tls://127.0.0.1:1", "nonsense://x:1"])
def test_no_scheduler_at_the_address(workers: Connection, address: str) -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "500ms"}),
        pytest.raises(ClusterError, match=f"no Dask scheduler answered at {address}"),
    ):
        connect(address)
    assert Client.current() is workers.client, "the one that failed runs nothing"


def test_workers_that_do_not_come_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("haag_vq.cluster.local.START_SECONDS", 1)
    monkeypatch.setattr("haag_vq.cluster.local.sys.executable", "/bin/false")
    with pytest.raises(ClusterError, match=r"0 of 2 workers came up within 1 s.*jobs="):
        connect("local", jobs=2)
    assert list(tmp_path.iterdir()) == []
