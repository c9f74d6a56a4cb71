"""Truths that differ by ties, by float32, by errors: told apart, and the right one blamed."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from haag_vq.errors import DataError, UsageError
from haag_vq.groundtruth.compare import compare
from haag_vq.groundtruth.comparison import Comparison
from haag_vq.groundtruth.result import GroundTruth, load_ground_truth
from haag_vq.sources import ArraySource, Metric
from tests.groundtruth import oracle
from tests.groundtruth.cases import METRICS, pair_of
from tests.support.counting import CountingSource

F32 = NDArray[np.float32]
AnyArray = NDArray[Any]


def truth_of(keys: AnyArray, ids: AnyArray, metric: Metric, x: F32) -> GroundTruth:
    return GroundTruth(ids, keys if metric == "l2" else 0.0 - keys, metric, len(x), x.shape[1])


def answer(keys: AnyArray, k: int, metric: Metric, x: F32, rng: Any, spoil: float) -> GroundTruth:
    """An exact answer with ties in any order; of some queries a neighbour is left out."""
    nq, n = keys.shape
    left_out = np.where(rng.random(nq) < spoil, rng.integers(0, k, nq), n)
    chosen = []
    for row, missing in zip(keys, left_out, strict=True):
        order = np.lexsort((rng.random(n), row))
        chosen.append(np.delete(order, missing)[:k] if missing < n else order[:k])
    ids = np.array(chosen, np.int64)
    return truth_of(np.take_along_axis(keys, ids, 1), ids, metric, x)


def counts(found: Comparison) -> tuple[int, int, int, int, int]:
    """Exact, ties, undecided, misordered, errors."""
    return (found.n_exact, found.n_ties, found.n_undecided, found.n_misordered, found.n_errors)


@given(st.integers(0, 10**6), st.sampled_from(METRICS), st.integers(1, 6), st.booleans())
def test_the_truth_that_misses_a_row_is_found(
    seed: int, metric: Metric, k: int, with_vectors: bool
) -> None:
    """A is right, B spoilt on some queries: brute force over the whole base says which."""
    rng = np.random.default_rng(seed)
    x, xq = (rng.integers(1, 4, (n, 2)).astype(np.float32) for n in (10, 6))
    keys = oracle.distances(x, xq, metric)
    a, b = answer(keys, k, metric, x, rng, 0), answer(keys, k, metric, x, rng, 0.5)
    wrong = (np.take_along_axis(keys, b.ids, 1) != np.sort(keys, axis=1)[:, :k]).any(axis=1)
    same = (a.ids == b.ids).all(axis=1)
    vectors: dict[str, Any] = {"base": x, "queries": xq} if with_vectors else {}
    for found, blamed in (
        (compare(a, b, **vectors), (0, wrong.sum())),
        (compare(b, a, **vectors), (wrong.sum(), 0)),
    ):
        # Cosines of x and 2x are a float64 rounding apart: misordered, and no error.
        assert found.n_misordered == 0 or (metric == "cosine" and with_vectors)
        n_wrong = found.n_misordered + found.n_errors
        assert counts(found)[:3] == (same.sum(), (~same & ~wrong).sum(), 0)
        assert n_wrong == wrong.sum()
        assert (found.n_wrong_a, found.n_wrong_b) == blamed
        assert found.agree == (not wrong.any())
        assert found.by_vectors == with_vectors
        sets = np.sort(a.ids, axis=1) == np.sort(b.ids, axis=1)
        assert found.n_reordered == (sets.all(axis=1) & ~same).sum()


def test_a_longer_truth_is_compared_by_its_first_places() -> None:
    x, xq = pair_of("normal", 60, 5, 8, 1, "l2")
    a = truth_of(*oracle.neighbours(x, xq, 20, "l2"), "l2", x)
    b = truth_of(*oracle.neighbours(x, xq, 7, "l2"), "l2", x)
    found = compare(a, b)
    assert (found.k, found.n_queries, found.n_exact, found.verdict) == (7, 5, 5, "agree")


def test_both_may_be_wrong() -> None:
    x = np.arange(8, dtype=np.float32)[:, None]
    xq = np.array([[-1.0]], np.float32)
    keys = oracle.distances(x, xq, "l2")
    a, b = (truth_of(keys[:, ids], np.array([ids]), "l2", x) for ids in ([0, 2, 3], [0, 1, 4]))
    for found in (compare(a, b), compare(a, b, base=x, queries=xq)):
        assert (found.n_errors, found.n_wrong_a, found.n_wrong_b) == (1, 1, 1)
        assert found.differences[0].wrong == "A and B"


@pytest.mark.parametrize(("steps", "verdict"), [(1, "misordered"), (2, "error")])
def test_what_float32_can_do_and_what_it_cannot(steps: int, verdict: str) -> None:
    """The proven error of (x − 0)² is 3u of it: two rows 4u apart may be exchanged, 8u not."""
    near = np.float32(1)
    far = near
    for _ in range(steps):
        far = np.nextafter(far, np.float32(2))
    x = np.array([[near], [far], [5]], np.float32)
    xq = np.zeros((1, 1), np.float32)
    a = GroundTruth(np.array([[0]]), np.array([[1.0]]), "l2", 3, 1)
    b = GroundTruth(np.array([[1]]), np.array([[1.0]]), "l2", 3, 1)
    found = compare(a, b, base=x, queries=xq)
    (difference,) = found.differences
    assert (difference.verdict, difference.wrong) == (verdict, "B")
    assert (difference.a_id, difference.b_id, difference.rank) == (0, 1, 0)
    assert (difference.a_distance, difference.b_distance) == (1.0, float(far) ** 2)
    assert not found.agree
    # The files give both the same distance: nobody can tell.
    assert counts(compare(a, b)) == (0, 1, 0, 0, 0)


@pytest.mark.parametrize("metric", METRICS)
def test_a_real_float32_search_is_misordered_and_not_in_error(metric: Metric) -> None:
    """Rows with a common mean: ‖x‖² + ‖q‖² − 2x·q cancels, and inner products are alike."""
    x, xq = pair_of("offset", 3000, 20, 48, 4, metric)
    if metric == "cosine":
        a_rows, a_queries = (v / np.sqrt((v * v).sum(1, keepdims=True)) for v in (x, xq))
        keys = -(a_queries @ a_rows.T)
    elif metric == "ip":
        keys = -(xq @ x.T)
    else:
        keys = (xq * xq).sum(1)[:, None] + (x * x).sum(1) - 2 * (xq @ x.T)
    ids = np.argsort(keys, axis=1, kind="stable")[:, :200]
    a = truth_of(np.take_along_axis(keys, ids, 1).astype(np.float64), ids, metric, x)
    b = truth_of(*oracle.neighbours(x, xq, 200, metric), metric, x)
    found = compare(a, b, base=x, queries=xq)
    assert found.n_misordered > 0
    assert (found.n_errors, found.n_undecided, found.n_wrong_b) == (0, 0, 0)
    assert found.n_wrong_a == found.n_misordered
    assert found.verdict.startswith(f"differ: {found.n_misordered} quer")
    assert all(d.verdict == "misordered" for d in found.differences)
    alone = compare(a, b)
    assert alone.largest_gap > 0
    assert alone.n_misordered == 0
    assert alone.n_undecided > 0


@pytest.mark.parametrize("suffix", [".hdf5", ".ibin"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_file_of_float32_against_one_of_float64(
    suffix: str, metric: Metric, tmp_path: Path
) -> None:
    """Duplicates at every place, ordered otherwise in the file that rounds its distances."""
    x, xq = pair_of("duplicated", 200, 6, 8, 2, metric)
    keys = oracle.distances(x, xq, metric)
    rng = np.random.default_rng(0)
    a, b = (answer(keys, 30, metric, x, rng, 0) for _ in range(2))
    for name, truth in (("a.npz", a), (f"b{suffix}", b)):
        truth.save(tmp_path / name)
    a, b = load_ground_truth(tmp_path / "a.npz"), load_ground_truth(tmp_path / f"b{suffix}", metric)
    found = compare(a, b)
    assert found.n_errors == 0
    assert found.n_ties + found.n_undecided == 6
    assert found.warnings == ()
    settled = compare(a, b, base=ArraySource(x), queries=xq)
    assert counts(settled) == (0, 6, 0, 0, 0)
    assert settled.agree
    assert settled.verdict == "agree up to ties: 6 of 6 queries"


def test_within_twice_the_files_difference_nobody_can_tell() -> None:
    """A gives row 0 a distance that is 0.01 off: η. Rows 1 and 2 may then be 0.02 apart."""

    def found(gap: float) -> Comparison:
        a = GroundTruth(np.array([[0, 1]]), np.array([[1.01, 2.0]]), "l2", 9, 1)
        b = GroundTruth(np.array([[0, 2]]), np.array([[1.0, 2.0 + gap]]), "l2", 9, 1)
        return compare(a, b)

    assert counts(found(0)) == (0, 1, 0, 0, 0)
    assert counts(found(0.0199)) == (0, 0, 1, 0, 0)
    assert found(0.0199).largest_gap == pytest.approx(0.01)
    assert not found(0.0199).agree
    assert found(0.0199).verdict.startswith("undecided: 1 of 1 queries")
    assert counts(found(0.0201)) == (0, 0, 0, 0, 1)
    assert found(0.0201).differences[0].wrong == "B"
    assert found(-0.0201).differences[0].wrong == "A"


def test_a_truth_that_knows_both_rows_says_how_far_apart_they_are() -> None:
    """B ends with row 1 and knows no row 2; A has both, a tie at its k-th place."""
    a = GroundTruth(np.array([[0, 2, 1]]), np.array([[1.0, 2.0, 2.0]]), "l2", 9, 1)
    b = GroundTruth(np.array([[0, 1]]), np.array([[1.0, 2.0 + 1e-8]]), "l2", 9, 1)
    for found in (compare(a, b), compare(b, a)):
        assert counts(found) == (0, 1, 0, 0, 0)
    apart = dataclasses.replace(a, distances=np.array([[1.0, 2.0, 3.0]]))
    for found in (compare(apart, b), compare(b, apart)):
        assert counts(found) == (0, 0, 0, 0, 1)


def test_only_rows_at_places_that_differ_are_read(tmp_path: Path) -> None:
    x, xq = pair_of("normal", 60, 4, 8, 3, "l2")
    keys, ids = oracle.neighbours(x, xq, 9, "l2")
    a = truth_of(keys, ids, "l2", x)
    b = truth_of(keys, ids.copy(), "l2", x)
    b.ids[2, 8] = spare = next(row for row in range(60) if row not in ids[2])
    source = CountingSource(ArraySource(x), tmp_path / "log")
    found = compare(a, b, base=source, queries=xq)
    assert (found.n_exact, found.n_errors, found.n_wrong_b) == (3, 1, 1)
    assert [read.numbers for read in source.reads()] == [tuple(sorted((int(ids[2, 8]), spare)))]


def test_the_gravest_differences_are_shown_first() -> None:
    x = np.repeat(np.arange(40, dtype=np.float32), 2)[:, None]
    xq = np.arange(20, dtype=np.float32)[:, None]
    keys, ids = oracle.neighbours(x, xq, 2, "l2")
    a, b = truth_of(keys, ids, "l2", x), truth_of(keys, ids[:, ::-1].copy(), "l2", x)
    b.ids[15, 1] = 79
    found = compare(a, b, base=x, queries=xq)
    assert counts(found) == (0, 19, 0, 0, 1)
    assert len(found.differences) == 10
    assert [d.query for d in found.differences] == [15, *range(9)]
    text = str(found)
    assert text.splitlines()[0] == "verdict              differ: 1 query in error, of 20"
    assert "query 15, rank 2: A has row 31 at 0, B row 79 at 576: error, B wrong" in text


def test_similarities_are_shown_as_such() -> None:
    x = np.array([[3, 0], [0, 1], [2, 0]], np.float32)
    a = GroundTruth(np.array([[0]]), np.array([[3.0]]), "ip", 3, 2)
    b = GroundTruth(np.array([[2]]), np.array([[2.0]]), "ip", 3, 2)
    for found in (compare(a, b), compare(a, b, base=x, queries=[[1.0, 0.0]])):
        (difference,) = found.differences
        assert (difference.a_distance, difference.b_distance) == (3.0, 2.0)
        assert difference.wrong == "B"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"metric": "ip"}, "A and B do not belong together: metric: l2 and ip"),
        ({"dim": 5}, "dimension: 4 and 5"),
        ({"n_rows": 61}, "rows of the base: 60 and 61"),
        ({"queries_sha256": "b" * 64}, "SHA-256 of the queries: a{16}… and b{16}…"),
        (
            {"ids": np.array([[0, 1]]), "distances": np.array([[0.0, 1.0]])},
            "number of queries: 3 and 1",
        ),
    ],
)
def test_truths_of_other_things_are_refused(changed: dict[str, Any], message: str) -> None:
    a, _, _ = known()
    with pytest.raises(UsageError, match=message):
        compare(a, dataclasses.replace(a, **changed))


def known() -> tuple[GroundTruth, F32, F32]:
    x, xq = pair_of("normal", 60, 3, 4, 1, "l2")
    truth = truth_of(*oracle.neighbours(x, xq, 5, "l2"), "l2", x)
    return dataclasses.replace(truth, queries_sha256="a" * 64, base_fingerprint="f"), x, xq


def test_what_a_file_does_not_tell_is_not_compared() -> None:
    a, _, _ = known()
    unknown = dataclasses.replace(a, dim=0, n_rows=0, queries_sha256="", base_fingerprint="")
    found = compare(a, unknown)
    assert (found.verdict, found.warnings) == ("agree", ())


def test_other_fingerprints_are_a_warning() -> None:
    a, x, xq = known()
    found = compare(a, dataclasses.replace(a, base_fingerprint="g"))
    assert found.agree
    assert "fingerprints of the base differ (A f, B g)" in found.warnings[0]
    sha256 = hashlib.sha256(xq.tobytes()).hexdigest()
    a = dataclasses.replace(a, queries_sha256=sha256)
    found = compare(a, a, base=x, queries=xq)
    assert found.agree
    assert "(A f, B f, the base given " in found.warnings[0]


def test_own_rows_left_out_by_one_alone_are_a_warning() -> None:
    a, _, _ = known()
    without = dataclasses.replace(a, excluded_self=True)
    assert compare(without, without).warnings == ()
    assert compare(a, without).warnings == ("B leaves out each query's own row, A does not say so",)
    assert compare(without, a).warnings[0].startswith("A leaves out")


def test_distances_of_another_unit_are_a_warning() -> None:
    a, _, _ = known()
    found = compare(a, dataclasses.replace(a, distances=np.sqrt(a.distances)))
    assert found.agree
    assert "more than float32 usually explains" in found.warnings[0]


def test_vectors_of_another_truth_are_refused() -> None:
    a, x, xq = known()
    with pytest.raises(UsageError, match="A and the vectors do not belong .* SHA-256 of the quer"):
        compare(a, a, base=x, queries=xq)
    a = dataclasses.replace(a, queries_sha256="")
    with pytest.raises(UsageError, match="rows of the base: 60 and 59"):
        compare(a, a, base=x[:59], queries=xq)
    with pytest.raises(UsageError, match="number of queries: 3 and 2"):
        compare(a, a, base=x, queries=xq[:2])
    unknown = dataclasses.replace(a, n_rows=0, ids=a.ids + 60)
    with pytest.raises(DataError, match="A has id .* the base has rows 0 to 59"):
        compare(unknown, unknown, base=x, queries=xq)


def test_what_is_no_truth_is_refused() -> None:
    a, _, _ = known()
    with pytest.raises(DataError, match="^B is not in the order of l2"):
        compare(a, dataclasses.replace(a, distances=a.distances[:, ::-1]))
