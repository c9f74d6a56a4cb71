"""The public search against brute force, to the bit: hard vectors, cut anyhow, run anyhow.

Also against exact fractions, which share no arithmetic with D64 at all: where two real distances
differ by more than D64 can err, the nearer row must come first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq import GroundTruth, ground_truth
from haag_vq.sources import ArraySource, ConcatSource, Metric, RangeSource
from tests.groundtruth import oracle
from tests.groundtruth.cases import METRICS, kinds, metrics, pair_of, seeds

F32 = NDArray[np.float32]

# Half the distance from 1 to the next float64: the relative error of one operation.
ROUNDING = Fraction(1, 2**53)

# Square roots of fractions are cut after so many binary places.
ROOT_PLACES = 120


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked: `make` gives the vectors."""

    kind: str
    n: int
    nq: int
    d: int
    k: int
    metric: Metric
    seed: int

    def make(self) -> tuple[F32, F32]:
        """The base (n, d) and queries (nq, d), float32."""
        return pair_of(self.kind, self.n, self.nq, self.d, self.seed, self.metric)


@dataclass(frozen=True, slots=True)
class Way:
    """How the base is held, cut and searched: none of it may show in the answer."""

    holder: str
    """One of `HOLDERS`."""
    cuts: tuple[int, ...]
    """Rows at which it is cut, from 0 to n; two that are equal cut out an empty piece."""
    block_rows: int | None
    """Rows that a block may hold, for sources; None: the search's own choice."""
    n_threads: int
    """Threads of Dask's scheduler; 0: the synchronous one."""

    def search(self, x: F32, case: Case, xq: F32) -> GroundTruth:
        """Search `x` in this way."""
        scheduler: dict[str, Any] = {"scheduler": "sync"}
        if self.n_threads:
            scheduler = {"scheduler": "threads", "num_workers": self.n_threads}
        block_bytes = None if self.block_rows is None else self.block_rows * 4 * x.shape[1]
        if self.holder == "dask":  # its blocks are what they are
            block_bytes = None
        with dask.config.set(scheduler):
            return ground_truth(
                hold(x, self.holder, self.cuts), xq, case.k, case.metric, chunk_size=block_bytes
            )


HOLDERS = ("array", "dask", "shards", "nested shards", "range of shards")


def hold(x: F32, holder: str, cuts: tuple[int, ...]) -> Any:
    """Give rows `x` the form in which a user has them, cut at `cuts`."""
    spans = list(zip(cuts[:-1], cuts[1:], strict=True))
    if holder == "array":
        return x
    if holder == "dask":
        return da.from_array(x, chunks=(tuple(b - a for a, b in spans), x.shape[1]))
    shards = [ArraySource(x[a:b]) for a, b in spans]
    if holder == "shards":
        return ConcatSource(shards)
    if holder == "nested shards":
        half = len(shards) // 2
        nothing = ArraySource(x[:0])
        return ConcatSource([nothing, *shards[:half], ConcatSource([*shards[half:], nothing])])
    # Rows that are not the base's, before and after: an edge, and a last block, that are cut off.
    other = ArraySource(np.full((3, x.shape[1]), 1.0, np.float32))
    return RangeSource(ConcatSource([other, *shards, other]), 3, 3 + len(x))


@st.composite
def cases(draw: st.DrawFn, most_rows: int, most_dims: int, most_queries: int) -> Case:
    """Any small case; dimensions beside powers of two are drawn more often."""
    n = draw(st.integers(1, most_rows))
    beside = [2**p + i for p in range(7) for i in (-1, 0, 1) if 1 <= 2**p + i <= most_dims]
    return Case(
        kind=draw(kinds),
        n=n,
        nq=draw(st.integers(1, most_queries)),
        d=draw(st.integers(1, most_dims) | st.sampled_from(beside)),
        k=draw(st.integers(1, n) | st.sampled_from([n, max(1, n - 1)])),
        metric=draw(metrics),
        seed=draw(seeds),
    )


