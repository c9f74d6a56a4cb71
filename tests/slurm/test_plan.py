"""What a plan asks of Slurm is accepted by one whose nodes are of the profile's shape."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from haag_vq.cluster.request import JobRequest
from haag_vq.planning import LoadJob, Rates, SearchJob, ShapeSource
from haag_vq.planning.need import Job
from haag_vq.planning.slurm import plan_slurm
from tests.slurm.conftest import LAUNCHER, Slurm, free_ports

pytestmark = pytest.mark.slow

MSMARCO = ShapeSource(113_520_750, 1024)
SEARCH = SearchJob(MSMARCO, 1677, 100, "cosine", (MSMARCO.n_rows,))
DBPEDIA = LoadJob(ShapeSource(1_000_000, 3072))

# A node of PACE's ICE: 24 cores, 184 GB that jobs can use, a local disk.
CORES, MEMORY_MB, REST = 24, 184_000, "Feature=localNVMe TmpDisk=1600000"


@pytest.fixture(scope="module")
def conf(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Slurm's configuration of a cluster of such nodes; `slurm` has seen that there is a Slurm."""
    daemons = tmp_path_factory.mktemp("pace")
    env = {**os.environ, "HAAG_VQ_SLURM_PORT": str(free_ports(4)), "HAAG_VQ_SLURM_NODE": REST}
    size = ["2", str(CORES), str(MEMORY_MB)]
    try:
        subprocess.run([LAUNCHER, "start", daemons, *size], check=True, timeout=60, env=env)
        yield str(daemons / "slurm.conf")
    finally:
        subprocess.run([LAUNCHER, "stop", daemons], check=True, timeout=60, env=env)


def submitted(conf: str, lines: tuple[str, ...], home: Path) -> subprocess.CompletedProcess[str]:
    """Ask Slurm whether it would take a script of these lines; nothing is queued."""
    script = home / "job.sh"
    script.write_text("\n".join(["#!/bin/bash", *lines, "true"]) + "\n")
    return subprocess.run(
        ["sbatch", "--test-only", str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "SLURM_CONF": conf},
    )


@pytest.mark.parametrize(
    "job", [pytest.param(SEARCH, id="search"), pytest.param(DBPEDIA, id="load")]
)
@pytest.mark.parametrize("rates", [Rates(), Rates(multiply_flops=1e8)], ids=["usual", "slow"])
def test_the_lines_are_accepted(job: Job, rates: Rates, conf: str, tmp_path: Path) -> None:
    found = plan_slurm(job, "pace-ice", None, {}, rates)
    assert found.refusal == ""
    done = submitted(conf, found.directives, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr
    assert f"using {found.request.job_cores} processors" in done.stderr


def test_a_node_that_is_too_small_refuses_them(conf: str, tmp_path: Path) -> None:
    # The tests above are worth something: this Slurm does look at what is asked.
    found = plan_slurm(SEARCH, "pace-ice", None, {"memory": "400GiB"}, Rates())
    request: JobRequest = found.request
    assert request.job_memory_bytes > MEMORY_MB << 20
    done = submitted(conf, found.directives, tmp_path)
    assert done.returncode != 0
    less = plan_slurm(SEARCH, "pace-ice", None, {"tmp": "4000G"}, Rates())
    assert submitted(conf, less.directives, tmp_path).returncode != 0
    other = plan_slurm(SEARCH, "pace-ice", None, {"constraint": "graniterapids"}, Rates())
    assert submitted(conf, other.directives, tmp_path).returncode != 0
