"""Jobs that die before their workers are up, where their number follows the work."""

from __future__ import annotations

import pytest

from haag_vq import connect, ground_truth, load_dummy_dataset
from haag_vq.errors import ClusterError
from tests.slurm.conftest import Slurm

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("adapt", [(0, 2), (1, 3)])
def test_jobs_that_follow_the_work_and_die_at_the_start_end_the_run(
    slurm: Slurm, adapt: tuple[int, int]
) -> None:
    fatal = ["echo no such module: anaconda >&2", "exit 3"]
    with (
        connect(slurm.profile, adapt=adapt, job_script_prologue=fatal),
        pytest.raises(ClusterError, match="jobs in a row .* exit code 3:0.*no such module"),
    ):
        ground_truth(load_dummy_dataset(4_000, 16, num_queries=12), k=7)
    assert not slurm.jobs()


def test_jobs_that_are_cancelled_where_they_run_end_the_run(slurm: Slurm) -> None:
    """So Slurm does with what it cannot launch: a job more every second, for ever."""
    cancelled = ["scancel $SLURM_JOB_ID", "sleep 60"]
    with (
        connect(slurm.profile, jobs=1, job_script_prologue=cancelled),
        pytest.raises(ClusterError, match="3 jobs in a row .* as CANCELLED"),
    ):
        ground_truth(load_dummy_dataset(4_000, 16, num_queries=12), k=7)
    assert not slurm.jobs()
