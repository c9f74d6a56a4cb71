"""Ground truth on Slurm jobs: the same bits as alone, whatever becomes of the jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.testing import assert_array_equal

from haag_vq import (
    cli,
    connect,
    ground_truth,
    load_dummy_dataset,
    load_ground_truth,
    open_dataset,
)
from haag_vq.cluster import Connection
from haag_vq.errors import ClusterError, DataError, UsageError
from haag_vq.sources import ArraySource
from tests.groundtruth import oracle
from tests.slurm.conftest import LAUNCHER, Slurm, free_ports
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

N, DIM, NQ, K = 4_000, 16, 12, 7
CHUNK = 200 * DIM * 4


class Slow(ArraySource):
    """Rows that take a while, so that something can happen meanwhile."""

    def __init__(self, x: Any, seconds: float, first_row: int = 0) -> None:
        super().__init__(x, first_row)
        self._x, self._seconds, self._first = x, seconds, first_row

    def narrow(self, start: int, stop: int) -> Slow:
        return Slow(self._x[start:stop], self._seconds, self._first + start)

    def read_into(self, start: int, out: Any) -> None:
        time.sleep(self._seconds)
        super().read_into(start, out)


DATASET = load_dummy_dataset(N, DIM, num_queries=NQ)
X = DATASET.compute()
XQ = np.asarray(DATASET.queries)


def check(truth: Any) -> None:
    keys, ids = oracle.neighbours(X, XQ, K, "l2")
    assert_array_equal(truth.ids, ids)
    assert truth.distances.tobytes() == keys.tobytes()


def nodes_of(connection: Connection) -> dict[str, str]:
    found: dict[str, str] = connection.client.run(lambda: os.environ["SLURMD_NODENAME"])
    return found


def all_up(connection: Connection, n: int) -> None:
    wait_until(f"{n} workers", lambda: len(nodes_of(connection)) == n)


def cancel_one(slurm: Slurm, connection: Connection) -> None:
    slurm.run("scancel", min(slurm.jobs()))


def kill_worker(slurm: Slurm, connection: Connection) -> None:
    os.kill(min(connection.client.run(os.getpid).values()), signal.SIGKILL)


def kill_nanny(slurm: Slurm, connection: Connection) -> None:
    os.kill(min(connection.client.run(os.getppid).values()), signal.SIGKILL)


def drain_node(slurm: Slurm, connection: Connection) -> None:
    node = min(nodes_of(connection).values())
    slurm.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    slurm.run("scancel", f"--nodelist={node}")


@pytest.fixture
def whole(slurm: Slurm) -> Iterator[Slurm]:
    """Slurm, whose nodes are of use again afterwards."""
    yield slurm
    drained = slurm.run("sinfo", "-h", "-N", "-t", "drain", "-o", "%n").split()
    for node in drained:
        slurm.run("scontrol", "update", f"nodename={node}", "state=resume")


@pytest.mark.parametrize("fault", [cancel_one, kill_worker, kill_nanny, drain_node])
def test_what_is_lost_is_replaced(
    fault: Callable[[Slurm, Connection], None], whole: Slurm, tmp_path: Path
) -> None:
    found: list[Any] = []
    slow = Slow(X, 0.5)
    with connect(whole.profile, jobs=2) as connection:
        all_up(connection, 2)
        before = set(whole.jobs())
        run = Thread(
            target=lambda: found.append(
                ground_truth(slow, XQ, k=K, chunk_size=CHUNK, checkpoint=tmp_path / "kept")
            )
        )
        run.start()
        wait_until("some rows", lambda: len(list((tmp_path / "kept").glob("rows-*"))) > 2)
        fault(whole, connection)
        if fault is not kill_worker:  # the nanny's business
            wait_until("another job", lambda: set(whole.jobs()) - before)
        run.join(timeout=90)
        assert found, "it did not finish"
    check(found[0])


def test_jobs_that_die_at_the_start_end_the_run_with_their_log(slurm: Slurm) -> None:
    fatal = ["echo no such module: anaconda >&2", "exit 3"]
    with (
        connect(slurm.profile, jobs=1, job_script_prologue=fatal),
        pytest.raises(ClusterError, match="3 jobs in a row .* exit code 3:0.*no such module"),
    ):
        ground_truth(DATASET, k=K)


def test_bad_data_is_told_at_once_and_not_tried_again(slurm: Slurm, tmp_path: Path) -> None:
    bad = X.copy()
    bad[1234, 5] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    with (
        connect(slurm.profile, jobs=1) as connection,
        pytest.raises(DataError, match=r"bad\.npy.*row 1,?234"),
    ):
        ground_truth(open_dataset(tmp_path / "bad.npy"), XQ, k=K, chunk_size=CHUNK)
    assert connection.client.status == "closed"


def test_jobs_follow_the_work(slurm: Slurm) -> None:
    with connect(slurm.profile, adapt=(0, 2)) as connection:
        check(ground_truth(Slow(X, 0.3), XQ, k=K, chunk_size=CHUNK))
        wait_until("no jobs without work", lambda: not slurm.jobs())
        connection.scale(1)
        check(ground_truth(DATASET, k=K, chunk_size=CHUNK))
        with pytest.raises(UsageError, match=r"adapt\(3, 2\)"):
            connection.adapt(3, 2)


def test_the_command_line(slurm: Slurm, tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "q.npy", XQ)
    line = ["ground-truth", str(tmp_path / "x.npy"), "--queries", str(tmp_path / "q.npy")]
    out = ["--k", str(K), "--out", str(tmp_path / "t.npz"), "--quiet"]
    assert cli.main([*line, *out, "--cluster", slurm.profile, "--jobs", "2"]) == 0
    check(load_ground_truth(tmp_path / "t.npz"))
    assert cli.main(["cluster", "check", slurm.profile, "--set", f"data-root={tmp_path}"]) == 0
    told = capsys.readouterr().out
    assert "node1" in told or "node2" in told or "node3" in told
    assert f"{tmp_path}, 3 entries" in told


def test_the_one_machine_slurm_leaves_nothing(tmp_path: Path) -> None:
    """Its own instance, started twice and stopped twice."""
    env = {**os.environ, "HAAG_VQ_SLURM_PORT": str(free_ports(3))}
    before = _daemons()
    for _ in range(2):
        start = [str(LAUNCHER), "start", str(tmp_path / "s"), "2"]
        subprocess.run(start, env=env, check=True, capture_output=True)
    assert len(_daemons() - before) == 4
    for _ in range(2):
        subprocess.run([LAUNCHER, "stop", tmp_path / "s"], env=env, check=True)
    assert _daemons() - before == set()


def _daemons() -> set[int]:
    return {
        process.pid
        for process in psutil.process_iter(["name", "status"])
        if process.info["name"] in ("slurmctld", "slurmd", "munged")
        and process.info["status"] != psutil.STATUS_ZOMBIE
    }
