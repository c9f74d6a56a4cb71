"""Recall: how many of the true neighbours a search returned.

Where several rows lie exactly as far as the k-th neighbour, any of them may stand at the last
places, and a search must not be blamed for its choice. So two recalls are reported:

- strict: the share of the truth's k ids that were returned;
- tie-aware: the largest strict recall over all exact answers, of which the truth is one. With s
  neighbours strictly nearer than the k-th distance it is (returned of the s + the smaller of
  k − s and returned at exactly the k-th distance) / k. It is 1 only for an exact answer:
  returning more of the tied rows does not make up for a nearer one that is missing, as it does
  where every row up to the k-th distance counts (ann-benchmarks, big-ann-benchmarks).

What counts as "at exactly the k-th distance" is told in `haag_vq.groundtruth.ties`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import UsageError, whole_number
from haag_vq.groundtruth.lists import as_ids, check_within, checked_keys
from haag_vq.groundtruth.pairs import Vectors
from haag_vq.groundtruth.result import GroundTruth, check_truth
from haag_vq.groundtruth.ties import as_claims, look_up, tied_by_claims, tied_by_vectors

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RecallReport:
    """Recall@k of each query, and what was met on the way."""

    k: int
    recalls: F64
    """(nq,) tie-aware recall, 0 to 1."""
    strict_recalls: F64
    """(nq,) by ids alone: never above the tie-aware one."""
    n_duplicates: int
    """Returned ids, in the first k columns, that their query had already; they count once."""
    n_padding: int
    """Places of the first k columns with id -1."""
    n_disbelieved: int = 0
    """Queries whose claimed distances the truth contradicts; they were judged by ids."""

    @property
    def mean(self) -> float:
        """Mean tie-aware recall over the queries."""
        return _mean(self.recalls, self.k)

    @property
    def strict_mean(self) -> float:
        """Mean recall by ids alone."""
        return _mean(self.strict_recalls, self.k)

    @property
    def min(self) -> float:
        """Tie-aware recall of the worst query."""
        return float(self.recalls.min())

    def __str__(self) -> str:
        return (
            f"recall@{self.k} {self.mean:.4f} ({self.strict_mean:.4f} by ids alone, worst query "
            f"{self.min:.4f}, {len(self.recalls):,} queries)"
        )


def recall(
    result_ids: Any,
    truth: GroundTruth,
    k: int | None = None,
    *,
    result_distances: Any = None,
    base: Any = None,
    queries: Any = None,
) -> RecallReport:
    """Score a search's result against ground truth.

    Parameters
    ----------
    result_ids : (nq, m) integers
        Row numbers, best first; -1 where nothing was found. The first k columns are scored.
    truth : GroundTruth
        Of the same queries, in the same order. Wider than k, it tells more ties.
    k : int, optional
        By default the smaller of m and the truth's k.
    result_distances : (nq, m) float32, float64 or integers, optional
        The search's own, in the truth's convention (squared for l2). They are believed
        as far as `haag_vq.groundtruth.ties` says.
    base : dataset, VectorSource or (n, d) array, optional
        The vectors: settles every tie, whatever distances are claimed.
    queries : (nq, d) array, optional
        With `base`; a dataset's own when not given.

    Returns
    -------
    RecallReport

    Raises
    ------
    UsageError
        If shapes differ, k is larger than the result or the truth, or ids are no integers.
    DataError
        If ids are outside the base, or the truth is none: not in order, or not exact for `base`.

    Notes
    -----
    Memory: about 60 bytes for each id of the result and the truth; with `base` 32 MiB more and
    the source's scratch. Only rows that the truth does not list are read, and the k-th
    neighbours of their queries.
    """
    check_truth("truth", truth)
    ids = as_ids(result_ids, "the result")
    k = _check_shapes(ids, truth, k)
    check_within(ids, truth.n_rows, "the result")
    keys = checked_keys(truth, k, "the truth")
    returned = look_up(ids[:, :k], truth, keys)
    tied, n_disbelieved = returned.tied, 0
    if base is not None:
        tied |= tied_by_vectors(returned, truth, Vectors.of(base, queries))
    elif result_distances is not None:
        claims = as_claims(result_distances, ids.shape)[:, :k]
        claimed, n_disbelieved = tied_by_claims(returned, claims, truth)
        tied |= claimed
    n_places = k - (keys[:, :k] < returned.kth).sum(axis=1)
    return RecallReport(
        k,
        (returned.nearer.sum(axis=1) + np.minimum(tied.sum(axis=1), n_places)) / k,
        returned.in_truth.sum(axis=1) / k,
        int(((returned.ids >= 0) & ~returned.fresh).sum()),
        int((returned.ids < 0).sum()),
        n_disbelieved,
    )


def _mean(recalls: F64, k: int) -> float:
    # Of whole neighbours: the mean of six times 0.8 is 0.8, to the last bit.
    return float(np.rint(recalls * k).sum()) / (k * len(recalls))


def _check_shapes(ids: I64, truth: GroundTruth, k: int | None) -> int:
    """Return k; UsageError unless result and truth have the same queries and at least k columns."""
    nq, m = ids.shape
    if nq != truth.n_queries:
        raise UsageError(
            f"the result has {nq:,} queries, the truth {truth.n_queries:,}: row i of both must be "
            "query i."
        )
    most = min(m, truth.k)
    k = most if k is None else whole_number("k", k)
    if not nq or not 1 <= k <= most:
        raise UsageError(
            f"recall@{k:,} cannot be had from a result of shape {ids.shape} and a truth of k="
            f"{truth.k:,}: take k from 1 to {most:,}."
        )
    return k
