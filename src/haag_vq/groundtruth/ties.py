"""Whether a returned row is as near as the k-th neighbour, by what is known of it.

1. The truth lists it (a truth may be wider than k): its distance there decides, equal or not.
2. It does not, and vectors are given: D64 of the row decides, against D64 of the k-th neighbour.
3. It does not, and the search's own distances are given: they are claims, and believed only
   where the truth does not contradict them. A claim must equal the k-th distance: exactly for
   float64 and integers; for float32 within 2⁻²⁰ of it (of 1 for cosine), sixteen units in the
   last place, which cover its rounding and a direct float32 sum of some thousand terms, and are
   what big-ann-benchmarks' 1e-6 is at distances near 1. A claim that is nearer does not count:
   the truth is exact, and would list such a row. A query whose claims are off by more than 2⁻¹⁰
   of the k-th distance, for an id that the truth lists or by being nearer than the truth
   allows, is judged by ids alone and counted in `RecallReport.n_disbelieved`: its distances are
   of another convention, of compressed vectors, or wrong.
4. Otherwise it counts as wrong.

Where the truth left out each query's own row, that row is never right. By vectors it is a row at
the query's distance to itself; by claims, one row of a query may be nearer than the truth allows.

No claim can be proven. Where it matters, give vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import DataError, UsageError
from haag_vq.groundtruth.lists import check_within, columns_of, later_copies
from haag_vq.groundtruth.pairs import Vectors
from haag_vq.groundtruth.result import GroundTruth

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Of the k-th distance. See this module's text, 3.
FLOAT32_TOLERANCE = 2.0**-20
# Arbitrary: above the noise of any float32 sum met (1e-6 of unit vectors' distances), below the
# error of compressed vectors.
DISBELIEF = 2.0**-10


@dataclass(frozen=True, slots=True, eq=False)
class Returned:
    """The first k returned ids of each query, and what the truth knows of them."""

    ids: I64
    """(nq, k)."""
    fresh: Bools
    """(nq, k): a row, met for the first time."""
    columns: I64
    """(nq, k): where the truth lists it; -1 for nowhere, or not fresh."""
    keys: F64
    """(nq, k): its distance by the truth, smaller is nearer; +inf where it is not listed."""
    kth: F64
    """(nq, 1): the truth's k-th distance."""

    @property
    def listed(self) -> Bools:
        """(nq, k): rows that the truth lists."""
        listed: Bools = self.columns >= 0
        return listed

    @property
    def in_truth(self) -> Bools:
        """(nq, k): rows among the truth's first k."""
        in_truth: Bools = self.listed & (self.columns < self.ids.shape[1])
        return in_truth

    @property
    def nearer(self) -> Bools:
        """(nq, k): those of them that are strictly nearer than the k-th."""
        nearer: Bools = self.in_truth & (self.keys < self.kth)
        return nearer

    @property
    def tied(self) -> Bools:
        """(nq, k): rows that the truth lists at the k-th distance."""
        tied: Bools = self.listed & ~self.nearer & (self.keys <= self.kth)
        return tied

    @property
    def unknown(self) -> Bools:
        """(nq, k): rows of which the truth tells nothing."""
        unknown: Bools = self.fresh & ~self.listed
        return unknown


def look_up(ids: I64, truth: GroundTruth, keys: F64) -> Returned:
    """Find returned ids (nq, k) in a truth, of which `keys` (nq, truth.k) are the distances."""
    fresh = (ids >= 0) & ~later_copies(ids)
    columns = np.where(fresh, columns_of(ids, truth.ids), -1)
    found = np.take_along_axis(keys, np.maximum(columns, 0), 1)
    k = ids.shape[1]
    return Returned(ids, fresh, columns, np.where(columns < 0, np.inf, found), keys[:, k - 1 : k])


def tied_by_vectors(returned: Returned, truth: GroundTruth, vectors: Vectors) -> Bools:
    """Mark unknown rows that are as near as the k-th neighbour, by D64 of both.

    Rows that are nearer by no more than float32's error are right too: the truth was found in
    float32, and they are better.

    Raises
    ------
    UsageError, DataError
        If the truth is of other vectors, or misses a nearer row.
    """
    vectors.check_belongs(truth, "the truth")
    check_within(returned.ids, vectors.source.n_rows, "the result")
    tied = np.zeros(returned.ids.shape, np.bool_)
    of, _ = np.nonzero(returned.unknown)
    queries, place = np.unique(of, return_inverse=True)
    kth_rows = truth.ids[queries, returned.ids.shape[1] - 1]
    rows = returned.ids[returned.unknown]
    scores = vectors.score(
        np.concatenate((queries, of)), np.concatenate((kth_rows, rows)), truth.metric
    )
    kth, kth_errors = scores.keys[: len(queries)], scores.errors[: len(queries)]
    # Twice: a float32 distance, rounded to float32 again in its file.
    other = np.abs(kth - returned.kth[queries, 0]) > 2 * kth_errors
    if other.any():
        at = int(np.argmax(other))
        raise DataError(
            f"the truth is of other vectors, or of another metric: query {queries[at]:,} and row "
            f"{kth_rows[at]:,} are at {returned.kth[queries[at], 0]:.9g} there and at "
            f"{kth[at]:.9g} here (smaller is nearer)."
        )
    gaps = scores.keys[len(queries) :] - kth[place]
    if truth.excluded_self:
        own = scores.keys[len(queries) :] == vectors.own_keys(queries, truth.metric)[place]
        gaps[own] = np.inf
    missed = gaps < -(scores.errors[len(queries) :] + kth_errors[place])
    if missed.any():
        at = int(np.argmax(missed))
        raise DataError(
            f"the truth is not exact: row {rows[at]:,} is nearer to query {of[at]:,} than its "
            f"k-th neighbour, by {-gaps[at]:.9g}, and is not listed. Check it with haag-vq compare."
        )
    tied[returned.unknown] = gaps <= 0
    return tied


def tied_by_claims(returned: Returned, claims: Any, truth: GroundTruth) -> tuple[Bools, int]:
    """Mark unknown rows that are claimed at the k-th distance; count queries not believed."""
    tolerance = FLOAT32_TOLERANCE if claims.dtype == np.float32 else 0.0
    claimed = claims.astype(np.float64)
    if truth.metric != "l2":
        claimed = -claimed
    scale = np.abs(returned.kth)
    if truth.metric == "cosine":
        scale = np.maximum(scale, 1.0)
    with np.errstate(invalid="ignore"):  # infinity less infinity is off as well
        # Turned about, so that NaN is off.
        off = ~(np.abs(claimed - returned.keys) <= DISBELIEF * scale)
        too_near = ~(claimed >= returned.kth - DISBELIEF * scale)
        equal = np.abs(claimed - returned.kth) <= tolerance * scale
    n_too_near = (returned.unknown & too_near).sum(axis=1)
    disbelieved = (returned.listed & off).any(axis=1) | (n_too_near > truth.excluded_self)
    return returned.unknown & equal & ~disbelieved[:, None], int(disbelieved.sum())


def as_claims(distances: Any, shape: tuple[int, ...]) -> Any:
    """Check a search's distances; (nq, m) float32, float64 or integers."""
    claims = np.asarray(distances)
    if claims.shape != shape:
        raise UsageError(f"result_distances have shape {claims.shape}, the ids {shape}.")
    if claims.dtype.kind not in "iu" and claims.dtype.name not in ("float32", "float64"):
        raise UsageError(
            f"result_distances are {claims.dtype}; float32, float64 or integers are needed to tell "
            "a tie."
        )
    return claims
