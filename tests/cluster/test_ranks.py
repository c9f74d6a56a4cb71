"""Which task of an srun this is, from Slurm's variables as it wrote them."""

from __future__ import annotations

import pytest

from haag_vq import connect
from haag_vq.cluster.ranks import Rank, memory_of_worker, this_rank
from haag_vq.cluster.request import job_request, worker_bytes
from haag_vq.errors import UsageError
from haag_vq.memory import n_cores

MIB = 1 << 20

# Slurm 22.05's, of the fourth of five tasks on three nodes.
TASK = {
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_LAUNCHER_PORT": "42001",
    "SLURM_CLUSTER_NAME": "one",
    "SLURMD_NODENAME": "node2",
    "SLURM_CPUS_PER_TASK": "1",
}


@pytest.fixture(autouse=True)
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_RESTART_COUNT", "SLURM_MEM_PER_CPU", "SLURM_MEM_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)


def test_a_task_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert this_rank() == Rank(3, 5, "node2", "17.0-one-42001", 2, 1)
    assert this_rank().n_workers == 3
    # A job that is requeued has the numbers that it had.
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert this_rank().step == "17.0-one-1-42001"


@pytest.mark.parametrize(
    ("text", "node", "n"),
    [("4", 0, 4), ("4(x3)", 2, 4), ("3,2(x2),1", 0, 3), ("3,2(x2),1", 2, 2), ("3,2(x2),1", 3, 1)],
)
def test_tasks_of_its_node(text: str, node: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", text)
    monkeypatch.setenv("SLURM_NODEID", str(node))
    assert this_rank().n_on_node == n


@pytest.mark.parametrize(
    ("asked", "on_node", "n"), [("1", "9", 1), ("", "2", 1), ("", "", 1), ("9999", "9", n_cores())]
)
def test_cores_are_those_of_the_task(
    asked: str, on_node: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", asked)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", on_node)
    assert this_rank().n_cores == n


@pytest.mark.parametrize("per", [{"NODE": "3000"}, {"CPU": "750", "CPUS_ON_NODE": "4"}])
def test_a_worker_has_an_even_share_less_a_margin(
    per: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in per.items():
        slurm = f"SLURM_{name}" if name == "CPUS_ON_NODE" else f"SLURM_MEM_PER_{name}"
        monkeypatch.setenv(slurm, value)
    assert memory_of_worker(this_rank()) == (1500 - 512) * MIB
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4(x3)")
    with pytest.raises(UsageError, match=r"rank 3 of 5, on node2.*750 MiB \(Slurm's grant.* 238 M"):
        memory_of_worker(this_rank())


@pytest.mark.parametrize("memory", ["1GiB", "5GiB", "5.2GiB", "150GiB"])
def test_the_margin_is_that_of_a_profiles_job(memory: str) -> None:
    request = job_request("generic-slurm", {"cores": 1, "memory": memory})
    assert abs(worker_bytes(request.job_memory_bytes) - request.memory_bytes) <= 1


@pytest.mark.parametrize("name", ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID"])
def test_outside_of_an_srun_it_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(UsageError, match="for the tasks of an srun, and this process is none"):
        connect("slurm-allocation")


def test_too_few_tasks_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(UsageError, match="at least 3 tasks, and this srun has 2"):
        connect("slurm-allocation")
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(SystemExit) as left:
        connect("slurm-allocation")
    assert left.value.code == 2