@st.composite
def ways(draw: st.DrawFn, n: int, holders: tuple[str, ...] = HOLDERS) -> Way:
    """Any way to cut and search n rows; blocks of a few rows are as likely as large ones."""
    inner = draw(st.lists(st.integers(0, n), max_size=8))
    return Way(
        holder=draw(st.sampled_from(holders)),
        cuts=(0, *sorted(inner), n),
        block_rows=draw(st.none() | st.integers(max(1, n // 12), n)),
        n_threads=draw(st.sampled_from([0, 1, 3])),
    )


def assert_bits_of_brute_force(truth: GroundTruth, case: Case, x: F32, xq: F32) -> None:
    keys, ids = oracle.neighbours(x, xq, case.k, case.metric)
    assert_array_equal(truth.ids, ids)
    expected = keys if case.metric == "l2" else 0.0 - keys
    assert truth.distances.tobytes() == expected.tobytes()
    assert truth.ids.dtype == np.int64


def assert_all_ways_agree(case: Case, chosen: list[Way]) -> None:
    """Each way is brute force to the bit, so they are one another's."""
    x, xq = case.make()
    for way in chosen:
        assert_bits_of_brute_force(way.search(x, case, xq), case, x, xq)


# --- to the bit ------------------------------------------------------------------------------


@given(cases(400, 70, 20), st.data())
@settings(deadline=None, max_examples=100)
def test_any_case_cut_and_run_anyhow(case: Case, data: st.DataObject) -> None:
    assert_all_ways_agree(case, [data.draw(ways(case.n)) for _ in range(2)])


# Blocks of thousands of rows are opened by FAISS and searched in several tiles, and queries beyond
# a hundred by several threads at a time.
@given(
    kinds,
    st.integers(5200, 9000),
    st.integers(1, 24),
    st.integers(1, 12) | st.just(130),
    st.integers(1, 40),
    metrics,
    seeds,
    st.sampled_from(HOLDERS),
    st.sampled_from([0, 2]),
    st.data(),
)
@settings(deadline=None, max_examples=20)
def test_large_blocks(
    kind: str,
    n: int,
    d: int,
    nq: int,
    k: int,
    metric: Metric,
    seed: int,
    holder: str,
    n_threads: int,
    data: st.DataObject,
) -> None:
    case = Case(kind, n, nq, d, k, metric, seed)
    few = data.draw(st.lists(st.integers(0, 500) | st.integers(n - 500, n), max_size=4))
    assert_all_ways_agree(case, [Way(holder, (0, *sorted(few), n), None, n_threads)])


WHOLE = Way("array", (0,), None, 0)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["normal", "offset", "two far clusters", "one ulp apart"])
def test_the_first_rows_are_the_nearest(kind: str, metric: Metric) -> None:
    """What FAISS finds in them is the answer, so its float32 error decides what else is seen."""
    case = Case(kind, 4500, 30, 24, 20, metric, 8)
    x, xq = case.make()
    xq[1:] = xq[0] * (1 + np.float32(2.0**-20) * np.arange(1, 30, dtype=np.float32)[:, None])
    x = x[np.argsort(oracle.distances(x, xq[:1], metric)[0])]
    for way in (WHOLE, Way("dask", (0, 4300, 4500), None, 0)):
        assert_bits_of_brute_force(way.search(x, case, xq), case, x, xq)


def evenly(holder: str, n: int, rows: int, n_threads: int = 0) -> Way:
    """Pieces of `rows` rows."""
    return Way(holder, (*range(0, n, rows), n), rows, n_threads)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["normal", "duplicated", "integers", "mixture"])
@pytest.mark.parametrize("missing", [0, 1])
def test_all_rows_or_all_but_one(missing: int, kind: str, metric: Metric) -> None:
    for n in (1 + missing, 41, 128):
        case = Case(kind, n, 5, 9, n - missing, metric, 3)
        rows = max(1, n // 5)
        assert_all_ways_agree(case, [WHOLE, evenly("dask", n, rows), evenly("shards", n, rows, 3)])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 19, 20, 21, 40, 41])
def test_duplicates_across_the_edges_of_blocks(k: int, metric: Metric) -> None:
    """Groups of 40 equal rows, cut within groups, at their ends and beside them."""
    rng = np.random.default_rng(5)
    x = np.repeat(rng.standard_normal((10, 16), dtype=np.float32), 40, axis=0)
    case = Case("duplicated", 400, 12, 16, k, metric, 5)
    xq = np.concatenate((x[::80], rng.standard_normal((7, 16), dtype=np.float32)))
    for cuts in ([39, 40, 41], [20, 60, 100, 380], [80, 120, 121], list(range(0, 400, 7))):
        for holder in ("dask", "shards"):
            way = Way(holder, (0, *cuts, 400), 60, 0)
            assert_bits_of_brute_force(way.search(x, case, xq), case, x, xq)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["normal", "one ulp apart", "offset", "sparse", "all equal"])
def test_queries_that_are_rows(kind: str, metric: Metric) -> None:
    x, _ = Case(kind, 130, 1, 33, 7, metric, 9).make()
    case = Case(kind, 130, 130, 33, 7, metric, 9)
    for way in (WHOLE, evenly("dask", 130, 13), evenly("nested shards", 130, 50, 3)):
        truth = way.search(x, case, x)
        assert_bits_of_brute_force(truth, case, x, x)
        if metric == "l2":
            assert not truth.distances[:, 0].any()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "nq", "d"), [(1, 1, 1), (1, 9, 7), (200, 1, 7), (200, 6, 1)])
def test_one_row_one_query_one_dimension(n: int, nq: int, d: int, metric: Metric) -> None:
    for kind in ("normal", "mixture", "integers"):
        case = Case(kind, n, nq, d, min(n, 11), metric, 4)
        assert_all_ways_agree(case, [evenly(holder, n, 31) for holder in HOLDERS])


