"""The benchmark of the cluster runs, and three nodes give the bits of one process."""

from __future__ import annotations

import pytest

from tests.slurm.conftest import NODES, Slurm, free_ports
from tests.test_benchmarks import benchmark

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)
def test_three_nodes_answer_from_an_empty_machine(
    slurm: Slurm, tmp_path_factory: pytest.TempPathFactory
) -> None:
    words = ("--rows=6000", "--queries=20", "--runs=1", "--blocks=30", f"--port={free_ports(4)}")
    # Slurm's sockets are below it: their paths must not be long.
    found = benchmark("cluster.py", tmp_path_factory.mktemp("b"), *words)
    start = found["start"]
    assert start["nodes"] == list(NODES)
    assert start["same_bits"]
    assert set(found["scaling"]) == {f"{way} {n}" for way in ("search", "sgemm") for n in (1, 2, 3)}
    assert found["overhead"]["blocks"] == 30
