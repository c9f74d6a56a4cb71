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
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq.groundtruth import bounds, d64, engine, exact, scan
from haag_vq.groundtruth.kernel import Queries, search_block
from haag_vq.groundtruth.norms import inverse_roots, longest, measure, safe_queries
from haag_vq.sources import Metric
from tests.groundtruth import oracle
from tests.groundtruth.cases import METRICS, kinds, metrics, pair_of, seeds

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# FLUSH_RESULTS and FLUSH_OPERANDS of the x86 control word: what -ffast-math libraries leave on.
FLUSH_BITS = 0x8000 | 0x0040


def norms_of(x: F32, metric: Metric) -> F32:
    squared = np.empty(len(x), np.float32)
    measure(x, 0, metric, squared)
    return squared


def safe_of(x: F32, xq: F32, metric: Metric) -> NDArray[np.int64]:
    """Queries that float32 can compare with all of the rows."""
    q_norms = np.sqrt(d64.squared_norms(xq))
    return np.flatnonzero(safe_queries(norms_of(x, metric), x.shape[1], q_norms, metric))


def float32_keys(x: F32, xq: F32, metric: Metric) -> tuple[F64, F64]:
    """Keys by the scan's arithmetic, a product and then a value, and by FAISS: (nq, n) each."""
    squared, q_squared = norms_of(x, metric), d64.squared_norms(xq)
    code = exact.METRIC_CODES[metric]
    q = xq
    if metric == "cosine":
        q = (xq / np.sqrt(q_squared)[:, None]).astype(np.float32)
    values = x @ q.T
    if metric == "l2":
        values -= (squared / np.float32(2))[:, None]
    elif metric == "cosine":
        values *= inverse_roots(squared)[:, None]
    ours = np.array(
        [
            [scan._key_of(code, value, q2) for value in column]
            for column, q2 in zip(values.T, q_squared, strict=True)
        ]
    )
    rows = x * inverse_roots(squared)[:, None] if metric == "cosine" else x
    D, I = engine.knn(q, rows, len(x), metric != "l2")
    assert_array_equal(np.sort(I, axis=1), np.broadcast_to(np.arange(len(x)), I.shape))
    theirs = np.empty(D.shape)
    np.put_along_axis(theirs, I, D if metric == "l2" else -D, axis=1)
    return ours, theirs


def worst_ratio(x: F32, xq: F32, metric: Metric, expected: F64 | None = None) -> float:
    """Largest error of the scan's and of FAISS's float32 keys, over every pair, in bounds."""
    if expected is None:
        expected = oracle.distances(x, xq, metric)
    chosen = safe_of(x, xq, metric)
    if not len(chosen):
        return 0.0
    d, code = x.shape[1], exact.METRIC_CODES[metric]
    x_norm = longest(norms_of(x, metric), d)
    q_norms = np.sqrt(d64.squared_norms(xq))
    worst = 0.0
    for keys in float32_keys(x, xq[chosen], metric):
        for q, row in zip(chosen, keys, strict=True):
            bound = [scan._error(code, d, q_norms[q], key, x_norm) for key in expected[q]]
            worst = max(worst, float((np.abs(row - expected[q]) / bound).max()))
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


@pytest.mark.parametrize("metric", METRICS)
def test_a_search_reports_the_error_of_its_own_arithmetic(metric: Metric) -> None:
    """With k = n every pair is scored, and each is held against its bound."""
    x, xq = pair_of("normal", 200, 9, 3, 1, metric)
    tally = search_block(x, 0, Queries.of(xq), len(x), metric).tally
    assert tally.n_scored == len(x) * len(xq)
    assert 0.01 < tally.largest_error <= 1


@given(kinds, st.integers(1, 40), seeds)
@settings(deadline=None, max_examples=100)
def test_norm_ceiling_is_one(kind: str, d: int, seed: int) -> None:
    x, _ = pair_of(kind, 8, 1, d, seed, "l2")
    most = longest(norms_of(x, "l2"), d)
    if math.isfinite(most):
        largest = max(oracle.exact_square(x))
        assert Fraction(most) ** 2 >= largest
        assert most <= float(largest) ** 0.5 * (1 + 1e-5) + 1e-17


@given(kinds, st.integers(1, 12), seeds, metrics)
@settings(deadline=None, max_examples=150)
def test_what_is_called_safe_neither_overflows_nor_loses_its_norm(
    kind: str, d: int, seed: int, metric: Metric
) -> None:
    x, xq = pair_of(kind, 40, 6, d, seed, metric)
    safe = safe_of(x, xq, metric)
    if len(safe):
        for keys in float32_keys(x, xq[safe], metric):
            assert np.isfinite(keys).all()
            if metric == "cosine":
                assert np.abs(keys).max() < 1.001


def test_l2_bound_grows_with_the_distance_it_is_asked_for() -> None:
    """The proof uses the bound of the k-th distance for all rows that are nearer."""
    distances = np.array([0, 1e-30, 1e-3, 1, 1e3, 1e30])
    errors = bounds.l2_error(100, 2.0, distances)
    assert np.all(np.diff(errors) >= 0)
    assert errors[0] > 0


# --- from a float32 distance back to a ceiling ------------------------------------------------

lengths = st.just(0.0) | st.floats(-149, 62.4).map(lambda log: 2.0**log)
squares = st.just(0.0) | st.floats(-298, 125).map(lambda log: 2.0**log)
dims = st.integers(1, 4096) | st.just(65_536)


@given(dims, lengths, squares)
@example(1, 0.0, 0.0)
@example(1024, 1.0, 0.0)
@example(1024, 2.0**62, 2.0**125)
@example(3072, 0.0, 2.0**-149)
@example(1, 2.0**18, 2.0)
@settings(deadline=None, max_examples=500)
def test_l2_ceiling_is_above_every_distance_that_could_look_so(
    d: int, q_norm: float, distance: float
) -> None:
    """With the largest error downwards, which is the one that hides a far row."""
    error = bounds.l2_error(d, q_norm, distance)
    seen = distance - error
    if Fraction(seen) < Fraction(distance) - Fraction(error):
        seen = math.nextafter(seen, math.inf)
    # FAISS clips at 0, the scan does not; between the error's ends it can only grow.
    for looks in (seen, max(seen, 0.0), distance, distance + error):
        assert bounds.l2_ceiling(d, q_norm, looks) >= distance


@given(dims, lengths, squares)
@settings(deadline=None, max_examples=300)
def test_l2_ceiling_is_not_loose(d: int, q_norm: float, distance: float) -> None:
    """Within two errors (one for what is seen, one for what it may hide) and a bit."""
    error = bounds.l2_error(d, q_norm, distance)
    ceiling = bounds.l2_ceiling(d, q_norm, distance)
    assert distance < ceiling <= distance * (1 + 1e-11) + 1.5 * error


@given(dims, lengths, st.lists(squares, min_size=2, max_size=2))
@settings(deadline=None, max_examples=200)
def test_l2_ceiling_grows_with_what_is_seen(d: int, q_norm: float, seen: list[float]) -> None:
    """A ceiling of the k-th distance seen is above those of all nearer ones."""
    low, high = sorted(seen)
    assert bounds.l2_ceiling(d, q_norm, low) <= bounds.l2_ceiling(d, q_norm, high)
