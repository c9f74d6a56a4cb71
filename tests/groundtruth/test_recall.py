"""Recall against brute force over every exact answer there is; claims that lie; refusals."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq.errors import DataError, UsageError
from haag_vq.groundtruth.recall import recall
from haag_vq.groundtruth.result import GroundTruth
from haag_vq.sources import ArraySource, Metric
from tests.groundtruth import oracle
from tests.groundtruth.cases import METRICS

F32 = NDArray[np.float32]
AnyArray = NDArray[Any]
Case = tuple[F32, F32, GroundTruth, AnyArray]


def truth_of(x: F32, xq: F32, k: int, metric: Metric) -> GroundTruth:
    keys, ids = oracle.neighbours(x, xq, k, metric)
    return GroundTruth(ids, keys if metric == "l2" else 0.0 - keys, metric, len(x), x.shape[1])


def tied_case(seed: int, metric: Metric, k: int, n: int = 9) -> Case:
    """A base of few values, so that ties are many; results with repeats and padding."""
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 4, (n, 2)).astype(np.float32)
    xq = rng.integers(1, 4, (5, 2)).astype(np.float32)
    result = rng.integers(-1, n, (5, k))
    # Half of them good: the nearest, in any of their orders.
    order = np.argsort(oracle.distances(x, xq, metric) + rng.random((5, n)) * 1e-9, axis=1)
    result[::2] = order[::2, :k]
    return x, xq, truth_of(x, xq, k, metric), result


def best_over_all_answers(x: F32, xq: F32, metric: str, result: AnyArray, k: int) -> list[float]:
    """Largest share of any exact answer's k ids that was returned: every answer is tried."""
    found = []
    for keys, ids in zip(oracle.distances(x, xq, metric), result, strict=True):
        kth = sorted(keys)[k - 1]
        nearer = set(np.flatnonzero(keys < kth).tolist())
        tied = np.flatnonzero(keys == kth).tolist()
        returned = set(ids[:k].tolist())
        answers = (nearer | set(some) for some in combinations(tied, k - len(nearer)))
        found.append(max(len(answer & returned) for answer in answers) / k)
    return found


def by_ids(truth: GroundTruth, result: AnyArray, k: int) -> list[float]:
    pairs = zip(truth.ids, result, strict=True)
    return [len(set(t[:k].tolist()) & set(r[:k].tolist())) / k for t, r in pairs]


def as_distances(x: F32, xq: F32, metric: str, ids: AnyArray) -> AnyArray:
    keys = oracle.distances(x, xq, metric)
    found = np.take_along_axis(keys, np.maximum(ids, 0), 1)
    return found if metric == "l2" else -found


@given(st.integers(0, 10**6), st.sampled_from(METRICS), st.integers(1, 6))
def test_tie_aware_recall_is_the_best_over_all_exact_answers(
    seed: int, metric: Metric, k: int
) -> None:
    x, xq, truth, result = tied_case(seed, metric, k)
    expected = best_over_all_answers(x, xq, metric, result, k)
    found = recall(result, truth, k, base=x, queries=xq)
    assert found.recalls.tolist() == expected
    assert found.strict_recalls.tolist() == by_ids(truth, result, k)
    # A truth that lists every row needs no vectors.
    whole = truth_of(x, xq, len(x), metric)
    assert recall(result, whole, k).recalls.tolist() == expected
    # Nor does an honest search's own float64 distances.
    claims = as_distances(x, xq, metric, result)
    honest = recall(result, truth, k, result_distances=claims)
    assert honest.n_disbelieved == 0
    assert honest.recalls.tolist() == expected
    # And knowing nothing, no tie is given away.
    assert recall(result, truth, k).recalls.tolist() == by_ids(truth, result, k)


def test_more_tied_rows_do_not_make_up_for_a_nearer_one() -> None:
    truth = GroundTruth(np.array([[0, 1, 2]]), np.array([[0.0, 1.0, 1.0]]), "l2", 3, 1)
    assert recall([[1, 2]], truth, 2).recalls.tolist() == [0.5]
    assert recall([[0, 2]], truth, 2).recalls.tolist() == [1.0]
    assert recall([[0, 2]], truth, 2).strict_recalls.tolist() == [0.5]


