"""One allocation: its tasks run the same program, and one of them goes on."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from haag_vq import connect, load_ground_truth
from haag_vq.cluster.profiles import SHIPPED
from haag_vq.cluster.request import worker_bytes
from haag_vq.errors import ClusterError
from tests.slurm.conftest import Slurm
from tests.slurm.test_jobs import XQ, K, X, check, nodes_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

SHARE_MIB = 1300

# Two runs of one job. In the first the command fails before it would connect. In the second, of the
# Python interface, a worker is lost with its nanny, and in the end the client is killed.
STEPS = """\
run() {{ srun --ntasks=$1 --kill-on-bad-exit=0 {python} "${{@:2}}"; echo "ended with $?"; }}
run 3 -m haag_vq ground-truth nowhere.npy --out n.npz --cluster slurm-allocation {options}
run 4 {program}
"""

PROGRAM = """\
import os, signal
from haag_vq import connect, ground_truth
from haag_vq.errors import UsageError
from tests.slurm.test_jobs import CHUNK, DATASET, K, check

workers = connect("slurm-allocation", interface="lo", shared_temp_directory={shared!r})
client = workers.client
lost = min(client.scheduler_info()["workers"])
nannies, pids = client.run(os.getppid), client.run(os.getpid)
for pid in (nannies[lost], pids[lost]):
    os.kill(pid, signal.SIGKILL)
check(ground_truth(DATASET, k=K, chunk_size=CHUNK))
try:
    workers.scale(9)
except UsageError as error:
    print(error)
print("srun" in workers.job_script(), workers.dashboard_link.startswith("http"))
print(len(workers.logs()), "logs", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def options(slurm: Slurm) -> list[str]:
    """Settings of an allocation on this machine."""
    return ["--set", "interface=lo", "--set", f"shared-temp-directory={slurm.home}/shared"]


def tasks_of(job: str) -> dict[int, list[psutil.Process]]:
    """Processes of a job's tasks, by their rank."""
    found: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        try:
            env = process.environ()
            ours = env.get("SLURM_JOB_ID") == job and "SLURM_STEP_NUM_TASKS" in env
            if ours and process.name().startswith("python"):
                found.setdefault(int(env["SLURM_PROCID"]), []).append(process)
        except psutil.Error:
            continue
    return found


def submitted(slurm: Slurm, *words: str) -> str:
    asked = [f"--mem-per-cpu={SHARE_MIB}M", "--cpus-per-task=1", "--output=%j.log"]
    export = f"--export=ALL,HAAG_VQ_PYTHON={sys.executable}"
    return slurm.run("sbatch", "--parsable", *asked, export, *words).strip()


def ended(slurm: Slurm, job: str) -> str:
    """Wait for a job to end; returns its state and exit code."""
    wait_until("the job ends", lambda: job not in slurm.jobs())
    told = slurm.run("scontrol", "show", "job", "--oneliner", job)
    words = dict(word.partition("=")[::2] for word in told.split())
    return f"{words['JobState']} {words['ExitCode']}"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "q.npy", XQ)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_script_gives_the_same_bits_and_lets_nobody_in(
    slurm: Slurm, here: Path, options: list[str]
) -> None:
    """On the interface that the host's name means, as where nobody names one."""
    shared = slurm.home / "shared"
    words = ["ground-truth", "x.npy", "--queries", "q.npy", "--k", str(K), "--out", "t.npz"]
    layout = ["--nodes=3", "--ntasks=5"]
    job = submitted(slurm, *layout, str(SHIPPED / "allocation.sbatch"), *words, *options[2:])
    file = wait_until("its scheduler", lambda: next(shared.glob("*/connection.json"), None))
    (client,) = tasks_of(job)[1]
    client.suspend()
    try:
        look_at(file, job)
    finally:
        client.resume()
    assert ended(slurm, job) == "COMPLETED 0:0", (here / f"{job}.log").read_text()
    check(load_ground_truth("t.npz"))
    told = (here / f"{job}.log").read_text().splitlines()
    assert [line for line in told if line.startswith("written")] == ["written    t.npz"]
    assert list(shared.iterdir()) == []


def look_at(file: Path, job: str) -> None:
    """Look at an allocation whose client stands still: its keys, sockets and workers."""
    with connect(str(file)) as other:
        wait_until("its workers", lambda: len(nodes_of(other)) == 3)
        assert len(set(nodes_of(other).values())) >= 2
        found = other.client.run(facts_of)
        assert set(found.values()) == {(worker_bytes(SHARE_MIB << 20), "1", 1)}
        address = other.client.scheduler.address
        workers = other.client.scheduler_info(n_workers=-1)["workers"].items()
        places = [address, *(place for one, facts in workers for place in (one, facts["nanny"]))]
    assert {place.partition("://")[0] for place in places} == {"tls"}
    secured = {int(place.rpartition(":")[2]) for place in places}
    with pytest.raises(ClusterError, match="needs certificates: connect"):
        connect(address)
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in file.parent.glob("*.*")} == {0o600}
    tasks = tasks_of(job)
    assert {rank: len(found) > 1 for rank, found in tasks.items() if rank > 1} == dict.fromkeys(
        (2, 3, 4), True
    )
    listening = [
        (socket.laddr.ip, socket.laddr.port)
        for process in sum(tasks.values(), [])
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    # A scheduler and its dashboard, three nannies, three workers and their dashboards.
    assert len(listening) >= 11
    assert {port for _, port in listening} > secured
    assert [ip for ip, port in listening if port not in secured and ip != "127.0.0.1"] == []


def facts_of(dask_worker: Any) -> tuple[int, str, int]:
    """A worker's memory limit, threads of a search, and threads of its own."""
    limit = dask_worker.memory_manager.memory_limit
    return limit, os.environ["OMP_NUM_THREADS"], dask_worker.state.nthreads


def test_all_end_when_the_clients_part_does(slurm: Slurm, here: Path, options: list[str]) -> None:
    program = here / "program.py"
    program.write_text(PROGRAM.format(shared=f"{slurm.home}/shared"))
    steps = STEPS.format(python=sys.executable, program=program, options=" ".join(options))
    (here / "job.sh").write_text(f"#!/bin/bash\n{steps}")
    job = submitted(slurm, "--ntasks=4", "job.sh")
    assert ended(slurm, job) == "COMPLETED 0:0"
    log = (here / f"{job}.log").read_text()
    failed, killed, code = log.split("ended with ")
    # The client's own words and code, once.
    assert failed.count("haag-vq: ") == 1, log
    assert "nowhere.npy" in failed
    assert killed.startswith("1\n"), log
    assert "scale(9): an allocation has the 2 workers" in killed, log
    assert "True True\n1 logs\n" in killed
    assert code == "137\n"
    assert list((slurm.home / "shared").iterdir()) == []
