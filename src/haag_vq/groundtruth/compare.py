"""Whether two ground truths agree, and where they do not, how bad it is.

Only places (query, rank) at which the ids differ are looked at. Rows on which both agree
compete with none of them, so the differing places of one truth must hold, in order, the nearest
of the rows that either has in such places.

With vectors, D64 of those rows decides, for each truth and query: equal to the best at every
place, it is right; off by at most the errors that float32 may make of two distances
(`groundtruth.bounds`), it is misordered; off by more, it is in error. Two that are right differ
by ties alone.

Without vectors only the distances in the files can be weighed. Let η be the largest difference
of two distances that both give to one row. The two rows of a place are compared by a truth that
knows both, else each by its own truth: equal distances are a tie; up to 2η nobody can tell, the
files' own precision being no better; beyond that one of the two missed a nearer row: the one
with the larger distance.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth.comparison import SEVERITY, Comparison, Difference, Verdict
from haag_vq.groundtruth.lists import check_same, check_within, checked_keys, columns_of
from haag_vq.groundtruth.pairs import Vectors
from haag_vq.groundtruth.result import GroundTruth, check_truth
from haag_vq.sources import Metric

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# What a person is shown. Arbitrary.
N_SHOWN = 10
# Of the largest distance. Arbitrary: float32 sums seldom err by more, other units or vectors do.
ODD_GAP = 2.0**-10


def compare(a: GroundTruth, b: GroundTruth, *, base: Any = None, queries: Any = None) -> Comparison:
    """Compare two ground truths of the same queries in the same base.

    Parameters
    ----------
    a, b : GroundTruth
        Of any k: the smaller is compared.
    base : dataset, VectorSource or (n, d) array, optional
        The vectors: with them every difference is decided, and blamed.
    queries : (nq, d) array, optional
        With `base`; a dataset's own when not given.

    Returns
    -------
    Comparison
        ``comparison.agree`` says whether they are the same answer up to ties.

    Raises
    ------
    UsageError
        If metric, queries, dimension or rows of the base differ, where they are known.
    DataError
        If one is no ground truth: padded, repeated, outside the base, or not in order.

    Notes
    -----
    Rows that both miss are not found out: for that, compute the truth. Memory: about 100
    bytes for each id of both; with `base` 32 MiB more, about 100 bytes for each id that differs,
    and the source's scratch. Only rows at places that differ are read.
    """
    check_truth("a", a)
    check_truth("b", b)
    check_same("A", "B", _identity_of(a, b))
    k = min(a.k, b.k)
    keys_a, keys_b = checked_keys(a, k, "A"), checked_keys(b, k, "B")
    places = _Places.of(a.ids[:, :k], b.ids[:, :k])
    largest_gap = _largest_gap(a.ids[:, :k], keys_a[:, :k], b.ids[:, :k], keys_b[:, :k])
    fingerprints = {"A": a.base_fingerprint, "B": b.base_fingerprint}
    warnings = _gap_warnings(largest_gap, keys_a[:, :k]) + _own_row_warnings(a, b)
    if base is None:
        judged = _judge_by_distances(places, (a.ids, keys_a), (b.ids, keys_b), 2 * largest_gap)
    else:
        vectors = _vectors_of_both(base, queries, a, b)
        judged = _judge_by_vectors(places, a.metric, vectors)
        fingerprints["the base given"] = vectors.fingerprint
    return _counted(
        judged,
        Comparison(
            n_queries=a.n_queries,
            k=k,
            metric=a.metric,
            n_reordered=places.n_reordered(),
            largest_gap=largest_gap,
            by_vectors=base is not None,
            warnings=warnings + _fingerprint_warnings(fingerprints),
        ),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Places:
    """Where two truths name other rows, ordered by query and rank."""

    queries: I64
    """(p,)."""
    ranks: I64
    """(p,) from 0."""
    a_ids: I64
    """(p,)."""
    b_ids: I64
    """(p,)."""

    @classmethod
    def of(cls, a_ids: I64, b_ids: I64) -> _Places:
        differ = a_ids != b_ids
        queries, ranks = np.nonzero(differ)
        return cls(queries, ranks, a_ids[differ], b_ids[differ])

    def by_query(self) -> list[slice]:
        """Places of each query that has any."""
        starts = np.flatnonzero(np.diff(self.queries, prepend=-1)).tolist()
        return [slice(i, j) for i, j in pairwise([*starts, len(self.queries)])]

    def n_reordered(self) -> int:
        """Queries whose rows are the same, in another order."""
        a = self.a_ids[np.lexsort((self.a_ids, self.queries))]
        b = self.b_ids[np.lexsort((self.b_ids, self.queries))]
        return sum(np.array_equal(a[some], b[some]) for some in self.by_query())

    def difference(
        self, at: int, keys: tuple[Any, Any], verdict: Verdict, wrong_a: Any, wrong_b: Any
    ) -> Difference:
        """Describe the query of place `at` by that place; `keys` are of A's row and B's there."""
        return Difference(
            int(self.queries[at]),
            int(self.ranks[at]),
            int(self.a_ids[at]),
            int(self.b_ids[at]),
            float(keys[0][at]),
            float(keys[1][at]),
            verdict,
            " and ".join(name for name, wrong in (("A", wrong_a), ("B", wrong_b)) if wrong),
        )


def _vectors_of_both(base: Any, queries: Any, a: GroundTruth, b: GroundTruth) -> Vectors:
    vectors = Vectors.of(base, queries)
    for name, truth in (("A", a), ("B", b)):
        vectors.check_belongs(truth, name)
        check_within(truth.ids, vectors.source.n_rows, name)
    return vectors


def _judge_by_vectors(places: _Places, metric: Metric, vectors: Vectors) -> list[Difference]:
    """Judge each query that differs by D64 of the rows at its differing places."""
    scores = vectors.score(
        np.concatenate((places.queries, places.queries)),
        np.concatenate((places.a_ids, places.b_ids)),
        metric,
    )
    (keys_a, keys_b), errors = np.split(scores.keys, 2), np.maximum(*np.split(scores.errors, 2))
    found = []
    for some in places.by_query():
        rows = np.concatenate((places.a_ids[some], places.b_ids[some]))
        _, first = np.unique(rows, return_index=True)
        best = np.sort(np.concatenate((keys_a[some], keys_b[some]))[first])
        best = best[: len(keys_a[some])]
        off_a, off_b = np.abs(keys_a[some] - best), np.abs(keys_b[some] - best)
        off = np.maximum(off_a, off_b)
        # A float32 search errs on each of the two rows that it exchanges.
        allowed = 2 * errors[some].max()
        verdict: Verdict = "error" if off.max() > allowed else "misordered" if off.any() else "tie"
        at = some.start + int(off.argmax())
        found.append(places.difference(at, (keys_a, keys_b), verdict, off_a.any(), off_b.any()))
    return found


def _judge_by_distances(
    places: _Places, a: tuple[I64, F64], b: tuple[I64, F64], allowed: float
) -> list[Difference]:
    """Judge each query that differs by the distances in the files: ids and keys of A and of B."""
    at_places = places.queries, places.ranks
    (a_ids, all_a), (b_ids, all_b) = a, b
    keys_a, keys_b = all_a[at_places], all_b[at_places]
    k = int(places.ranks.max(initial=0)) + 1
    gaps = np.fmax(
        np.abs(_keys_of(b_ids[:, :k], a_ids, all_a)[at_places] - keys_a),
        np.abs(_keys_of(a_ids[:, :k], b_ids, all_b)[at_places] - keys_b),
    )
    # NaN: neither truth lists both rows.
    gaps = np.where(np.isnan(gaps), np.abs(keys_a - keys_b), gaps)
    found = []
    for some in places.by_query():
        worst = gaps[some].max()
        at = some.start + int(gaps[some].argmax())
        if worst > allowed:
            wrong = gaps[some] > allowed
            farther = keys_a[some] > keys_b[some]
            blame = (wrong & farther).any(), (wrong & ~farther).any()
            found.append(places.difference(at, (keys_a, keys_b), "error", *blame))
        else:
            verdict: Verdict = "undecided" if worst else "tie"
            found.append(places.difference(at, (keys_a, keys_b), verdict, False, False))
    return found


def _keys_of(rows: I64, ids: I64, keys: F64) -> F64:
    """Distances of rows (nq, m) by a truth's ids and keys (nq, w); NaN where it lists them not."""
    columns = columns_of(rows, ids)
    return np.where(columns < 0, np.nan, np.take_along_axis(keys, np.maximum(columns, 0), 1))


