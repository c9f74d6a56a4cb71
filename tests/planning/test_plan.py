"""What a plan says of a job that fits, of one that does not, and of the nearest that does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from haag_vq import plan
from haag_vq.memory import PROCESS_BYTES, Allowance, Projection
from haag_vq.planning import ExportJob, LoadJob, Rates, SearchJob, ShapeSource, StreamJob
from haag_vq.planning.jobs import rounded
from haag_vq.planning.tell import WIDTH, memory_bar, plan_facts, plan_table
from tests.planning.sites import GIB, site

MSMARCO = ShapeSource(113_520_750, 1024)


def search(source: ShapeSource = MSMARCO, n_queries: int = 1677, k: int = 100) -> SearchJob:
    return SearchJob(source, n_queries, k, "cosine", (source.n_rows,))


def test_a_load_that_fits() -> None:
    made = plan(LoadJob(ShapeSource(100_000, 1536)), site(2))
    assert made.fits
    assert made.nearest == ()
    assert made.projection.buffer_bytes == made.float32_bytes == 100_000 * 1536 * 4
    assert made.projection.total_bytes == 100_000 * 1536 * 4 + (2 << 20) + PROCESS_BYTES
    assert made.verdict.startswith("yes: the process needs 868 MiB of the 1.5 GiB")


def test_a_load_that_does_not_fit_names_rows_that_do() -> None:
    there = site(8)
    made = plan(LoadJob(MSMARCO), there)
    assert not made.fits
    assert made.refusal.startswith("reading 113,520,750 × 1024 vectors into one array needs 433")
    rows, blocks = made.nearest
    n = int(rows.words.split()[1].rstrip(","))
    assert plan(LoadJob(ShapeSource(n, 1024)), there).fits
    # Two digits of the most: a tenth more does not.
    assert not plan(LoadJob(ShapeSource(n * 11 // 10, 1024)), there).fits
    assert plan(LoadJob(ShapeSource(n, 1024)), there).projection.total_bytes == rows.total_bytes
    assert blocks.words == "all rows, streamed by blocks (dataset.vectors)"
    assert blocks.total_bytes == plan(StreamJob(MSMARCO), there).projection.total_bytes
    assert f"--limit {n}" in made.verdict


def test_numbers_are_rounded_down() -> None:
    assert [rounded(n) for n in (1, 99, 100, 2_949_000, 999)] == [1, 99, 100, 2_900_000, 990]


def test_a_search_is_planned_without_reading_its_base() -> None:
    made = plan(search(), site(4, 2))
    assert made.fits
    assert made.flop == 2 * 1677 * 113_520_750 * 1024
    assert made.n_partitions * made.max_rows >= 113_520_750
    assert made.disk.output_bytes == 1677 * 100 * 16
    assert made.disk.checkpoint_bytes == 0


def test_a_search_that_does_not_fit_names_what_does() -> None:
    job, there = search(ShapeSource(2_000_000, 64), 50_000, 1000), site(2, 2)
    made = plan(job, there)
    assert not made.fits
    words = [near.words for near in made.nearest]
    assert words
    some = made.nearest[-1]
    assert some.words.endswith("queries at a time")
    n = int(some.words.split()[0].replace(",", ""))
    assert plan(replace(job, n_queries=n), there).projection.total_bytes == some.total_bytes
    assert not plan(replace(job, n_queries=n * 11 // 10 + 1), there).fits


def test_the_lists_go_to_disk_where_that_is_enough() -> None:
    job = search(ShapeSource(2_000_000, 64), 10_000, 1000)
    on_disk = replace(job, on_disk=True)
    there = next(site(gib / 8) for gib in range(8, 80) if plan(on_disk, site(gib / 8)).fits)
    made = plan(job, there)
    assert not made.fits
    assert made.nearest[0].words.startswith("--checkpoint DIR")


def test_one_worker_may_do_what_two_cannot() -> None:
    job = search(ShapeSource(2_000_000, 64), 10_000, 1000)
    one = next(site(gib / 8) for gib in range(8, 200) if plan(job, site(gib / 8)).fits)
    two = site(one.limit_bytes / 2 / GIB, 2)
    made = plan(job, two)
    assert not made.fits
    assert made.nearest[0].words.startswith("--workers 1 --memory-limit ")


def test_an_ordered_chunk_that_does_not_fit_is_made_smaller() -> None:
    job = replace(search(), chunk_bytes=4 << 30)
    made = plan(job, site(2))
    chunk = made.nearest[0].words
    assert chunk == "--chunk-size 1GiB"
    assert plan(replace(job, chunk_bytes=1 << 30), site(2)).fits
    assert not plan(replace(job, chunk_bytes=2 << 30), site(2)).fits
    # One size is enough.
    assert sum(near.words.startswith("--chunk-size") for near in made.nearest) == 1


def test_an_export_has_its_output_on_disk() -> None:
    job = ExportJob(ShapeSource(1_000_000, 96), "x.u8bin", None, 32 << 20)
    made = plan(job, site(1))
    assert made.disk.output_bytes == made.disk.total_bytes == 96_000_000
    small = plan(replace(job, chunk_bytes=1 << 30), site(1))
    assert small.nearest[0].words == "--chunk-size 128MiB"


def test_too_little_disk_is_told(tmp_path: Path) -> None:
    job = ExportJob(ShapeSource(10**10, 4096), "x.fbin", None, 4 << 30)
    made = plan(job, site(32), directory=tmp_path / "not made yet")
    assert not made.fits
    assert made.nearest == ()
    assert made.verdict.startswith("no: it writes 149 TiB in ")
    assert plan(job, site(32)).fits


def test_facts_are_json_and_parts_add_up() -> None:
    made = plan(search(), site(4, 2), rates=Rates())
    facts = json.loads(json.dumps(plan_facts(made)))
    assert sum(facts["memory_parts"].values()) == facts["projected_bytes"]
    assert facts["time"]["bottleneck"] == "searching"
    assert facts["time"]["low_seconds"] < facts["time"]["seconds"] < facts["time"]["high_seconds"]
    assert facts["slurm"] is None


def test_the_table_has_a_line_for_each_thing() -> None:
    table = plan_table(plan(replace(search(), on_disk=True), site(4, 2), rates=Rates()))
    told = dict(table)
    assert set(told) == {
        *("vectors", "partitions", "memory", "", "disk", "products", "time here", "fits here")
    }
    assert "checkpoint" in told["disk"]
    assert "assumed" in told["time here"]


@pytest.mark.parametrize(
    ("allowance", "drawn"),
    [
        (1600, "[" + "p" * 12 + "#" * 12 + "." * 24 + "]"),
        (800, "[" + "p" * 24 + "#" * 24 + "]"),
        (400, "[" + "p" * 24 + "|" + "#" * 24 + "]"),
    ],
)
def test_the_bar_is_in_proportion(allowance: int, drawn: str) -> None:
    projection = Projection(200, process_bytes=400, n_threads=2)
    assert memory_bar(projection, Allowance(allowance, "")) == drawn
    assert len(drawn.replace("|", "")) == WIDTH + 2
