"""What an allocation's client and scheduler do about each other, without a Slurm."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from haag_vq import cli, connect
from haag_vq.cluster import Connection
from haag_vq.cluster.keys import new_key_directory, read_connection, write_connection
from haag_vq.cluster.slurm import warn_on_a_login_node
from haag_vq.cluster.watch import CLIENT_NAME, GRACE_SECONDS, LOST_SECONDS, TOPIC, Watch
from haag_vq.errors import ClusterError, UsageError, WriteError
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