@pytest.mark.parametrize("metric", METRICS)
def test_one_row_a_piece_with_empty_ones_between(metric: Metric) -> None:
    case = Case("moderate mixture", 60, 4, 8, 30, metric, 6)
    cuts = tuple(sorted([*range(61), *range(0, 61, 3), 60, 60]))
    for holder in HOLDERS:
        for rows in (1, 7, 60):
            assert_all_ways_agree(case, [Way(holder, cuts, rows, 0)])


# --- against real numbers --------------------------------------------------------------------


def relative_error(n_roundings: int) -> Fraction:
    """γ_n = nu/(1 − nu): |Π(1 + δᵢ)^±1 − 1| is no more, for n factors with |δᵢ| ≤ u."""
    return n_roundings * ROUNDING / (1 - n_roundings * ROUNDING)


def root(square: Fraction) -> Fraction:
    """√ of a fraction, rounded down by less than 2^-ROOT_PLACES."""
    return Fraction(math.isqrt(math.floor(square * 4**ROOT_PLACES)), 2**ROOT_PLACES)


def intervals(x: F32, q: F32, metric: Metric) -> list[tuple[Fraction, Fraction]]:
    """Real key of each row, similarities negated, and the most by which D64 can miss it.

    With u = 2⁻⁵³, γ_n = nu/(1 − nu) and p = ⌈log₂ d⌉ additions on the way of each term (those of
    zeros are exact). Rows and queries are float32: their products have 48 bits and are exact, sums
    and products neither overflow nor underflow (the least product is 2⁻²⁹⁸).

    l2: a difference and its square round three times, (1 + δ)²(1 + δ'), then p additions; no term
    is negative, so the error is within γ_{p+3} of the sum itself.
    ip: p additions of exact terms: γ_p Σ|xᵢqᵢ|.
    cosine: the dot's error is at most γ_p‖x‖‖q‖, as Σ|xᵢqᵢ| ≤ ‖x‖‖q‖. Under each root a relative
    error of p roundings counts half; two roots, their product and the division add one each. With
    e ≤ γ_p and |θ| ≤ γ_{p+4}, (cos + e)(1 + θ) misses cos, itself at most 1, by γ_{2p+4} at most.
    """
    p = (len(q) - 1).bit_length()
    keys = oracle.exact_keys(x, q, metric)
    if metric == "l2":
        return [(key, relative_error(p + 3) * key) for key in keys]
    if metric == "ip":
        sizes = oracle.exact_keys(np.abs(x), np.abs(q), "ip")
        return [(key, relative_error(p) * -size) for key, size in zip(keys, sizes, strict=True)]
    q_square = oracle.exact_square(q[None])[0]
    found = []
    for key, x_square in zip(keys, oracle.exact_square(x), strict=True):
        cosine = root(key * key / (x_square * q_square))
        cut_off = Fraction(1, 2 ** (ROOT_PLACES - 1))
        found.append((cosine if key > 0 else -cosine, relative_error(2 * p + 4) + cut_off))
    return found


def assert_order_of_real_numbers(truth: GroundTruth, case: Case, x: F32, xq: F32) -> None:
    """Each distance is within D64's error, and no row is certainly farther than a later one."""
    for q, ids, distances in zip(xq, truth.ids.tolist(), truth.distances.tolist(), strict=True):
        real = intervals(x, q, case.metric)
        assert len(set(ids)) == case.k
        for row, distance in zip(ids, distances, strict=True):
            key, error = real[row]
            assert abs(Fraction(distance if case.metric == "l2" else -distance) - key) <= error
        # From the last: rows left out, in any order, then the list backwards.
        left_out = sorted(set(range(len(x))) - set(ids))
        limits = [key + error for key, error in (real[row] for row in left_out)]
        for row in reversed(ids):
            key, error = real[row]
            assert key - error <= min(limits, default=key)
            limits.append(key + error)


@given(cases(60, 33, 2), st.data())
@settings(deadline=None, max_examples=50)
def test_order_is_that_of_the_real_distances(case: Case, data: st.DataObject) -> None:
    x, xq = case.make()
    way = data.draw(ways(case.n))
    assert_order_of_real_numbers(way.search(x, case, xq), case, x, xq)


@pytest.mark.parametrize("metric", METRICS)
def test_real_distances_tell_apart_what_float32_cannot(metric: Metric) -> None:
    """The check above is not idle: it refuses the order in which float32 has these rows."""
    case = Case("one ulp apart", 60, 1, 33, 60, metric, 1)
    x, xq = case.make()
    truth = WHOLE.search(x, case, xq)
    assert_order_of_real_numbers(truth, case, x, xq)
    if metric == "cosine":
        x_unit, q_unit = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, xq))
        nearness = x_unit @ q_unit[0]
    else:
        nearness = 2 * (x @ xq[0]) - (0 if metric == "ip" else (x * x).sum(axis=1))
    order = np.argsort(-nearness, kind="stable")
    keys = oracle.distances(x, xq, metric)[:, order]
    float32_truth = replace(
        truth, ids=order[None], distances=keys if metric == "l2" else 0.0 - keys
    )
    with pytest.raises(AssertionError):
        assert_order_of_real_numbers(float32_truth, case, x, xq)
