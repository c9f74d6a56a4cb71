"""The compiled scan: what it keeps, what it drops, and what it does when a buffer is full."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import DTypeLike, NDArray

from haag_vq.groundtruth import bounds, d64, scan
from haag_vq.groundtruth.exact import COSINE, IP, L2, METRIC_CODES
from haag_vq.groundtruth.listed import empty_lists
from haag_vq.groundtruth.norms import measure
from haag_vq.groundtruth.partial import rests
from haag_vq.groundtruth.workspace import Workspace
from haag_vq.sources import Metric
from tests.groundtruth import oracle
from tests.groundtruth.cases import METRICS, metrics, pair_of, seeds

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# In every element beside a buffer, so that a write outside it shows.
GUARD = 111


def rows_of_block(x: F32, xq: F32) -> scan.Rows:
    squared = np.empty(len(x), np.float32)
    measure(x, 0, "l2", squared)
    multipliers = d64.hash_multipliers(x.shape[1])
    hashes = np.zeros(len(x), np.uint64)
    return scan.Rows(x, squared, xq, d64.squared_norms(xq), multipliers, hashes)


class Guarded(Workspace):
    """Lists whose buffers lie inside larger ones."""

    def __init__(self, nq: int, k: int, width: int, n_candidates: int) -> None:
        super().__init__()
        self._whole: list[NDArray[Any]] = []
        self.lists = empty_lists(self, nq, k, width, n_candidates)

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        whole = np.full((shape[0] + 2, *shape[1:]), GUARD, dtype)
        self._whole.append(whole)
        return whole[1:-1]

    def assert_nothing_written_outside(self) -> None:
        for whole in self._whole:
            assert np.all(whole[[0, -1]] == GUARD)


def scan_all(
    x: F32,
    xq: F32,
    lists: scan.Lists,
    metric: Metric = "l2",
    safe: NDArray[np.bool_] | None = None,
    head: int | None = None,
) -> tuple[scan.Rows, F32]:
    """Scan a block in one tile; returns it, and the values (n, nq) of whole products.

    Only the first `head` dimensions are multiplied for the scan.
    """
    block = rows_of_block(x, xq)
    weights, offsets = np.ones(len(x), np.float32), np.zeros(len(x), np.float32)
    q = xq
    if metric == "l2":
        offsets = block.squared_norms / np.float32(2)
    elif metric == "cosine":
        weights = (1 / np.sqrt(block.squared_norms.astype(np.float64))).astype(np.float32)
        q = (xq / np.sqrt(block.q_squared_norms)[:, None]).astype(np.float32)
    # Three columns that are none of these queries'.
    product = np.full((len(x), len(xq) + 3), np.float32(1e30))
    head = x.shape[1] if head is None else head
    product[:, 3:] = x[:, :head] @ q[:, :head].T
    n_scanned = scan.scan(
        METRIC_CODES[metric],
        product,
        3,
        0,
        len(xq),
        0,
        weights,
        offsets,
        float(bounds.norm_ceiling(x.shape[1], float(block.squared_norms.max()))),
        np.ones(len(xq), bool) if safe is None else safe,
        scan.Leading(head, q, rests(x, head), rests(q, head), 1.0),
        block,
        lists,
    )
    assert n_scanned == len(x)
    return block, (x @ q.T) * weights[:, None] - offsets[:, None]


def test_a_scan_gives_up_where_too_many_products_would_have_to_be_finished() -> None:
    """What it had scanned till then is kept, each row once."""
    x, xq = pair_of("normal", 100, 5, 8, 1, "l2")
    lists = Guarded(5, 200, 100, 300).lists
    block = rows_of_block(x, xq)
    leading = scan.Leading(4, xq, rests(x, 4), rests(xq, 4), 0.5)
    n = scan.scan(
        L2,
        x[:, :4] @ xq[:, :4].T,
        0,
        0,
        5,
        0,
        np.ones(100, np.float32),
        block.squared_norms / np.float32(2),
        100.0,
        np.ones(5, bool),
        leading,
        block,
        lists,
    )
    # Without ceilings every product is to be finished, and half of them may.
    assert n == 51
    for q in range(5):
        assert candidates(lists, q) == list(range(51))


def candidates(lists: scan.Lists, q: int) -> list[int]:
    found: list[int] = lists.rows[q, : lists.n_candidates[q]].tolist()
    return found


# --- which rows become candidates -------------------------------------------------------------


@pytest.mark.parametrize("nq", [1, 2, 63, 64, 65, 127, 128, 200])
@pytest.mark.parametrize("metric", METRICS)
def test_without_a_ceiling_every_row_is_a_candidate(metric: Metric, nq: int) -> None:
    """For any number of queries, whatever of it fills vector registers."""
    x, xq = pair_of("normal", 20, nq, 8, 1, metric)
    guarded = Guarded(nq, 30, 20, 25)
    _, values = scan_all(x, xq, guarded.lists, metric)
    for q in range(nq):
        assert candidates(guarded.lists, q) == list(range(20))
        assert_array_equal(guarded.lists.values[q, :20], values[:, q])
    guarded.assert_nothing_written_outside()


@given(st.integers(1, 150), st.integers(1, 40), seeds, metrics, st.data())
@settings(deadline=None, max_examples=100)
def test_a_ceiling_keeps_what_can_be_under_it_and_little_else(
    nq: int, n: int, seed: int, metric: Metric, data: st.DataObject
) -> None:
    x, xq = pair_of("normal", n, nq, 8, seed, metric)
    exact = oracle.distances(x, xq, metric)
    guarded = Guarded(nq, n, n, n + 1)
    ceilings = np.sort(exact, axis=1)[:, data.draw(st.integers(0, n - 1))]
    guarded.lists.ceilings[:] = ceilings
    safe = np.random.default_rng(seed).random(nq) < 0.8
    # Of what is multiplied only in part, the rest is added before anything is kept.
    head = data.draw(st.sampled_from([1, 4, 6, 8]))
    block, _ = scan_all(x, xq, guarded.lists, metric, safe, head)
    for q in range(nq):
        kept = set(candidates(guarded.lists, q))
        if not safe[q]:
            assert kept == set()
            continue
        assert set(np.flatnonzero(exact[q] <= ceilings[q])) <= kept
        assert kept <= set(np.flatnonzero(exact[q] <= ceilings[q] + 1e-3 * (1 + abs(ceilings[q]))))
        for row, value in zip(candidates(guarded.lists, q), guarded.lists.values[q], strict=False):
            assert_within_its_bound(metric, q, row, value, block, exact[q, row])
    guarded.assert_nothing_written_outside()


def assert_within_its_bound(
    metric: Metric, q: int, row: int, value: np.float32, block: scan.Rows, key: float
) -> None:
    code, squared = METRIC_CODES[metric], float(block.q_squared_norms[q])
    x_norm = float(np.sqrt(block.squared_norms[row])) * 1.0001
    bound = scan._error(code, block.x.shape[1], np.sqrt(squared), key, x_norm)
    assert abs(scan._key_of(code, value, squared) - key) <= bound


keys = st.just(0.0) | st.floats(-60, 60).map(lambda log: 2.0**log)
lengths = st.just(0.0) | st.floats(-40, 40).map(lambda log: 2.0**log)


@given(
    st.sampled_from([L2, IP, COSINE]),
    st.integers(1, 4096),
    lengths,
    lengths,
    keys,
    st.floats(0, 1),
    st.booleans(),
)
@settings(deadline=None, max_examples=500)
def test_no_row_under_the_ceiling_falls_below_the_least_value(
    metric: int, d: int, q_norm: float, x_norm: float, ceiling: float, share: float, negative: bool
) -> None:
    """Of any row at the ceiling or under it, with the whole error against it."""
    q_squared = q_norm * q_norm
    if metric == COSINE:
        ceiling = min(ceiling, 1.0)
    if metric != L2 and negative:
        ceiling = -ceiling
    key = ceiling * share if ceiling > 0 else ceiling * (2 - share)
    error = scan._error(metric, d, np.sqrt(q_squared), key, x_norm)
    # The smallest float32 value whose key is no further off than that.
    scale = 2 if metric == L2 else 1
    exact = (Fraction(q_squared if metric == L2 else 0) - Fraction(key) - Fraction(error)) / scale
    assume(abs(exact) < 2**126)
    value = np.float32(float(exact))
    if Fraction(float(value)) < exact:
        value = np.nextafter(value, np.float32(np.inf))
    assert value >= scan._least_value(metric, d, ceiling, q_squared, x_norm)


@pytest.mark.parametrize("metric", [L2, IP, COSINE])
@pytest.mark.parametrize("ceiling", [np.inf, np.nan])
def test_a_ceiling_that_says_nothing_keeps_everything(metric: int, ceiling: float) -> None:
    assert scan._least_value(metric, 8, ceiling, 1.0, 1.0) == -np.inf


# --- a full buffer ----------------------------------------------------------------------------


def settled(x: F32, xq: F32, metric: Metric, k: int, n_candidates: int) -> Guarded:
    guarded = Guarded(len(xq), k, min(k, len(x)), n_candidates)
    block, _ = scan_all(x, xq, guarded.lists, metric)
    scan.settle(METRIC_CODES[metric], 0, len(xq), block, guarded.lists)
    guarded.assert_nothing_written_outside()
    return guarded


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["all equal", "duplicated", "binary", "one ulp apart", "normal"])
@pytest.mark.parametrize(("k", "n_candidates"), [(1, 1), (1, 2), (7, 3), (7, 14), (50, 20)])
def test_any_number_of_ties_fits_and_none_is_lost(
    kind: str, metric: Metric, k: int, n_candidates: int
) -> None:
    x, xq = pair_of(kind, 700, 9, 12, 1, metric)
    lists = settled(x, xq, metric, k, n_candidates).lists
    keys, ids = oracle.neighbours(x, xq, k, metric)
    assert_array_equal(lists.ids, ids)
    assert lists.keys.tobytes() == keys.tobytes()
    assert_array_equal(lists.hashes, d64.row_hashes(x)[ids])
    assert_array_equal(lists.ceilings, keys[:, -1])
    assert np.all(lists.n_candidates == 0)
    assert np.all(lists.largest_error <= 1)


@pytest.mark.parametrize("metric", METRICS)
def test_equal_rows_are_scored_once_each_and_easy_ones_rarely(metric: Metric) -> None:
    x, xq = pair_of("all equal", 700, 3, 12, 1, metric)
    lists = settled(x, xq, metric, 7, 20).lists
    assert lists.n_scored.tolist() == [700] * 3
    assert np.all(lists.n_widened > 0)
    x, xq = pair_of("normal", 700, 3, 12, 1, metric)
    lists = settled(x, xq, metric, 7, 20).lists
    assert np.all(lists.n_widened == 0)
    assert np.all(lists.n_scored < 20)


@pytest.mark.parametrize("n_candidates", [1, 5, 64])
def test_rows_that_float32_says_nothing_of_are_all_scored(n_candidates: int) -> None:
    x, xq = pair_of("norm 3e38", 40, 2, 8, 1, "l2")
    guarded = Guarded(2, 6, 6, n_candidates)
    block = rows_of_block(x, xq)
    scan.score_all(L2, 1, 10, 35, block, guarded.lists)
    keys, ids = oracle.neighbours(x[10:35], xq[1:], 6, "l2")
    assert_array_equal(guarded.lists.ids[1], ids[0] + 10)
    assert_array_equal(guarded.lists.keys[1], keys[0])
    assert guarded.lists.n_scored.tolist() == [0, 25]
    assert guarded.lists.largest_error[1] == 0
    guarded.assert_nothing_written_outside()


def test_candidates_come_before_rows_that_float32_says_nothing_of() -> None:
    """What a query had from an earlier tile is neither lost nor taken for the later one's."""
    x, xq = pair_of("normal", 60, 1, 8, 1, "l2")
    guarded = Guarded(1, 60, 60, 50)
    block, _ = scan_all(x[:30], xq, guarded.lists)
    block = rows_of_block(x, xq)
    scan.score_all(L2, 0, 30, 60, block, guarded.lists)
    assert_array_equal(guarded.lists.ids, oracle.neighbours(x, xq, 60, "l2")[1])


