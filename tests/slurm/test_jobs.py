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

import dask
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
from tests.cluster.gated import GatedSource, readers
from tests.groundtruth import oracle
from tests.slurm.conftest import LAUNCHER, Slurm, free_ports, timed
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

N, DIM, NQ, K = 4_000, 16, 12, 7
CHUNK = 200 * DIM * 4


class Slow(ArraySource):
    """Rows that take a while, so that something can happen meanwhile."""

    def __init__(
        self, x: Any, seconds: float, first_row: int = 0, told: Path | None = None
    ) -> None:
        super().__init__(x, first_row)
        self._x, self._seconds, self._first, self._told = x, seconds, first_row, told

    def narrow(self, start: int, stop: int) -> Slow:
        return Slow(self._x[start:stop], self._seconds, self._first + start, self._told)

    def read_into(self, start: int, out: Any) -> None:
        if self._told is not None:
            with self._told.open("a") as file:
                file.write(f"{self._first + start}\n")
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


def end_walltime(slurm: Slurm, connection: Connection) -> None:
    slurm.run("scontrol", "update", f"jobid={min(slurm.jobs())}", "endtime=now+1")


def preempt(slurm: Slurm, connection: Connection) -> None:
    """A job of a partition that takes the nodes of others."""
    node = min(nodes_of(connection).values())
    urgent = ("sbatch", "--partition=urgent", "--exclusive", f"--nodelist={node}")
    slurm.run(*urgent, "--output=/dev/null", "--wrap=sleep 2")


def lose_node(slurm: Slurm, connection: Connection) -> None:
    """Its slurmd and all of the job's processes end at once, as with the power."""
    node = min(nodes_of(connection).values())
    daemon = int((slurm.daemons / "run" / f"slurmd-{node}.pid").read_text())
    (number,) = (number for number, (_, where) in slurm.jobs().items() if where == node)
    steps = [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"slurmstepd: [{number}." in " ".join(process.info["cmdline"] or [])
    ]
    assert steps
    lost = [psutil.Process(daemon), *steps, *(c for s in steps for c in s.children(recursive=True))]
    for process in lost:
        process.kill()


@pytest.fixture
def whole(slurm: Slurm) -> Iterator[Slurm]:
    """Slurm, whose nodes are of use again afterwards."""
    yield slurm
    # A node that was lost may take Slurm more than one look.
    assert any(made_whole(slurm) for _ in range(3))


def made_whole(slurm: Slurm) -> bool:
    """Start the daemons that are gone, and wait for idle nodes."""
    lines = slurm.run("sinfo", "-h", "-N", "-p", "all", "-o", "%n %t").splitlines()
    for node, state in (line.split() for line in lines):
        if state != "idle":
            # Down, so that a job which ended on a lost node is no longer waited for.
            for words in (["state=down", "reason=test"], ["state=resume"]):
                change = ["scontrol", "update", f"nodename={node}", *words]
                subprocess.run(change, check=False, capture_output=True)
    start = [str(LAUNCHER), "start", str(slurm.daemons)]
    return subprocess.run(start, check=False, capture_output=True).returncode == 0


# Seconds that a block takes: there must be work left when Slurm has noticed.
FAULTS = [
    (cancel_one, "CANCELLED", 0.5),
    (kill_worker, "", 0.5),
    (kill_nanny, "FAILED", 0.5),
    (drain_node, "CANCELLED", 0.5),
    (end_walltime, "TIMEOUT", 4.5),  # it looks every 30 s
    (preempt, "PREEMPTED", 0.5),
    (lose_node, "", 2.0),  # 15 s until Dask gives the worker up
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("fault", "state", "seconds"), FAULTS)
def test_what_is_lost_is_replaced(
    fault: Callable[[Slurm, Connection], None],
    state: str,
    seconds: float,
    whole: Slurm,
    tmp_path: Path,
    capsys: Any,
) -> None:
    """Told with Slurm's word; no more is read again than the blocks that were running.

    With -rP it prints what docs/cluster.md has of it.
    """
    found: list[Any] = []
    slow = Slow(X, seconds, told=tmp_path / "reads")
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
        began = time.monotonic()
        fault(whole, connection)
        if fault is not kill_worker:  # the nanny's business
            wait_until("another job", lambda: set(whole.jobs()) - before)
        replaced = time.monotonic() - began
        run.join(timeout=90)
        answered = time.monotonic() - began
        assert found, "it did not finish"
    check(found[0])
    reads = (tmp_path / "reads").read_text().split()
    n_again = len(reads) - len(set(reads))
    assert len(set(reads)) == N * DIM * 4 // CHUNK
    assert n_again <= 2, "more was read again than one worker had in hand"
    assert state in capsys.readouterr().err
    print(
        f"{fault.__name__}: another job after {replaced:.1f} s, the answer after {answered:.1f} s, "
        f"{n_again} blocks again"
    )


def test_jobs_that_die_at_the_start_end_the_run_with_their_log(slurm: Slurm) -> None:
    fatal = ["echo no such module: anaconda >&2", "exit 3"]
    with (
        connect(slurm.profile, jobs=1, job_script_prologue=fatal),
        pytest.raises(ClusterError, match="3 jobs in a row .* exit code 3:0.*no such module"),
        timed("jobs that die at the start, to the error"),
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


def test_a_job_that_waits_to_replace_another_keeps_its_place(slurm: Slurm, tmp_path: Path) -> None:
    """Dask would cancel it, once the lost worker has been gone for a while, were it of its name."""
    gated = GatedSource(ArraySource(X[:100]), tmp_path)
    partition = ("scontrol", "update", "partitionname=all")
    found: list[Any] = []
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "2s"}),
        connect(slurm.profile, jobs=1),
    ):
        run = Thread(target=lambda: found.append(ground_truth(gated, XQ, k=K)))
        run.start()
        wait_until("one reads", lambda: readers(tmp_path))
        (first,) = slurm.jobs()
        slurm.run(*partition, "state=down")
        try:
            slurm.run("scancel", first)
            (second,) = wait_until("another job", lambda: set(slurm.jobs()) - {first})
            time.sleep(8)  # several looks longer than the timeout
            assert set(slurm.jobs()) - {first} == {second}
        finally:
            slurm.run(*partition, "state=up")
            (tmp_path / "open").touch()
            run.join(timeout=60)
        assert found, "it did not finish"


def test_the_one_machine_slurm_leaves_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its own instance, started twice and stopped twice."""
    env = {**os.environ, "HAAG_VQ_SLURM_PORT": str(free_ports(3))}
    home = tmp_path_factory.mktemp("s")
    for _ in range(2):
        start = [str(LAUNCHER), "start", str(home), "2"]
        subprocess.run(start, env=env, check=True, capture_output=True)
    assert len(_daemons(home)) == 4
    for _ in range(2):
        subprocess.run([LAUNCHER, "stop", home], env=env, check=True)
    assert _daemons(home) == set()


def test_the_one_machine_slurm_refuses_what_no_socket_can_lie_below(tmp_path: Path) -> None:
    """Its jobs would fail one after the other, told of in slurmd's log alone."""
    home = tmp_path / ("s" * 100)
    start = [str(LAUNCHER), "start", str(home), "2"]
    done = subprocess.run(start, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{home} is too long by " in done.stderr
    assert not home.exists()


def _daemons(home: Path) -> set[int]:
    return {
        process.pid
        for process in psutil.process_iter(["name", "status", "cmdline"])
        if process.info["name"] in ("slurmctld", "slurmd", "munged")
        and process.info["status"] != psutil.STATUS_ZOMBIE
        and any(str(home) in word for word in process.info["cmdline"] or ())
    }