def _largest_gap(a_ids: I64, keys_a: F64, b_ids: I64, keys_b: F64) -> float:
    """Largest difference of two distances to one row of one query; 0 where they share none."""
    gaps = np.abs(_keys_of(b_ids, a_ids, keys_a) - keys_b)
    return float(gaps.max(initial=0.0, where=~np.isnan(gaps)))


def _identity_of(a: GroundTruth, b: GroundTruth) -> list[tuple[str, int | str, int | str]]:
    return [
        ("metric", a.metric, b.metric),
        ("number of queries", a.n_queries, b.n_queries),
        ("dimension", a.dim, b.dim),
        ("rows of the base", a.n_rows, b.n_rows),
        ("SHA-256 of the queries", a.queries_sha256, b.queries_sha256),
    ]


def _own_row_warnings(a: GroundTruth, b: GroundTruth) -> tuple[str, ...]:
    if a.excluded_self == b.excluded_self:
        return ()
    one, other = ("A", "B") if a.excluded_self else ("B", "A")
    return (f"{one} leaves out each query's own row, {other} does not say so",)


def _gap_warnings(largest_gap: float, keys: F64) -> tuple[str, ...]:
    largest = float(np.abs(keys).max(initial=0.0))
    if largest_gap <= ODD_GAP * largest:
        return ()
    return (
        f"they give one row distances that differ by {largest_gap:.3g}, where the largest is "
        f"{largest:.3g}: more than float32 usually explains. Are they of one unit (squared or "
        "not), and of the same vectors?",
    )


