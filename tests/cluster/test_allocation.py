"""What an allocation's client and scheduler do about each other, without a Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from distributed import Client
from distributed.comm import CommClosedError

from haag_vq import cli, connect, ground_truth, workers
from haag_vq.cluster import Connection
from haag_vq.cluster.keys import new_key_directory, read_connection, write_connection
from haag_vq.cluster.slurm import warn_on_a_login_node
from haag_vq.cluster.watch import (
    CLIENT_NAME,
    GRACE_SECONDS,
    HURRY_SECONDS,
    LOST_SECONDS,
    TOPIC,
    Watch,
)
from haag_vq.errors import ClusterError, UsageError, WriteError
from haag_vq.memory import process_allowance
from haag_vq.sources import ArraySource
from tests.cluster.gated import GatedSource, readers
from tests.cluster.test_ranks import TASK
from tests.support.waiting import wait_until

WAIT = 1


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Make this process the client's task; returns arguments of `connect`."""
    for name, value in {**TASK, "SLURM_PROCID": "1", "SLURM_NTASKS": "5"}.items():
        monkeypatch.setenv(name, value)
    return {"shared_temp_directory": str(tmp_path), "death_timeout": WAIT}


def test_a_scheduler_that_never_comes(second: dict[str, Any]) -> None:
    started = time.monotonic()
    with pytest.raises(ClusterError, match=rf"rank 1 of 5.* did not come up within {WAIT} s"):
        connect("slurm-allocation", **second)
    assert time.monotonic() - started >= WAIT


def test_a_worker_without_a_scheduler_leaves_in_silence(
    second: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "4")
    with pytest.raises(SystemExit) as left:
        connect("slurm-allocation", **second)
    assert left.value.code == 1
    assert capsys.readouterr().err == ""


def test_keys_that_others_could_have_planted_are_not_used(
    second: dict[str, Any], tmp_path: Path
) -> None:
    keys = new_key_directory(tmp_path, "17.0-one-42001")
    with pytest.raises(WriteError, match="File exists"):
        new_key_directory(tmp_path, "17.0-one-42001")
    write_connection(keys, "tls://127.0.0.1:9", {})
    keys.chmod(0o755)
    with pytest.raises(ClusterError, match="is open to others"):
        connect("slurm-allocation", **second)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"jobs": 3}, "srun's --ntasks"),
        ({"adapt": (1, 2)}, "srun's --ntasks"),
        ({"walltime": "1:00:00"}, "walltime: an allocation has what its sbatch"),
        ({"threads": 0}, "threads=0"),
        ({"interface": "nine"}, "interface=nine: .* has no such network interface, but .*lo"),
    ],
)
def test_what_is_not_for_an_allocation(
    wrong: dict[str, Any], told: str, second: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=told):
        connect("slurm-allocation", **wrong)


@pytest.fixture(scope="module")
def local() -> Iterator[Connection]:
    """One worker of this machine, with a scheduler in this process."""
    with connect("local", jobs=1) as connection:
        yield connection


def test_the_scheduler_ends_with_its_client_and_no_other(local: Connection) -> None:
    scheduler = local.client.cluster.scheduler
    watch = Watch(1, 100.0)
    began = time.monotonic()
    # The clients that are there are not the one that it is for.
    assert not watch.look(scheduler, began + 99)
    assert watch.look(scheduler, began + 102)
    assert not watch.client_came
    address, security = read_connection(str(local.file))
    with Client(address, security=security, name=CLIENT_NAME, set_as_default=False) as client:
        assert not watch.look(scheduler, began + 200)
        assert watch.client_came
        key = client.id
    wait_until("it is gone", lambda: key not in scheduler.clients)
    assert not watch.look(scheduler, began + 200 + GRACE_SECONDS - 1)
    assert watch.look(scheduler, began + 200 + GRACE_SECONDS + 1)
    # Slurm has told it to end, and kills soon.
    watch.hurry()
    assert not watch.look(scheduler, began + 200 + HURRY_SECONDS / 2)
    assert watch.look(scheduler, began + 200 + 2 * HURRY_SECONDS)


