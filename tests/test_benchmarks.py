"""The benchmarks run, and what they measure besides time keeps to what is promised."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
ROOT = Path(__file__).parents[1]

# What a load may take beside its output, whatever the size.
MOST_OVER_BYTES = 128 * MIB


def benchmark(name: str, tmp_path: Path, *words: str) -> dict[str, Any]:
    """Run one with its data in `tmp_path`, so that nothing is left elsewhere."""
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / name),
            "--data",
            str(tmp_path),
            "--json",
            *words,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_loading_keeps_to_a_constant_overhead(tmp_path: Path) -> None:
    ways = ("ours-all", "npy-ours-1")
    words = ("--rows=6000", "--dim=256", "--repeat=1", "--ways", *ways)
    found = benchmark("loading.py", tmp_path, *words)
    for way in ways:
        assert found["ways"][way]["array_bytes"] == 6000 * 256 * 4
        assert found["ways"][way]["over_bytes"] <= MOST_OVER_BYTES
    assert [size["rows"] for size in found["sizes"]] == [600, 3000, 6000]
    assert all(size["over_bytes"] <= MOST_OVER_BYTES for size in found["sizes"])


@pytest.mark.slow
def test_every_way_loads_the_same_vectors(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    words = ("--rows=3000", "--dim=64", "--repeat=1", "--loop-rows=1000")
    ways = benchmark("loading.py", tmp_path, *words)["ways"]
    sums = {way: run["checksum"] for way, run in ways.items()}
    assert sums["loop-streaming"] == sums["loop-faiss"] == sums["loop-cached"]
    assert sums["numpy-batches"] == sums["pyarrow"] == sums["ours-1"] == sums["ours-all"]
    assert sums["npy-astype"] == sums["npy-ours-1"] == sums["npy-ours-all"]
    for way, run in ways.items():
        assert run["rows"] == (1000 if way.startswith("loop") else 3000)


def test_planning_ten_thousand_blocks_stays_small(tmp_path: Path) -> None:
    words = ("--shards=100", "--shard-rows=10000", "--dim=16", "--chunk-bytes=6400")
    found = benchmark("scale.py", tmp_path, *words)
    for kind in ("npy", "parquet"):
        run = found[kind]
        assert run["n_rows"] == 10**6
        assert run["n_blocks"] == 10_000
        assert run["graph_rss_bytes"] <= 100e6
        assert run["largest_task_bytes"] <= 16 << 10
        assert run["largest_search_task_bytes"] <= 16 << 10
    assert found["npy"]["slice_bytes"] == 100 * 16 * 2


@pytest.mark.parametrize(
    "jobs",
    [
        pytest.param([6], id="parquet"),
        pytest.param([0, 2, 7, 11, 13, 18], id="more", marks=pytest.mark.slow),
    ],
)
def test_no_worker_passes_its_projection(jobs: list[int], tmp_path: Path) -> None:
    found = benchmark("memory.py", tmp_path, "--mib=40", "--jobs", *map(str, jobs))
    assert len(found["jobs"]) == len(jobs)
    for run in found["jobs"]:
        assert 0 < run["peak_rss_bytes"] <= run["projected_bytes"]


@pytest.mark.slow
def test_a_plan_is_held_against_its_run(tmp_path: Path) -> None:
    words = ("--mib=40", "--rates-kept", "--jobs", "1", "4", "5")
    found = benchmark("plan.py", tmp_path, *words)
    assert len(found["jobs"]) == 3
    for run in found["jobs"]:
        assert run["same_projection"]
        assert 0 < run["peak_rss_bytes"] <= run["projected_bytes"]
        assert 0 < run["low_seconds"] < run["planned_seconds"] < run["high_seconds"]


def test_duplicates_change_nothing(tmp_path: Path) -> None:
    words = ("--partitionings=5", "--rows=1000", "--dim=64", "--queries=50")
    tools = benchmark("duplicates.py", tmp_path, *words)["tools"]
    assert tools["faiss"]["metrics"]["ip"]["ids_changed"] > 0
    for run in tools["haag_vq"]["metrics"].values():
        assert not any(run.values())


def test_every_way_of_ground_truth_runs(tmp_path: Path) -> None:
    words = ("--rows=3000", "--dim=16", "--queries=20,50", "--runs=1", "--k=5")
    found = benchmark("ground_truth.py", tmp_path, *words)
    assert set(found) == {"20", "50"}
    for ways in found.values():
        assert len(ways) == 8
        assert all(run["gflops"] > 0 and run["peak"] > MIB for run in ways.values())


def test_the_parts_of_a_search_add_up(tmp_path: Path) -> None:
    words = ("--rows=20000", "--dim=32", "--queries=20", "--runs=1", "--k=5")
    took = benchmark("parts.py", tmp_path, *words)["queries"]["20"]
    parts = {name: seconds for name, seconds in took.items() if name not in ("wall", "cpu")}
    assert all(parts[name] > 0 for name in ("reading", "norms", "products", "scan", "rescoring"))
    assert sum(parts.values()) <= took["cpu"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_search_of_many_shards_resumes_to_the_same_bits(tmp_path: Path) -> None:
    found = benchmark(
        "msmarco_scale.py", tmp_path, "--fraction=0.001", "--physical=2", "--unbroken"
    )
    assert found["same_bits"]
    assert 0 < found["resumed"]["reused_rows"] < found["rows"] == 60 * 1892
    for run in (found["resumed"], found["unbroken"]):
        assert run["peak_rss_bytes"] <= run["projected_bytes"]
    assert found["unbroken"]["projected_bytes"] == found["plan"]["projected_bytes"]


@pytest.mark.timeout(300)
def test_every_way_over_the_hub_loads_the_same(tmp_path: Path) -> None:
    found = benchmark("hub.py", tmp_path, "--rows=3000", "--dim=256", "--repeat=1")
    ways = found["ways"]
    assert len({run["checksum"] for run in ways.values()}) == 1
    streaming, staged = ways["ours-streaming"], ways["ours-staged"]
    assert streaming["bytes_ratio"] <= 1.05  # footers weigh more in little data
    assert streaming["disk_bytes"] == 0
    assert staged["disk_bytes"] >= found["column_bytes"]


def test_quantizing_keeps_to_its_projection(tmp_path: Path) -> None:
    ways = benchmark("quantize.py", tmp_path, "--rows=3000", "--dim=64", "--m=8", "--repeat=1")
    assert set(ways) == {"faiss", "faiss by blocks", "haag_vq"}
    assert ways["haag_vq"]["peak_rss_bytes"] <= ways["haag_vq"]["projected_bytes"]