def _fingerprint_warnings(fingerprints: dict[str, str]) -> tuple[str, ...]:
    known = {name: text for name, text in fingerprints.items() if text}
    if len(set(known.values())) < 2:
        return ()
    listed = ", ".join(f"{name} {text[:16]}" for name, text in known.items())
    return (
        f"the fingerprints of the base differ ({listed}): the same vectors in other files, or "
        "other vectors",
    )


def _counted(judged: list[Difference], comparison: Comparison) -> Comparison:
    """Complete a comparison by its queries that differ, each judged."""
    n = Counter(found.verdict for found in judged)
    gravest = sorted(judged, key=lambda found: -SEVERITY.index(found.verdict))[:N_SHOWN]
    return replace(
        comparison,
        n_exact=comparison.n_queries - len(judged),
        n_ties=n["tie"],
        n_undecided=n["undecided"],
        n_misordered=n["misordered"],
        n_errors=n["error"],
        n_wrong_a=sum("A" in found.wrong for found in judged),
        n_wrong_b=sum("B" in found.wrong for found in judged),
        differences=tuple(_shown(found, comparison.metric) for found in gravest),
    )


def _shown(found: Difference, metric: Metric) -> Difference:
    """Turn keys into distances as they are in a truth."""
    if metric == "l2":
        return found
    return replace(found, a_distance=0.0 - found.a_distance, b_distance=0.0 - found.b_distance)