def test_keys_known_from_elsewhere_lower_the_ceiling() -> None:
    x, xq = pair_of("normal", 100, 5, 8, 1, "l2")
    exact = np.sort(oracle.distances(x, xq, "l2"), axis=1)
    guarded = Guarded(5, 10, 10, 200)
    # Nine are nearer than all of the block: of it, one is among the ten nearest.
    lists = guarded.lists._replace(known=np.tile(exact[:, :1] - 1, (1, 9)))
    block, _ = scan_all(x, xq, lists)
    scan.settle(L2, 0, 5, block, lists)
    assert np.all(lists.ceilings < exact[:, 1])
    assert_array_equal(lists.n_exact, np.ones(5))
    assert_array_equal(lists.keys[:, 0], exact[:, 0])


def test_a_value_that_is_off_by_more_than_its_bound_is_kept_account_of() -> None:
    x, xq = pair_of("normal", 30, 3, 8, 1, "l2")
    lists = Guarded(3, 30, 30, 40).lists
    block, _ = scan_all(x, xq, lists)
    lists.values[1, 4] += np.float32(0.01)
    row = int(lists.rows[1, 4])
    scan.settle(L2, 0, 3, block, lists)
    assert lists.largest_error[1] > 1
    assert lists.broken[1] == row
    assert np.all(lists.largest_error[[0, 2]] <= 1)


