"""Samples: which rows, and that they stay the same rows for ever."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haag_vq.data.sampling import I64, sample_rows
from haag_vq.errors import UsageError

WORD = 2**64


def mixed(x: int) -> int:
    """splitmix64 of one number, in Python's integers: Steele, Lea and Flood's listing."""
    x = (x + 0x9E3779B97F4A7C15) % WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
    return x ^ (x >> 31)


def permuted(size: int, at: int, seed: int) -> int:
    """Image of `at` under the keyed permutation of 0 … size-1, one number at a time."""
    if size == 1:
        return 0
    half = ((size - 1).bit_length() + 1) // 2
    while True:
        left, right = at >> half, at % 2**half
        for i in range(6):
            left, right = right, left ^ (mixed(right ^ mixed((7 * seed + i) % WORD)) % 2**half)
        at = (left << half) | right
        if at < size:
            return at


def sampled(n_rows: int, n: int, seed: int) -> list[int]:
    return sorted(permuted(n_rows, i, seed) for i in range(n))


@st.composite
def samples(draw: st.DrawFn) -> tuple[int, int, int]:
    """(n_rows, n, seed): small populations wholly drawn upon, and huge ones."""
    n_rows = draw(st.integers(0, 300) | st.integers(0, 2**40))
    return n_rows, draw(st.integers(0, min(n_rows, 200))), draw(st.integers(0, 2**70))


# Drawn once and written down: a change of any of them changes every published sample, held-out
# set and ground truth that was made with it.
GOLDEN = [
    ((10, 10, 0, 1), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ((100, 8, 0, 1), [5, 25, 34, 38, 39, 65, 79, 90]),
    ((100, 8, 1, 1), [7, 13, 21, 22, 27, 44, 46, 92]),
    ((1_000_000, 8, 0, 1), [36801, 252634, 287259, 588057, 652422, 705933, 879753, 898743]),
    (
        (113_520_750, 8, 42, 1),
        [1748021, 31965960, 35083402, 39350275, 42017382, 53972904, 99975576, 111756395],
    ),
    ((2**40 + 1, 4, 2**64 + 3, 1), [59798404756, 86867568425, 572949955827, 662698230957]),
    ((1_000, 12, 7, 5), [655, 656, 720, 721, 722, 723, 724, 810, 811, 812, 813, 814]),
]


@pytest.mark.parametrize(("arguments", "expected"), GOLDEN)
def test_samples_are_the_same_for_ever(
    arguments: tuple[int, int, int, int], expected: list[int]
) -> None:
    assert sample_rows(*arguments).tolist() == expected


@given(samples())
def test_a_sample_is_the_beginning_of_the_documented_permutation(
    case: tuple[int, int, int],
) -> None:
    n_rows, n, seed = case
    rows = sample_rows(n_rows, n, seed)
    assert rows.dtype == np.int64
    assert rows.tolist() == sampled(n_rows, n, seed)


@given(samples())
def test_rows_differ_ascend_and_lie_in_range(case: tuple[int, int, int]) -> None:
    n_rows, n, seed = case
    rows = sample_rows(n_rows, n, seed)
    assert rows.shape == (n,)
    assert np.all(np.diff(rows) > 0)
    assert not n or (rows[0] >= 0 and rows[-1] < n_rows)
    assert np.array_equal(rows, sample_rows(n_rows, n, seed))


@given(samples(), st.integers(0, 200))
def test_a_larger_sample_contains_a_smaller_one(case: tuple[int, int, int], less: int) -> None:
    n_rows, n, seed = case
    smaller = sample_rows(n_rows, max(0, n - less), seed)
    assert set(smaller.tolist()) <= set(sample_rows(n_rows, n, seed).tolist())


@given(samples(), st.integers(1, 60))
def test_runs_are_whole_but_one_and_begin_at_multiples(
    case: tuple[int, int, int], run_rows: int
) -> None:
    n_rows, n, seed = case
    rows = sample_rows(n_rows, n, seed, run_rows)
    assert rows.shape == (n,)
    assert np.all(np.diff(rows) > 0)
    assert not n or (rows[0] >= 0 and rows[-1] < n_rows)
    runs, first, counts = np.unique(rows // run_rows, return_index=True, return_counts=True)
    assert np.array_equal(rows[first], runs * run_rows), "a run starts at its own beginning"
    lengths = np.minimum(run_rows, n_rows - runs * run_rows)
    assert np.count_nonzero(counts < lengths) <= 1, "only the last one drawn is cut"


def test_runs_of_one_are_single_rows() -> None:
    assert np.array_equal(sample_rows(1_000, 50, 3, run_rows=1), sample_rows(1_000, 50, 3))


def test_a_short_last_run_is_made_up_for() -> None:
    # 10 rows in runs of 4: the last run has two rows, and whoever draws it needs another.
    sizes = {len(sample_rows(10, 8, seed, run_rows=4)) for seed in range(20)}
    drawn_short = [seed for seed in range(20) if 9 in sample_rows(10, 8, seed, run_rows=4).tolist()]
    assert sizes == {8}
    assert drawn_short, "no seed drew the short run: this test has tested nothing"


def test_all_rows_in_runs() -> None:
    assert np.array_equal(sample_rows(103, 103, 9, run_rows=10), np.arange(103))


def test_seeds_give_other_samples() -> None:
    drawn = [sample_rows(100_000, 50, seed) for seed in range(20)]
    overlaps = [len(np.intersect1d(a, b)) for a in drawn for b in drawn if a is not b]
    assert max(overlaps) <= 3  # 0.025 expected


@pytest.mark.parametrize("run_rows", [1, 10])
def test_samples_are_roughly_uniform(run_rows: int) -> None:
    n_rows, n, n_bins, n_seeds = 100_000, 500, 20, 40
    counts = np.zeros(n_bins)
    drawn_runs = np.zeros(n_bins)
    for seed in range(n_seeds):
        rows = sample_rows(n_rows, n, seed, run_rows)
        counts += np.bincount(rows * n_bins // n_rows, minlength=n_bins)
        drawn_runs += np.bincount(rows[::run_rows] * n_bins // n_rows, minlength=n_bins)
    assert counts.sum() == n * n_seeds
    expected = drawn_runs.sum() / n_bins
    chi_square = float(((drawn_runs - expected) ** 2 / expected).sum())
    # 19 degrees of freedom: 19 ± 6. Too even would be as suspicious as too uneven.
    assert 3 < chi_square < 50


def test_every_pair_of_a_small_population_is_drawn_about_as_often() -> None:
    n_seeds = 3_000
    pairs: dict[tuple[int, ...], int] = {}
    for seed in range(n_seeds):
        pair = tuple(sample_rows(6, 2, seed).tolist())
        pairs[pair] = pairs.get(pair, 0) + 1
    assert len(pairs) == 15
    expected = n_seeds / 15
    chi_square = sum((count - expected) ** 2 / expected for count in pairs.values())
    assert chi_square < 45  # 14 degrees of freedom


def test_a_sample_of_everything_is_everything() -> None:
    assert np.array_equal(sample_rows(1_000, 1_000, 5), np.arange(1_000))


@pytest.mark.parametrize("n_rows", [0, 1, 2, 3, 100])
def test_nothing_drawn(n_rows: int) -> None:
    rows = sample_rows(n_rows, 0, 0, run_rows=7)
    assert rows.shape == (0,)
    assert rows.dtype == np.int64


def test_one_row() -> None:
    assert sample_rows(1, 1, 99).tolist() == [0]
    assert sample_rows(1, 1, 99, run_rows=1_000).tolist() == [0]


def test_a_sample_takes_no_memory_for_the_population() -> None:
    def draw() -> I64:
        return sample_rows(113_520_750, 1_000, 0)

    draw()
    tracemalloc.start()
    try:
        rows = draw()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(rows) == 1_000
    assert peak < 1 << 20
    # Spread over the whole set, not its beginning.
    assert rows[0] < 1_200_000 < 112_000_000 < rows[-1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((10, 11, 0), "11 of 10"),
        ((10, -1, 0), "-1 of 10"),
        ((0, 1, 0), "1 of 0"),
        ((10, 1, -1), "seed=-1"),
        ((10, 1, 0, 0), "run_rows=0"),
        ((10, 1, 0, -3), "run_rows=-3"),
    ],
)
def test_impossible_samples_are_refused(arguments: tuple[int, ...], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        sample_rows(*arguments)
