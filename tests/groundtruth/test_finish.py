"""From lists to the answer: margins, ties, duplicates, the query itself; against counting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq.errors import CertificateError
from haag_vq.groundtruth import d64
from haag_vq.groundtruth.finish import Findings, finish
from haag_vq.groundtruth.part import Part
from haag_vq.sources import Metric
from tests.groundtruth import oracle
from tests.groundtruth.cases import METRICS, metrics, pair_of, rows_of, seeds

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

EXTRA = 2

kinds = st.sampled_from(["normal", "duplicated", "integers", "all equal", "some zero"])


def whole_part(x: F32, xq: F32, width: int, metric: Metric) -> Part:
    keys, ids = oracle.neighbours(x, xq, width, metric)
    frontier = np.full(len(xq), np.inf), np.full(len(xq), -1)
    if len(x) > width:
        frontier = keys[:, -1].copy(), ids[:, -1].copy()
    return Part(keys, ids, d64.row_hashes(x)[ids], *frontier, len(x))


def finished(
    x: F32,
    xq: F32,
    k: int,
    metric: Metric = "l2",
    own: I64 | None = None,
    exclude_self: bool = False,
) -> tuple[F64, I64, Findings]:
    is_own: Callable[[I64, I64], NDArray[np.bool_]] | None = None
    if own is not None:
        rows = own

        def is_own(queries: I64, ids: I64) -> NDArray[np.bool_]:
            return np.asarray(ids == rows[queries])

    part = whole_part(x, xq, k + EXTRA, metric)
    return finish(part, xq, k, k + EXTRA, metric, is_own, exclude_self)


def without(x: F32, q: F32, row: int | None, k: int, metric: Metric) -> tuple[F64, I64]:
    """Neighbours of one query among all rows but one."""
    others = np.array([i for i in range(len(x)) if i != row], np.int64)
    keys, places = oracle.neighbours(x[others], q[None], k, metric)
    return keys[0], others[places[0]]


@given(kinds, st.integers(2, 60), st.integers(1, 6), seeds, metrics, st.data())
@settings(deadline=None, max_examples=150)
def test_the_answer_is_brute_force_without_the_querys_own_row(
    kind: str, n: int, d: int, seed: int, metric: Metric, data: st.DataObject
) -> None:
    """The row is known by its number: duplicates of it stay, wherever it is among them."""
    x, _ = pair_of(kind, n, 1, d, seed, metric)
    own = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8)))
    k = data.draw(st.integers(1, n - 1))
    keys, ids, findings = finished(x, x[own], k, metric, own, exclude_self=True)
    for q, row in enumerate(own):
        right = without(x, x[row], int(row), k, metric)
        assert_array_equal(ids[q], right[1])
        assert keys[q].tobytes() == right[0].tobytes()
    assert findings.n_excluded <= len(own)
    if metric == "l2" and kind == "normal":
        assert findings.n_excluded == len(own)


@given(kinds, st.integers(2, 60), st.integers(1, 6), seeds, metrics, st.data())
@settings(deadline=None, max_examples=150)
def test_with_no_row_known_the_first_with_the_querys_vector_is_left_out(
    kind: str, n: int, d: int, seed: int, metric: Metric, data: st.DataObject
) -> None:
    x, xq = pair_of(kind, n, 6, d, seed, metric)
    k = data.draw(st.integers(1, n - 1))
    keys, ids, _ = finished(x, xq, k, metric, None, exclude_self=True)
    for q in range(len(xq)):
        same = np.flatnonzero((x == xq[q]).all(axis=1))
        right = without(x, xq[q], int(same[0]) if len(same) else None, k, metric)
        assert_array_equal(keys[q], right[0])
        assert_array_equal(ids[q], right[1])


@given(kinds, st.integers(1, 60), st.integers(1, 6), seeds, metrics, st.data())
@settings(deadline=None, max_examples=150)
def test_findings_are_what_counting_gives(
    kind: str, n: int, d: int, seed: int, metric: Metric, data: st.DataObject
) -> None:
    x, xq = pair_of(kind, n, 6, d, seed, metric)
    k = data.draw(st.integers(1, n))
    keys, ids, findings = finished(x, xq, k, metric)
    right = oracle.neighbours(x, xq, k + EXTRA, metric)
    assert_array_equal(keys, right[0][:, :k])
    assert_array_equal(ids, right[1][:, :k])
    gaps = right[0][:, k] - right[0][:, k - 1] if n > k else np.full(len(xq), np.inf)
    # -0.0 and 0.0 are one value, as they are in a row's bytes here.
    vectors = [tuple((row + np.float32(0)).tolist()) for row in x]
    n_duplicates = sum(
        count - 1 for row in ids.tolist() for count in Counter(vectors[i] for i in row).values()
    )
    listed = right[1].tolist()
    n_self = sum(any((x[i] == q).all() for i in rows) for q, rows in zip(xq, listed, strict=True))
    assert findings == Findings(float(gaps.min()), int((gaps == 0).sum()), n_duplicates, n_self, 0)


def test_margins_and_ties() -> None:
    x = np.array([[0], [1], [3], [3], [7]], np.float32)
    xq = np.array([[0], [-1]], np.float32)
    assert finished(x, xq, 1)[2].smallest_margin == 1  # 1 − 0, and 4 − 1
    assert finished(x, xq, 2)[2].smallest_margin == 8  # 9 − 1, and 16 − 4
    findings = finished(x, xq, 3)[2]
    assert (findings.smallest_margin, findings.n_tied) == (0, 2)
    assert finished(x, xq, 5)[2].smallest_margin == np.inf
    assert finished(x, xq, 5)[2].n_tied == 0


def test_the_margin_is_of_what_is_left() -> None:
    x = np.array([[0], [1], [3], [7]], np.float32)
    own = np.array([0])
    findings = finished(x, x[:1], 1, own=own, exclude_self=True)[2]
    assert findings.smallest_margin == 8  # of 1 and 9: 0 is the query
    # With k = n − 1 there is no neighbour k + 1.
    assert finished(x, x[:1], 3, own=own, exclude_self=True)[2].smallest_margin == np.inf


def test_duplicates_are_those_of_the_answer_alone() -> None:
    x = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [0, 1], [5, 5]], np.float32)
    # All of the first five are at distance 1: rows 0, 2, 3 are one vector, and 1, 4 another.
    origin = np.zeros((1, 2), np.float32)
    assert [finished(x, origin, k)[2].n_duplicates for k in (1, 2, 3, 4, 5, 6)] == [
        *(0, 0, 1, 2),
        *(3, 3),
    ]


def test_rows_of_equal_distance_are_no_duplicates_for_that() -> None:
    x = np.eye(6, dtype=np.float32)
    assert finished(x, np.zeros((1, 6), np.float32), 6)[2].n_duplicates == 0


@pytest.mark.parametrize("metric", METRICS)
def test_self_matches_are_counted_whether_or_not_they_are_left_out(metric: Metric) -> None:
    x = rows_of("normal", 30, 5, 1)
    x /= np.sqrt((x**2).sum(axis=1, keepdims=True))  # so that ip finds them first too
    xq = np.concatenate([x[[4, 9]], rows_of("normal", 3, 5, 2)])
    own = np.array([4, 9, 0, 1, 2])  # of the last three the vectors are not those rows'
    for exclude_self in (False, True):
        findings = finished(x, xq, 7, metric, own, exclude_self)[2]
        assert findings.n_self_matches == 2
        assert findings.n_excluded == (2 if exclude_self else 0)


def test_a_longer_row_can_be_nearer_by_inner_product_than_the_query_itself() -> None:
    """The own row comes late in the list, or not at all: k others are the answer either way."""
    x = np.array([[1, 0], [3, 0], [2, 0], [4, 0], [0.5, 0]], np.float32)
    own = np.array([0])
    for k in (1, 2, 3, 4):
        keys, ids, findings = finished(x, x[:1], k, "ip", own, exclude_self=True)
        assert ids.tolist() == [[3, 1, 2, 4][:k]]
        assert keys.tolist() == [[-4, -3, -2, -0.5][:k]]
        assert findings.n_excluded == (1 if k + EXTRA >= 4 else 0)


def test_a_vector_of_the_same_direction_is_not_the_query() -> None:
    x = np.array([[2, 2], [1, 1], [1, 0]], np.float32)
    keys, ids, findings = finished(x, x[1:2], 2, "cosine", None, exclude_self=True)
    assert ids.tolist() == [[0, 2]]
    assert findings.n_excluded == 1


def test_the_one_known_row_is_left_out_and_not_its_copies() -> None:
    x = np.zeros((5, 2), np.float32)
    ids = finished(x, x[:1], 4, own=np.array([2]), exclude_self=True)[1]
    assert ids.tolist() == [[0, 1, 3, 4]]
    # Beyond the list, behind its copies: the answer is theirs.
    ids = finished(x, x[:1], 1, own=np.array([4]), exclude_self=True)[1]
    assert ids.tolist() == [[0]]


def test_a_fingerprint_alone_makes_no_row_the_query() -> None:
    """Two vectors can share one; they are hardly at the query's distance of itself as well."""
    x, xq = pair_of("normal", 30, 2, 4, 1, "l2")
    part = whole_part(x, xq, 5, "l2")
    part.hashes[:, 1:3] = d64.row_hashes(xq)[:, None]
    alone = finish(whole_part(x, xq, 5, "l2"), xq, 3, 5, "l2", None, True)
    found = finish(part, xq, 3, 5, "l2", None, True)
    assert_array_equal(found[1], alone[1])
    assert found[2].n_self_matches == alone[2].n_self_matches == 1


def test_an_unproven_list_gives_no_answer() -> None:
    x, xq = pair_of("normal", 30, 3, 4, 1, "l2")
    part = whole_part(x, xq, 5, "l2")
    part.frontier[1] = part.keys[1, 3]
    part.frontier_ids[1] = part.ids[1, 3]
    with pytest.raises(CertificateError, match="query 1"):
        finish(part, xq, 3, 5, "l2", None, False)


def test_the_answer_does_not_hold_on_to_longer_lists() -> None:
    x, xq = pair_of("normal", 30, 3, 4, 1, "l2")
    keys, ids, _ = finished(x, xq, 3)
    assert keys.base is None
    assert ids.base is None