def test_duplicates_and_padding_count_once_and_never() -> None:
    truth = truth_of(*line(8), 4, "l2")
    found = recall([[0, 0, 1, -1, 2], [-1, -1, -1, -1, 0]], truth, 4)
    assert found.recalls.tolist() == found.strict_recalls.tolist() == [0.5, 0.0]
    assert (found.n_duplicates, found.n_padding, found.k) == (1, 5, 4)
    assert (found.mean, found.strict_mean, found.min) == (0.25, 0.25, 0.0)
    assert str(found).startswith("recall@4 0.2500 (0.2500 by ids alone, worst query 0.0000")


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", ">i8", "uint64"])
def test_any_integers_are_ids(dtype: str) -> None:
    truth = truth_of(*line(8), 4, "l2")
    ids = np.array([[0, 1, 6, 7], [0, 1, 2, 3]]).astype(dtype)
    assert recall(ids, truth).recalls.tolist() == [0.5, 1.0]


def test_ids_as_large_as_int64_are_told_apart() -> None:
    far = 2**62
    truth = GroundTruth(np.array([[far, far + 1]]), np.array([[0.0, 1.0]]), "l2", 0, 0)
    assert recall([[far + 1, far + 2]], truth).recalls.tolist() == [0.5]


def line(n: int) -> tuple[F32, F32]:
    """Rows 0, 1, 2, … on a line and two queries before them: no ties."""
    x = np.arange(n, dtype=np.float32)[:, None]
    return x, np.array([[-1], [-2]], np.float32)


# --- claimed distances --------------------------------------------------------------------------


def claimed(claims: Any, dtype: str = "float64", metric: Metric = "l2") -> Any:
    """Recall@2 of rows (0, 9), claimed at these distances; the truth has (0, 1) at 1 and 3."""
    sign = 1 if metric == "l2" else -1
    truth = GroundTruth(np.array([[0, 1]]), sign * np.array([[1.0, 3.0]]), metric, 10, 4)
    return recall([[0, 9]], truth, 2, result_distances=sign * np.array([claims], dtype))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("claims", "dtype", "right"),
    [
        ((1, 3), "float64", True),
        ((1, 3), "float32", True),
        ((1, 3), "int64", True),
        ((1, np.nextafter(3, 4)), "float64", False),
        ((1, np.nextafter(3, 0)), "float64", False),
        ((1, 3 * (1 + 2**-21)), "float32", True),
        ((1, 3 * (1 + 2**-19)), "float32", False),
        ((1, 3 * (1 - 2**-19)), "float32", False),  # nearer: the truth would list it
        ((1, 4), "float32", False),
        ((1, np.inf), "float64", False),
    ],
)
def test_a_claim_must_equal_the_kth_distance(
    claims: tuple[float, float], dtype: str, right: bool, metric: Metric
) -> None:
    found = claimed(claims, dtype, metric)
    assert found.recalls.tolist() == [1.0 if right else 0.5]
    assert found.strict_recalls.tolist() == [0.5]
    assert found.n_disbelieved == 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "claims",
    [
        (1, 0),  # too near to be true
        (1, -np.inf),
        (1, np.nan),
        (3, 3),  # all at the k-th: row 0 is known to be elsewhere
        (1.1, 3),  # compressed vectors
        (1, 1.73),  # a root, where squares are meant
        (np.nan, 3),
        (np.inf, 3),
    ],
)
def test_claims_that_the_truth_contradicts_are_not_believed(
    claims: tuple[float, float], metric: Metric
) -> None:
    found = claimed(claims, metric=metric)
    assert found.recalls.tolist() == [0.5]
    assert found.n_disbelieved == 1


def test_float32_rounds_a_cosine_by_the_scale_of_one() -> None:
    truth = GroundTruth(np.array([[0]]), np.array([[0.001]]), "cosine", 10, 4)
    for away, right in ((2.0**-21, 1.0), (2.0**-19, 0.0)):
        claim = np.array([[0.001 + away]], np.float32)
        assert recall([[9]], truth, result_distances=claim).recalls.tolist() == [right]