# --- lists and their order --------------------------------------------------------------------


@given(st.lists(st.integers(0, 4).map(float), max_size=40), st.integers(1, 12), st.randoms())
@settings(deadline=None, max_examples=200)
def test_inserting_in_any_order_is_sorting(found: list[float], width: int, random: Any) -> None:
    lists = Guarded(1, width, width, 1).lists
    entries = [(key, row) for row, key in enumerate(found)]
    random.shuffle(entries)
    for key, row in entries:
        scan._insert(0, key, row, np.uint64(row + 1), lists)
    n = lists.n_exact[0]
    listed = list(zip(lists.keys[0, :n].tolist(), lists.ids[0, :n].tolist(), strict=True))
    assert listed == sorted(entries)[:width]
    assert lists.hashes[0, :n].tolist() == [row + 1 for _, row in listed]


# --- that the bound is needed -----------------------------------------------------------------

# Not compiled, so that the bounds can be taken away: on data that float32 misorders.
INTERPRETED = """
import sys
import numpy as np
from haag_vq.groundtruth import bounds
if "without" in sys.argv:
    bounds.l2_error = lambda d, q_norm, distance: 1e-300
    bounds.l2_ceiling = lambda d, q_norm, seen: seen
from haag_vq.groundtruth import kernel, opening
from tests.groundtruth import oracle
from tests.groundtruth.cases import pair_of
x, xq = pair_of("one ulp apart", 200, 8, 64, 1, "l2")
opening.LEAST_ROWS = 1
kernel.n_candidates = lambda k: k
kernel._Search._check = lambda self: None
np.seterr(all="ignore")
part = kernel.search_block(x, 0, kernel.Queries.of(xq), 20, "l2")
keys, ids = oracle.neighbours(x, xq, 20, "l2")
print(part.ids.shape == ids.shape and (part.ids == ids).all(), (part.keys == keys).all())
"""


def test_without_the_bound_the_answer_is_wrong() -> None:
    """And with it right: the same arithmetic, interpreted, as NumPy does it."""
    for argument, expected in (("with", ["True", "True"]), ("without", ["False", "False"])):
        done = subprocess.run(
            [sys.executable, "-c", INTERPRETED, argument],
            env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.split() == expected
