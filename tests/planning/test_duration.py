"""Seconds from work and rates, against arithmetic done by hand."""

from __future__ import annotations

import pytest

from haag_vq.planning import Rates
from haag_vq.planning.duration import duration
from haag_vq.planning.need import Work
from haag_vq.planning.sites import profile_site
from tests.planning.sites import site

RATES = Rates(
    multiply_flops=1e9,
    scan_pairs=1e6,
    row_values=1e9,
    scored_values=1e9,
    read_bytes=1e6,
    write_bytes=1e6,
    network_bytes=1e5,
    start_seconds=5.0,
    convert={"float16": 1e6, "parquet-float32": 1e5},
    spread=2.0,
)


def test_cores_share_the_search_and_the_conversion() -> None:
    work = Work(kind="float16", n_values=8_000_000, flop=16 * 10**9, n_pairs=4 * 10**6, n_tasks=8)
    one = duration(work, site(1, 1, 1), RATES)
    assert one.parts["converting"] == 8
    assert one.parts["searching"] == pytest.approx(16 + 4 + 0.008)
    four = duration(work, site(1, 2, 2), RATES)
    assert four.parts["searching"] == one.parts["searching"] / 4
    assert four.parts["converting"] == 2


def test_workers_without_a_task_are_of_no_use() -> None:
    def searching(n_tasks: int, n_workers: int) -> float:
        work = Work(flop=12 * 10**9, n_tasks=n_tasks)
        return duration(work, site(1, n_workers, 1), RATES).parts["searching"]

    assert searching(1, 8) == 12
    assert searching(3, 8) == 4
    # Three workers do four tasks in two rounds, as two workers do.
    assert searching(4, 3) == searching(4, 2) == 6


def test_few_readers_convert_slowly() -> None:
    work = Work(kind="parquet-float32", n_values=10**6, most_readers=2)
    assert duration(work, site(1, 1, 16), RATES).parts["converting"] == 5


def test_what_queries_are_read_from_is_converted_by_one_core() -> None:
    work = Work(kind="float16", n_values=8 * 10**6, n_values_before=10**6, n_tasks=8)
    assert duration(work, site(1, 2, 2), RATES).parts["converting"] == 3


def test_an_unknown_kind_is_as_slow_as_the_slowest() -> None:
    assert duration(Work(kind="?", n_values=10**5), site(1, 1, 1), RATES).parts["converting"] == 1


@pytest.mark.parametrize(
    ("work", "bottleneck"),
    [
        (Work(), "starting"),
        (Work(stored_bytes=10**8, flop=10**9), "reading"),
        (Work(network_bytes=10**8, stored_bytes=10**6), "network"),
        (Work(kind="float16", n_values=10**8, flop=10**9), "converting"),
        (Work(flop=10**12, stored_bytes=10**6), "searching"),
        (Work(written_bytes=10**9), "writing"),
    ],
)
def test_the_bottleneck_is_named(work: Work, bottleneck: str) -> None:
    assert duration(work, site(1), RATES).bottleneck == bottleneck


def test_the_range_goes_from_a_warm_cache_to_nothing_overlapping() -> None:
    work = Work(stored_bytes=10 * 10**6, flop=12 * 10**9)
    found = duration(work, site(1, 1, 1), RATES)
    assert found.low_seconds == (5 + 12) / 2
    assert found.seconds == 5 + 12
    assert found.high_seconds == (5 + 12 + 10) * 2
    read = duration(Work(stored_bytes=20 * 10**6, flop=12 * 10**9), site(1, 1, 1), RATES)
    assert read.seconds == 5 + 20
    assert read.low_seconds == (5 + 12) / 2


def test_only_nodes_with_a_task_read() -> None:
    eight = profile_site("pace-ice", 8, {})
    assert duration(Work(stored_bytes=8 * 10**6, n_tasks=8), eight, RATES).parts["reading"] == 1
    one = duration(Work(stored_bytes=8 * 10**6, n_tasks=1), eight, RATES)
    assert one.parts["reading"] == 8
    # They may all share one disk.
    both = duration(Work(stored_bytes=8 * 10**6, n_tasks=8), eight, RATES)
    assert both.high_seconds == (5 + 8) * 2
