"""From a merged part to the answer: certify, leave out the query itself, say what was met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth import d64, exact
from haag_vq.groundtruth.part import Part, finalize
from haag_vq.sources import Metric

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Findings:
    """What the neighbours themselves tell: the same for every run."""

    smallest_margin: float
    """Least difference, over all queries, between the distances of neighbours k and k+1; inf
    where there is no neighbour k+1."""
    n_tied: int
    """Queries of which neighbour k+1 is as near as neighbour k: the smaller ids were taken."""
    n_duplicates: int
    """Neighbours that have the very vector of one listed before them for the same query."""
    n_self_matches: int
    """Queries that are rows of the base, among their own nearest."""
    n_excluded: int
    """Queries of which the own row was left out."""


def finish(
    part: Part,
    xq: F32,
    k: int,
    width: int,
    metric: Metric,
    is_own: Callable[[I64, I64], Bools] | None,
    exclude_self: bool,
) -> tuple[F64, I64, Findings]:
    """Certify lists of `width` and return the answer of k.

    Parameters
    ----------
    part : Part
        All rows of the base.
    xq : (nq, d) float32
    is_own : callable, optional
        Tells for queries (m,) and ids (m,) of equal vectors whether the id is the query's own
        row. Without it, the first row with the query's vector is taken for that.
    exclude_self : bool
        Leave out each query's own row.

    Returns
    -------
    keys : (nq, k) float64
    ids : (nq, k) int64
    findings : Findings

    Raises
    ------
    CertificateError
        If the answer is not proven.
    """
    keys, ids, hashes = finalize(part, width)
    equal = _equal_to_query(keys, hashes, xq, metric)
    own = _own_entries(equal, ids, is_own)
    n_self = int(equal.any(axis=1).sum())
    n_excluded = 0
    if exclude_self:
        n_excluded = int(own.any(axis=1).sum())
        # Entries after the one left out move up; the last place is then not known.
        order = np.argsort(own, axis=1, kind="stable")
        keys = np.take_along_axis(np.where(own, np.inf, keys), order, 1)
        ids = np.take_along_axis(ids, order, 1)
        hashes = np.take_along_axis(hashes, order, 1)
    margins = np.full(len(keys), np.inf)
    if keys.shape[1] > k:
        margins = keys[:, k] - keys[:, k - 1]
    findings = Findings(
        float(margins.min()),
        int((margins == 0).sum()),
        _count_duplicates(keys[:, :k], hashes[:, :k]),
        n_self,
        n_excluded,
    )
    return keys[:, :k].copy(), ids[:, :k].copy(), findings


def _equal_to_query(keys: F64, hashes: U64, xq: F32, metric: Metric) -> Bools:
    """Which entries (nq, w) have the query's own vector: its fingerprint and its distance."""
    squared = exact.squared_norms(xq)
    if metric == "l2":
        own_keys = np.zeros(len(xq))
    elif metric == "ip":
        own_keys = 0.0 - squared
    else:
        own_keys = -(squared / (np.sqrt(squared) * np.sqrt(squared)))
    return np.asarray((hashes == d64.row_hashes(xq)[:, None]) & (keys == own_keys[:, None]))


def _own_entries(equal: Bools, ids: I64, is_own: Callable[[I64, I64], Bools] | None) -> Bools:
    """Of the entries with the query's vector, the one (at most) that is the query's own row."""
    if is_own is None:
        return np.asarray(equal & (np.cumsum(equal, axis=1) == 1))
    own = np.zeros_like(equal)
    queries, places = np.nonzero(equal)
    if len(queries):
        own[queries, places] = is_own(queries, ids[queries, places])
    return own


def _count_duplicates(keys: F64, hashes: U64) -> int:
    """Count entries with the distance and fingerprint of another before them."""
    tied = np.flatnonzero((keys[:, 1:] == keys[:, :-1]).any(axis=1))
    if not len(tied):
        return 0
    order = np.lexsort((hashes[tied], keys[tied]), axis=-1)
    some_keys = np.take_along_axis(keys[tied], order, 1)
    some_hashes = np.take_along_axis(hashes[tied], order, 1)
    same = (some_keys[:, 1:] == some_keys[:, :-1]) & (some_hashes[:, 1:] == some_hashes[:, :-1])
    return int(same.sum())
