"""The bounds are proven on paper; here they meet the arithmetic that runs."""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from haag_vq.groundtruth import bounds, engine, kernel
from haag_vq.groundtruth.kernel import Queries
from haag_vq.sources import Metric
from tests.groundtruth import oracle
from tests.groundtruth.cases import METRICS, kinds, metrics, pair_of, seeds

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# FLUSH_RESULTS and FLUSH_OPERANDS of the x86 control word: what -ffast-math libraries leave on.
FLUSH_BITS = 0x8000 | 0x0040


def worst_ratio(x: F32, xq: F32, metric: Metric, expected: F64 | None = None) -> float:
    """Largest error of FAISS's and of NumPy's float32 keys, over every pair, in bounds."""
    if expected is None:
        expected = oracle.distances(x, xq, metric)
    block, queries = kernel._measure(x, 0, metric), Queries.of(xq)
    chosen = np.flatnonzero(kernel._safe_in_float32(block, queries))
    if not len(chosen):
        return 0.0
    proposed, rows = kernel._propose(block, queries, chosen, len(x))
    scanned = kernel._float32_keys(block, queries, chosen, 0, x)
    worst = 0.0
    for i, q in enumerate(chosen):
        bound = kernel._error(block, queries, int(q), expected[q])
        assert sorted(rows[i].tolist()) == list(range(len(x)))
        by_row = np.empty(len(x))
        by_row[rows[i]] = proposed[i]
        for keys in (by_row, scanned[i]):
            worst = max(worst, float((np.abs(keys - expected[q]) / bound).max()))
    return worst


@given(kinds, st.integers(1, 80), st.integers(1, 12), st.integers(1, 130), seeds, metrics)
@example("offset", 60, 5, 1536, 1, "l2")
@example("cancelling", 60, 5, 1536, 1, "ip")
@example("normal", 60, 5, 1536, 1, "cosine")
@settings(deadline=None, max_examples=300)
def test_float32_keys_are_within_the_bound(
    kind: str, n: int, nq: int, d: int, seed: int, metric: Metric
) -> None:
    x, xq = pair_of(kind, n, nq, d, seed, metric)
    assert worst_ratio(x, xq, metric) <= 1


@given(
    st.floats(-62, 62),
    st.floats(-62, 62),
    st.integers(1, 64),
    st.integers(0, 10),
    seeds,
    metrics,
)
@settings(deadline=None, max_examples=200)
def test_at_any_scale_of_rows_and_queries(
    row_log: float, query_log: float, d: int, mean: int, seed: int, metric: Metric
) -> None:
    x, xq = pair_of("normal", 50, 4, d, seed, metric)
    x = ((x + np.float32(mean)) * 2.0**row_log).astype(np.float32)
    xq = ((xq + np.float32(mean)) * 2.0**query_log).astype(np.float32)
    assert worst_ratio(x, xq, metric) <= 1


@pytest.mark.parametrize("metric", METRICS)
def test_the_bound_is_no_idle_one(metric: Metric) -> None:
    """A bound a hundred times too generous would certify as well, and never be found out."""
    worst = max(
        worst_ratio(*pair_of("normal", 64, 8, d, seed, metric), metric)
        for d in (1, 2, 3)
        for seed in range(10)
    )
    assert 0.02 < worst <= 1


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Have this thread flush denormals to zero, as a library built with -ffast-math does.

    On x86 only, through the C library's floating-point environment, whose last word is the
    vector unit's control word. Elsewhere nothing happens, and underflow stays gradual.
    """
    if platform.machine() != "x86_64":
        yield
        return
    libm = ctypes.CDLL("libm.so.6")
    environment = (ctypes.c_uint32 * 8)()
    libm.fegetenv(environment)
    usual = environment[7]
    environment[7] = usual | FLUSH_BITS
    libm.fesetenv(environment)
    try:
        if np.float32(2.0**-100) * np.float32(2.0**-30) != 0:
            raise AssertionError("denormals are not flushed: the test would show nothing")
        yield
    finally:
        environment[7] = usual
        libm.fesetenv(environment)


def _opposite(d: int) -> tuple[F32, F32]:
    """Every product and square underflows, and l2 loses all four of them."""
    q = np.full((1, d), 0.999 * 2.0**-63, np.float32)
    return np.repeat(-q, 30, axis=0), q


def _of_denormals(d: int) -> tuple[F32, F32]:
    """Components that are flushed themselves, against ones that are large."""
    x = np.full((30, d), 2.0**-126 * (1 - 2.0**-20), np.float32)
    return x, np.full((1, d), 2.0**20, np.float32)


@pytest.mark.parametrize("d", [1, 64, 1024])
@pytest.mark.parametrize("make", [_opposite, _of_denormals])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_holds_where_denormals_are_flushed(
    d: int, make: Callable[[int], tuple[F32, F32]], metric: Metric
) -> None:
    x, xq = make(d)
    expected = oracle.distances(x, xq, metric)
    # The setting is a thread's own: FAISS must compute in this one.
    engine.use_threads(1)
    with denormals_flushed():
        worst = worst_ratio(x, xq, metric, expected)
    assert worst <= 1


@given(kinds, st.integers(1, 40), seeds)
@settings(deadline=None, max_examples=100)
def test_norm_ceiling_is_one(kind: str, d: int, seed: int) -> None:
    x, _ = pair_of(kind, 8, 1, d, seed, "l2")
    block = kernel._measure(x, 0, "l2")
    if math.isfinite(block.max_norm):
        largest = max(oracle.exact_square(x))
        assert Fraction(block.max_norm) ** 2 >= largest
        assert block.max_norm <= float(largest) ** 0.5 * (1 + 1e-5) + 1e-17


@given(kinds, st.integers(1, 12), seeds, metrics)
@settings(deadline=None, max_examples=150)
def test_what_is_called_safe_neither_overflows_nor_loses_its_norm(
    kind: str, d: int, seed: int, metric: Metric
) -> None:
    x, xq = pair_of(kind, 40, 6, d, seed, metric)
    block, queries = kernel._measure(x, 0, metric), Queries.of(xq)
    safe = np.flatnonzero(kernel._safe_in_float32(block, queries))
    if len(safe):
        keys = kernel._float32_keys(block, queries, safe, 0, x)
        assert np.isfinite(keys).all()
        assert np.isfinite(kernel._propose(block, queries, safe, len(x))[0]).all()
        if metric == "cosine":
            assert np.abs(keys).max() < 1.001


def test_l2_bound_grows_with_the_distance_it_is_asked_for() -> None:
    """The proof uses the bound of the k-th distance for all rows that are nearer."""
    distances = np.array([0, 1e-30, 1e-3, 1, 1e3, 1e30])
    errors = bounds.l2_error(100, 2.0, distances)
    assert np.all(np.diff(errors) >= 0)
    assert errors[0] > 0