HOST = """\
import time
from haag_vq import connect
with connect("local", jobs=1) as workers:
    print(workers.file, flush=True)
    time.sleep(100)
"""


def test_a_scheduler_that_is_lost_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lives in another process, as the scheduler of an allocation does."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    gated = GatedSource(ArraySource(np.eye(9, dtype=np.float32)), tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        with connect(host.stdout.readline().strip()), ThreadPoolExecutor() as pool:
            run = pool.submit(ground_truth, gated, np.eye(9, dtype=np.float32), k=2)
            wait_until("it runs", lambda: readers(tmp_path))
            host.kill()
            with pytest.raises(ClusterError, match="the Dask scheduler was lost"):
                run.result(timeout=60)
            (tmp_path / "open").touch()


@pytest.mark.parametrize("error", [OSError("Timed out trying to connect"), CommClosedError()])
def test_a_scheduler_that_is_lost_is_told_by_a_look(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the client finds it out before its futures are cancelled."""

    def wait(future: Any, timeout: float) -> None:
        raise TimeoutError

    def run_on_scheduler(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(workers, "wait", wait)
    # Without a cancel(): it would wait for the scheduler for half a minute, and fail.
    future = SimpleNamespace(done=lambda: False)
    client = SimpleNamespace(
        compute=lambda _: future, cluster=None, run_on_scheduler=run_on_scheduler
    )
    asked = workers.Workers(client, 1, 1, process_allowance(), None, False)
    with pytest.raises(ClusterError, match="the Dask scheduler was lost"):
        workers.run(None, asked, "blocks-1", 1, None)


def test_a_lost_worker_is_told_of_once(local: Connection) -> None:
    """The last of these: it leaves no worker."""
    scheduler = local.client.cluster.scheduler
    watch = Watch(1, 100.0)
    watch.look(scheduler, 0.0)
    (nanny,) = local.client.run(os.getppid).values()
    (worker,) = local.client.run(os.getpid).values()
    for pid in (nanny, worker):
        os.kill(pid, signal.SIGKILL)
    wait_until("it is gone", lambda: not scheduler.workers)
    watch.look(scheduler, LOST_SECONDS - 1)
    assert list(scheduler.get_events(TOPIC)) == []
    watch.look(scheduler, LOST_SECONDS + 1)
    watch.look(scheduler, 3 * LOST_SECONDS)
    ((_, line),) = scheduler.get_events(TOPIC)
    assert line.startswith("worker 0, on 127.0.0.1, has been gone for 10 s")
    assert line.endswith("0 of 1 workers go on.")


def test_a_login_node_is_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sinfo = tmp_path / "sinfo"
    sinfo.write_text("#!/bin/sh\necho compute1\necho compute2\n")
    sinfo.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("socket.gethostname", lambda: "compute2.site.edu")
    warn_on_a_login_node()
    monkeypatch.setattr("socket.gethostname", lambda: "login1.site.edu")
    with pytest.warns(
        UserWarning, match=r"on login1.* none of the cluster's compute.*haag-vq submit"
    ):
        warn_on_a_login_node()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    warn_on_a_login_node()


def test_on_the_command_line(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    line = ["ground-truth", "synthetic:90x4", "--queries", "first:2", "--k", "3"]
    line += ["--out", str(tmp_path / "t.npz"), "--cluster", "slurm-allocation"]
    assert cli.main(line) == 2
    assert capsys.readouterr().err.startswith("haag-vq: slurm-allocation is for the tasks of an")
    # A plan computes nothing, so that it needs none.
    assert cli.main(["plan", *line]) == 0
    assert cli.main(["cluster", "show", "slurm-allocation"]) == 2
    assert "needs a Slurm profile" in capsys.readouterr().err
    assert cli.main(["cluster", "list"]) == 0
    assert "slurm-allocation" in capsys.readouterr().out
