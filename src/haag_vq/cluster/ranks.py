"""Which task of an srun this process is, and which share of its node is its own."""

from __future__ import annotations

import os
from dataclasses import dataclass

from haag_vq.cluster.request import worker_bytes
from haag_vq.errors import UsageError
from haag_vq.memory import PROCESS_BYTES, format_bytes, machine_memory, n_cores

# As dask-jobqueue's SLURMRunner has it: the first task is the scheduler, the second the client.
SCHEDULER, CLIENT = 0, 1
LEAST_TASKS = 3


@dataclass(frozen=True, slots=True)
class Rank:
    """One task of a Slurm step."""

    number: int
    """From 0 (SLURM_PROCID)."""
    n_ranks: int
    node: str
    step: str
    """Names the step: the same in all its tasks, another in every other step of this site, and of
    this one should its job be requeued."""
    n_on_node: int
    """Tasks of the step on this node."""
    n_cores: int
    """Cores of this task."""

    @property
    def n_workers(self) -> int:
        """Tasks that are neither scheduler nor client."""
        return self.n_ranks - 2

    def __str__(self) -> str:
        return f"rank {self.number} of {self.n_ranks}, on {self.node}"


def this_rank() -> Rank:
    """Read from the environment which task this process is.

    Raises
    ------
    UsageError
        If it is none, or one of too few. All of too few but the first leave the program instead:
        once is enough to be told.
    """
    env = os.environ
    try:
        number, n_ranks = int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"])
        n_on_node = _tasks_by_node(env["SLURM_STEP_TASKS_PER_NODE"])[int(env["SLURM_NODEID"])]
        step = f"{env['SLURM_JOB_ID']}.{env['SLURM_STEP_ID']}"
    except (KeyError, ValueError, IndexError):
        raise UsageError(
            "slurm-allocation is for the tasks of an srun, and this process is none. Inside an "
            "allocation: srun --ntasks=N COMMAND, of which one task schedules, one is your program "
            "and N-2 work; or sbatch cluster/allocation.sbatch."
        ) from None
    if n_ranks < LEAST_TASKS:
        if number:
            raise SystemExit(2)
        raise UsageError(
            f"slurm-allocation needs at least {LEAST_TASKS} tasks, and this srun has {n_ranks}: "
            "one schedules, one is your program, the others work. Ask for more: --ntasks=N."
        )
    names = ("SLURM_CLUSTER_NAME", "SLURM_RESTART_COUNT", "SLURM_STEP_LAUNCHER_PORT")
    step = "-".join([step, *(env[name] for name in names if env.get(name))])
    return Rank(
        number, n_ranks, env.get("SLURMD_NODENAME", "?"), step, n_on_node, _cores(n_on_node)
    )


def memory_of_worker(rank: Rank) -> int:
    """Memory limit of a worker of this task, in bytes: an even share of the node's, less a margin.

    The margin is that of a job of a profile: for the nanny, and for what a worker passes its limit
    by before Dask acts.

    Raises
    ------
    UsageError
        If nothing to work with would be left.
    """
    total, origin = machine_memory()
    share = total // rank.n_on_node
    limit = worker_bytes(share)
    if limit < PROCESS_BYTES:
        raise UsageError(
            f"slurm-allocation, {rank}: its share of the memory is {format_bytes(share)} ({origin} "
            f"÷ {rank.n_on_node} tasks), which leaves {format_bytes(max(limit, 0))} to a worker, "
            f"and it needs {format_bytes(PROCESS_BYTES)} before it does anything. Ask for more: "
            "--mem-per-cpu, --mem, or fewer tasks a node."
        )
    return limit


def _tasks_by_node(text: str) -> list[int]:
    """Expand ``2(x3),1`` as Slurm writes it to 2, 2, 2, 1."""
    counts = []
    for part in text.split(","):
        n_tasks, _, times = part.rstrip(")").partition("(x")
        counts += [int(n_tasks)] * int(times or 1)
    return counts


def _cores(n_on_node: int) -> int:
    """Cores of one of this node's tasks: what it asked for, else an even share of the step's."""
    env = os.environ
    try:
        granted = int(env.get("SLURM_CPUS_PER_TASK") or 0)
        granted = granted or int(env.get("SLURM_CPUS_ON_NODE") or 0) // n_on_node
    except ValueError:
        granted = 0
    # The job's --cpus-per-task stays in the environment of an srun that was not given it.
    return min(max(granted, 1), n_cores())
