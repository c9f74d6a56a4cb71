"""Plans of partitions against a plan made row by row."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from haag_vq.errors import UsageError
from haag_vq.partition import Partitions, plan_partitions
from haag_vq.sources.protocol import I64


def plan(edges: list[int], most: int, row_bytes: int = 8) -> list[tuple[int, int]]:
    return list(plan_partitions(np.array(edges, np.int64), row_bytes, most * row_bytes))


def oracle(edges: list[int], most: int) -> list[tuple[int, int]]:
    """Walk over single rows: stop at the last edge within reach, or where the budget ends."""
    parts = []
    start = 0
    while start < edges[-1]:
        reach = range(start + 1, min(start + most, edges[-1]) + 1)
        stop = max((row for row in reach if row in edges), default=reach[-1])
        parts.append((start, stop))
        start = stop
    return parts


edge_lists = st.lists(st.integers(0, 60), max_size=12).map(lambda rows: sorted({0, *rows}))


@settings(max_examples=300, deadline=None)
@given(edges=edge_lists, most=st.integers(1, 70), row_bytes=st.integers(1, 9))
def test_is_the_plan_made_row_by_row(edges: list[int], most: int, row_bytes: int) -> None:
    parts = plan(edges, most, row_bytes)
    assert parts == oracle(edges, most)
    # The properties that the plan is for, told once more on their own.
    assert [row for a, b in parts for row in range(a, b)] == list(range(edges[-1]))
    for start, stop in parts:
        assert 1 <= stop - start <= most
        in_reach = [edge for edge in edges if start < edge <= start + most]
        if in_reach:
            assert stop == max(in_reach)
        else:
            assert stop - start == most


@settings(max_examples=300, deadline=None)
@given(edges=edge_lists, most=st.integers(1, 70), limit=st.integers(0, 60))
def test_raising_a_limit_changes_only_the_last_partition(
    edges: list[int], most: int, limit: int
) -> None:
    limit = min(limit, edges[-1])
    limited = sorted({edge for edge in edges if edge < limit} | {0, limit})
    few, all_ = plan(limited, most), plan(edges, most)
    assert few[:-1] == all_[: max(0, len(few) - 1)]
    if few:
        # The last starts where it would, and ends at the limit or where it would.
        assert few[-1][0] == all_[len(few) - 1][0]
        assert few[-1][1] == limit


@settings(max_examples=100, deadline=None)
@given(edges=edge_lists, most=st.integers(1, 70), spare=st.integers(0, 7))
def test_bytes_that_hold_no_whole_row_do_not_count(edges: list[int], most: int, spare: int) -> None:
    budget = np.array(edges, np.int64), 8, most * 8 + spare
    assert list(plan_partitions(*budget)) == oracle(edges, most)


def test_repeated_edges_are_harmless() -> None:
    # An empty row group starts where the next one does.
    assert plan([0, 0, 5, 5, 5, 9, 9], 6) == [(0, 5), (5, 9)]


@pytest.mark.parametrize("edges", [[0], [0, 0]])
def test_no_rows_make_no_partition(edges: list[int]) -> None:
    parts = plan_partitions(np.array(edges, np.int64), 4, 4)
    assert (len(parts), list(parts), parts.sizes, parts.max_rows) == (0, [], (), 0)
    assert "0 in all" in repr(parts)


@pytest.mark.parametrize("budget", [0, 1, 4095])
def test_a_budget_below_one_row_is_refused_with_what_would_do(budget: int) -> None:
    with pytest.raises(UsageError) as caught:
        plan_partitions(np.array([0, 10], np.int64), 4096, budget)
    assert all(word in str(caught.value) for word in (f"{budget:,} bytes", "4,096", "--chunk-size"))


def test_a_budget_of_one_row_is_enough() -> None:
    assert plan([0, 3], 1) == [(0, 1), (1, 2), (2, 3)]


def test_describes_itself() -> None:
    parts = plan_partitions(np.array([0, 1000, 2000, 2500], np.int64), 4, 4 * 1000)
    assert len(parts) == 3
    assert parts.sizes == (1000, 1000, 500)
    assert parts.max_rows == 1000
    assert repr(parts) == "Partitions(3 of up to 1,000 rows, 2,500 in all)"
    assert list(itertools.chain(*parts)) == [0, 1000, 1000, 2000, 2000, 2500]


def test_is_frozen() -> None:
    parts: Partitions = plan_partitions(np.array([0, 4], np.int64), 4, 8)
    with pytest.raises(AttributeError):
        parts.bounds = np.array([0])  # type: ignore[misc]


def test_a_billion_rows_in_a_million_row_groups() -> None:
    edges: I64 = np.arange(0, 10**9 + 1, 1000, dtype=np.int64)
    # 128 MiB of 1024 dimensions: 32,768 rows, of which whole row groups make 32,000.
    parts = plan_partitions(edges, 4096, 128 << 20)
    assert len(parts) == 31_250
    assert set(parts.sizes) == {32_000}
    assert_array_equal(parts.bounds[[0, -1]], [0, 10**9])
    # And where none is in reach: by the budget, to the end of each row group.
    few = plan_partitions(edges[:101], 4096, 4096 * 300)
    assert len(few) == 400
    assert set(few.sizes) == {300, 100}
