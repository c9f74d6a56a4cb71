"""The heart of it, where there is a Slurm: three nodes by one word, nobody else let in."""

from __future__ import annotations

import stat
from typing import Any

import psutil
import pytest

from haag_vq import connect, ground_truth
from haag_vq.errors import ClusterError
from tests.slurm.conftest import NODES, Slurm
from tests.slurm.test_jobs import CHUNK, DATASET, K, all_up, check, nodes_of
from tests.support.waiting import wait_until


def test_one_word_takes_it_to_three_nodes(slurm: Slurm, capsys: Any) -> None:
    with connect(slurm.profile, jobs=3) as connection:
        check(ground_truth(DATASET, k=K, chunk_size=CHUNK))
        all_up(connection, 3)
        assert sorted(nodes_of(connection).values()) == sorted(NODES)
        assert {state for state, _ in slurm.jobs().values()} == {"RUNNING"}
    assert wait_until("no jobs", lambda: not slurm.jobs())
    assert capsys.readouterr().err.startswith("haag-vq: asked for 3 jobs.\n")


def test_nobody_else_is_let_in_and_nothing_stays(slurm: Slurm) -> None:
    with connect(slurm.profile, jobs=1) as connection:
        all_up(connection, 1)
        file = connection.file
        assert file is not None
        address = connection.client.scheduler.address
        assert address.startswith("tls://")
        with pytest.raises(ClusterError, match="needs certificates: connect"):
            connect(address)
        with connect(str(file)) as again:
            assert len(nodes_of(again)) == 1
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in file.parent.glob("*.*")} == {0o600}
        mine = psutil.Process()
        jobs = [process for process in psutil.process_iter() if address in _line(process)]
        assert jobs
        workers = [child for job in jobs for child in job.children(recursive=True)]
        for process in (mine, *jobs, *workers):
            for socket in _sockets(process):
                if socket.status == psutil.CONN_LISTEN:
                    assert socket.laddr.ip == "127.0.0.1", (process, socket)
    assert not file.parent.exists()


def _sockets(process: psutil.Process) -> list[Any]:
    try:
        return list(process.net_connections("inet"))
    except psutil.NoSuchProcess:
        return []


def _line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def test_what_slurm_refuses_is_told(slurm: Slurm) -> None:
    with pytest.raises(ClusterError, match="Slurm refused a job: .*invalid partition.*nowhere"):
        connect(slurm.profile, jobs=1, queue="nowhere")
    assert slurm.jobs() == {}
    assert list((slurm.home / "shared").iterdir()) == []
