"""The request that fits a profile: its numbers, its caps, and how many walltimes it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from haag_vq.cluster.request import parse_walltime
from haag_vq.errors import UsageError
from haag_vq.planning import LoadJob, Rates, SearchJob, ShapeSource
from haag_vq.planning.need import Job
from haag_vq.planning.slurm import SlurmPlan, caps_arithmetic, plan_slurm
from tests.planning.sites import GIB

MSMARCO = ShapeSource(113_520_750, 1024)
SEARCH = SearchJob(MSMARCO, 1677, 100, "cosine", (MSMARCO.n_rows,))

# So slow that the search takes days.
SLOW = Rates(multiply_flops=1e8)


def planned(
    job: Job = SEARCH,
    where: str = "pace-ice",
    jobs: int | None = None,
    rates: Rates | None = None,
    **settings: Any,
) -> SlurmPlan:
    return plan_slurm(job, where, jobs, settings, rates or Rates())


def option(found: SlurmPlan, name: str) -> str:
    (value,) = (
        line.split("=", 1)[1] for line in found.directives if line.startswith(f"#SBATCH --{name}=")
    )
    return value


@pytest.fixture
def small(tmp_path: Path) -> str:
    """A profile with every cap."""
    path = tmp_path / "small.yaml"
    path.write_text(
        "cores: 4\nmemory: 8GiB\nwalltime: '1:00:00'\nqueue: q\naccount: a\n"
        "caps: {jobs: 3, cores: 4, memory: 10GiB, walltime: '2:00:00', cpu-hours: 5}\n"
    )
    return str(path)


def test_msmarco_on_pace_ice_keeps_to_its_caps() -> None:
    found = planned()
    assert found.refusal == ""
    assert (found.n_jobs, found.n_walltimes) == (1, 1)
    assert option(found, "nodes") == "1"
    assert option(found, "ntasks") == "1"
    assert option(found, "cpus-per-task") == "24"
    assert option(found, "tmp") == "100G"
    assert option(found, "constraint") == "localNVMe"
    seconds = parse_walltime(option(found, "time"))
    assert seconds <= 18 * 3600
    assert 24 * seconds / 3600 <= 512
    # The worker's limit is what its projection asks for, Slurm is asked for its nanny beside.
    limit = found.request.memory_bytes
    assert 0.75 * limit >= found.need.projection.total_bytes > 0.75 * (limit - GIB)
    assert option(found, "mem") == f"{(limit + (512 << 20)) >> 20}M"
    assert found.request.lifetime_seconds >= found.duration.high_seconds
    assert "of 512 CPU-hours" in caps_arithmetic(found)


def test_as_few_jobs_as_end_within_a_walltime() -> None:
    found = planned(rates=SLOW)
    assert found.n_walltimes == 1
    assert found.n_jobs > 1
    half = planned(rates=SLOW, jobs=found.n_jobs // 2)
    assert half.n_walltimes > 1
    assert half.request.walltime_seconds == 18 * 3600
    assert half.advice.startswith("add --checkpoint DIR")
    kept = planned(replace(SEARCH, on_disk=True), rates=SLOW, jobs=found.n_jobs // 2)
    assert kept.advice.startswith("jobs that end are replaced")


def test_no_more_jobs_than_the_cap(small: str) -> None:
    found = planned(where=small, rates=SLOW)
    assert found.n_jobs == 3
    assert found.n_walltimes > 1
    # 5 CPU-hours of 4 cores.
    assert found.request.walltime_seconds == 4500
    assert "= 5 of 5 CPU-hours" in caps_arithmetic(found)
    assert "3 of 3 jobs" in caps_arithmetic(found)
    assert option(found, "partition") == "q"
    assert option(found, "account") == "a"
    with pytest.raises(UsageError, match="allows 3 at one time"):
        planned(where=small, jobs=4)


def test_what_the_user_orders_stands() -> None:
    found = planned(memory="40GiB", walltime="3:00:00", jobs=5)
    assert (found.n_jobs, found.request.memory_bytes) == (5, 40 * GIB)
    assert option(found, "time") == "03:00:00"
    assert "--jobs 5 --set memory=40GiB --set walltime=03:00:00" in found.arguments
    with pytest.raises(UsageError, match="24 cores × 30.00 h"):
        planned(walltime="30:00:00", caps={"cpu-hours": "512"})


def test_a_memory_that_is_too_small_is_refused_in_the_runs_words() -> None:
    found = planned(memory="900MiB")
    assert found.refusal == ""
    found = planned(memory="600MiB")
    assert "needs" in found.refusal
    assert "--memory-limit" in found.refusal


def test_one_process_gets_what_its_array_takes() -> None:
    found = planned(LoadJob(ShapeSource(1_000_000, 1536)), jobs=4)
    assert found.n_jobs == 1
    assert found.arguments == ""
    # No nanny, no margin: all of the grant is the process's.
    assert option(found, "mem") == f"{found.request.memory_bytes >> 20}M"
    assert 0.75 * found.request.memory_bytes >= found.need.projection.total_bytes


def test_more_than_a_node_has_is_refused(small: str) -> None:
    found = planned(LoadJob(MSMARCO))
    assert "pace-ice has 150 GiB" in found.refusal
    assert "--set memory=" in found.refusal
    assert planned(LoadJob(MSMARCO), memory="700GiB").refusal == ""
    # A known cap is one, whatever is ordered.
    ordered = planned(LoadJob(ShapeSource(2_000_000, 1536)), where=small)
    assert "passes the 10 GiB" in ordered.refusal


def test_one_process_that_cannot_go_on_must_end_in_time() -> None:
    found = planned(LoadJob(ShapeSource(10**7, 1024)), rates=Rates(convert={"float16": 1e3}))
    assert "does not go on where it ended" in found.refusal