def test_only_the_first_k_columns_count() -> None:
    x, xq = line(12)
    truth = truth_of(x, xq, 2, "l2")
    ids = np.array([[0, 9, 1, -1], [0, 9, 9, -1]])
    claims = np.concatenate((truth.distances, np.zeros((2, 2))), axis=1)
    found = recall(ids, truth, 2, result_distances=claims)
    assert found.recalls.tolist() == [1.0, 1.0]
    assert found.strict_recalls.tolist() == [0.5, 0.5]
    assert (found.n_padding, found.n_duplicates, found.n_disbelieved) == (0, 0, 0)


def test_a_claim_about_a_row_that_the_truth_lists_changes_nothing() -> None:
    truth = GroundTruth(np.array([[0, 1, 2]]), np.array([[1.0, 3.0, 3.0 + 1e-9]]), "l2", 10, 4)
    found = recall([[0, 2]], truth, 2, result_distances=np.array([[1, 3]], np.float32))
    assert found.recalls.tolist() == [0.5]


def test_vectors_settle_what_claims_cannot() -> None:
    x, xq = line(12)
    truth = truth_of(x, xq, 2, "l2")
    lie = truth.distances.copy()
    result = np.array([[0, 9], [0, 1]])
    assert recall(result, truth, result_distances=lie).recalls.tolist() == [1.0, 1.0]
    told = recall(result, truth, result_distances=lie, base=ArraySource(x), queries=xq)
    assert told.recalls.tolist() == [0.5, 1.0]


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "k", "message"),
    [
        ([[0, 1]], None, r"the result has 1 queries, the truth 2: row i"),
        ([[0, 1], [2, 3]], 3, r"recall@3 .* shape \(2, 2\) .* k=4: take k from 1 to 2"),
        (np.zeros((2, 9), int), 5, r"recall@5 .* shape \(2, 9\) .* k=4: take k from 1 to 4"),
        ([[0], [1]], 0, "take k from 1 to 1"),
        ([[0], [1]], 1.0, "k=1.0 must be a whole number"),
        ([[0.0], [1.0]], None, r"not float64 of shape \(2, 1\)"),
        ([0, 1], None, r"not int64 of shape \(2,\)"),
        (np.array([[2**64 - 1], [0]], np.uint64), None, "id 18,446,744,073,709,551,615, larger"),
    ],
)
def test_results_of_another_shape_or_type_are_refused(result: Any, k: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recall(result, truth_of(*line(8), 4, "l2"), k)


@pytest.mark.parametrize("bad", [8, -2, 2**40])
def test_ids_outside_the_base_are_refused(bad: int) -> None:
    with pytest.raises(
        DataError, match=rf"the result has id {bad:,} at rank 2 of query 1, .* rows 0 to 7 \(1 ids"
    ):
        recall([[0, 1], [0, bad]], truth_of(*line(8), 4, "l2"))


def test_ids_outside_the_given_base_are_refused() -> None:
    x, xq = line(8)
    truth = dataclasses.replace(truth_of(x, xq, 2, "l2"), n_rows=0)
    assert recall([[0, 8], [0, 1]], truth).recalls.tolist() == [0.5, 1.0]
    with pytest.raises(DataError, match="id 8 at rank 2 of query 0"):
        recall([[0, 8], [0, 1]], truth, base=x, queries=xq)


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        (np.zeros((2, 3)), r"shape \(2, 3\), the ids \(2, 2\)"),
        (np.zeros((2, 2), np.float16), "are float16; float32, float64 or integers"),
        (np.zeros((2, 2), "U1"), "are <U1"),
    ],
)
def test_claims_of_another_shape_or_type_are_refused(claims: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recall([[0, 1], [0, 1]], truth_of(*line(8), 4, "l2"), result_distances=claims)


def test_a_truth_of_other_vectors_is_found_out() -> None:
    x, xq = line(12)
    result = np.array([[0, 9], [0, 1]])
    with pytest.raises(DataError, match="the truth is of other vectors, .* query 0 and row 1"):
        recall(result, truth_of(x, xq, 2, "l2"), base=x + 1, queries=xq)
    with pytest.raises(UsageError, match="rows of the base: 12 and 11"):
        recall(result, truth_of(x, xq, 2, "l2"), base=x[:11], queries=xq)


def test_a_truth_that_misses_a_nearer_row_is_found_out() -> None:
    x, xq = line(12)
    keys, ids = oracle.neighbours(x, xq, 12, "l2")
    truth = GroundTruth(ids[:, 1:3], keys[:, 1:3], "l2", 12, 1)
    with pytest.raises(DataError, match="not exact: row 0 is nearer to query 0"):
        recall([[0, 1], [1, 2]], truth, base=x, queries=xq)


def test_a_float32_truth_is_not_blamed_for_float32() -> None:
    """It lists the farther of two rows that float32 cannot tell; the nearer one is right."""
    x = np.array([[1], [np.nextafter(np.float32(1), np.float32(0))], [9]], np.float32)
    truth = GroundTruth(np.array([[0]]), np.array([[1.0]]), "l2", 3, 1)
    assert recall([[1]], truth, base=x, queries=[[0.0]]).recalls.tolist() == [1.0]


@pytest.mark.parametrize("metric", METRICS)
def test_a_querys_own_row_is_never_right_where_the_truth_leaves_it_out(metric: Metric) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((30, 4)).astype(np.float32)
    x[1] = x[0]
    xq = x[[0, 7]]
    keys, ids = oracle.neighbours(x, xq, 30, metric)
    others = ids != np.array([[0], [7]])
    keys, ids = (a[others].reshape(2, 29)[:, :3] for a in (keys, ids))
    truth = truth_of(x, xq, 3, metric)
    distances = keys if metric == "l2" else -keys
    truth = dataclasses.replace(truth, ids=ids, distances=distances, excluded_self=True)
    result = np.array([[0, *ids[0, :2]], [7, *ids[1, :2]]])
    claims = as_distances(x, xq, metric, result)
    for known in ({"result_distances": claims}, {"base": x, "queries": xq}):
        found = recall(result, truth, **known)
        assert found.recalls.tolist() == [2 / 3, 2 / 3]
        assert found.n_disbelieved == 0
    kept = dataclasses.replace(truth, excluded_self=False)
    if metric == "ip":
        return  # a row need not be the nearest to itself
    assert recall(result, kept, result_distances=claims).n_disbelieved >= 1
    with pytest.raises(DataError, match="the truth is not exact: row 0 is nearer to query 0"):
        recall(result, kept, base=x, queries=xq)


@pytest.mark.parametrize(("n_near", "n_disbelieved"), [(1, 0), (2, 1)])
def test_one_row_at_most_is_the_querys_own(n_near: int, n_disbelieved: int) -> None:
    truth = GroundTruth(np.array([[1, 2, 3]]), np.array([[1.0, 2.0, 3.0]]), "l2", 9, 1)
    truth = dataclasses.replace(truth, excluded_self=True)
    claims = np.array([[0.0, 0.0 if n_near > 1 else 9.0, 3.0]])
    found = recall([[0, 5, 6]], truth, result_distances=claims)
    assert found.n_disbelieved == n_disbelieved
    assert found.recalls.tolist() == [(1 - n_disbelieved) / 3]


def test_a_row_tied_with_the_querys_own_is_not_taken_for_a_neighbour() -> None:
    x = np.zeros((4, 1), np.float32)
    truth = GroundTruth(np.array([[1, 2]]), np.zeros((1, 2)), "l2", 4, 1, excluded_self=True)
    assert recall([[0, 1]], truth, base=x, queries=x[:1]).recalls.tolist() == [0.5]


def test_arguments_are_left_as_they_were() -> None:
    x, xq, truth, result = tied_case(3, "ip", 4)
    before = [a.copy() for a in (truth.ids, truth.distances, result)]
    recall(result, truth, base=x, queries=xq)
    for now, then in zip((truth.ids, truth.distances, result), before, strict=True):
        assert_array_equal(now, then)
