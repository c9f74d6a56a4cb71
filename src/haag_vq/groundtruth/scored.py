"""A truth of which only ids are published (TEXMEX's .ivecs): its distances, from the vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import DataError, UsageError
from haag_vq.groundtruth import d64
from haag_vq.groundtruth.lists import as_ids, check_within
from haag_vq.groundtruth.manifest import sha256_of
from haag_vq.groundtruth.pairs import BATCH_BYTES, Scores, Vectors
from haag_vq.groundtruth.result import GroundTruth
from haag_vq.memory import PROCESS_BYTES, Projection, check_fits, process_allowance, rss_bytes
from haag_vq.sources import Metric

I64 = NDArray[np.int64]

# Of a (query, id) pair: ids, places, keys, errors, their orders. 92 to 104 measured.
PAIR_BYTES = 120


def score_ids(
    ids: Any, metric: Metric, base: Any, queries: Any = None, *, name: str = "the truth"
) -> GroundTruth:
    """Give the neighbours that a file names their distances, and the order of these.

    Parameters
    ----------
    ids : (nq, k) integers
        Rows of `base`, of each query, nearest first.
    metric : {"l2", "ip", "cosine"}
    base : dataset, VectorSource or (n, d) array
    queries : (nq, d) array, optional
        A dataset's own when not given.
    name : str
        What messages call the ids.

    Returns
    -------
    GroundTruth
        The same rows of each query, by D64 and, where that is equal, by id: in which order a file
        has rows that float32 cannot tell apart is not seen in it.

    Raises
    ------
    UsageError
        If there are not as many queries as lists of ids, or no ids.
    DataError
        If an id is no row of the base, or padding; a list is not in the metric's order, by more
        than float32 errs; or a query is zero and the metric cosine.
    InsufficientMemoryError
        If it would not fit; no rows have been read then.

    Notes
    -----
    Memory: 120 bytes for each id, 32 MiB of rows and the source's scratch. The rows named are
    read once.
    """
    if metric not in ("l2", "ip", "cosine"):
        raise UsageError(f"metric {metric!r}: ids are scored by 'l2', 'ip' or 'cosine'.")
    found, vectors = as_ids(ids, name), Vectors.of(base, queries)
    _check(found, vectors, metric, name)
    nq, k = found.shape
    scores = vectors.score(np.repeat(np.arange(nq), k), found.ravel(), metric)
    _check_order(found, scores, metric, name)
    keys = scores.keys.reshape(nq, k)
    order = np.lexsort((found, keys), axis=1)
    keys = np.take_along_axis(keys, order, 1)
    return GroundTruth(
        np.take_along_axis(found, order, 1),
        keys if metric == "l2" else 0.0 - keys,
        metric,
        vectors.source.n_rows,
        vectors.source.dim,
        vectors.fingerprint,
        sha256_of(vectors.xq),
        dataset=str(getattr(base, "name", "")),
        query_source=str(getattr(base, "query_origin", "")) if queries is None else "",
    )


def _check(ids: I64, vectors: Vectors, metric: Metric, name: str) -> None:
    """Refuse ids that cannot be scored, or would not fit."""
    nq, k = ids.shape
    if nq != len(vectors.xq) or not ids.size:
        raise UsageError(
            f"{name} has {nq:,} queries × {k:,} ids, {len(vectors.xq):,} queries were given with "
            "the base: query i of both must be the same."
        )
    check_within(ids, vectors.source.n_rows, name)
    if int(ids.min()) < 0:
        query, rank = (int(n) for n in np.argwhere(ids < 0)[0])
        raise DataError(
            f"{name} has no neighbour at rank {rank + 1:,} of query {query:,} (id "
            f"{ids[query, rank]}): it cannot be scored."
        )
    if metric == "cosine":
        zero = np.flatnonzero(d64.squared_norms(vectors.xq) == 0)
        if len(zero):
            raise DataError(f"query {zero[0]:,} is zero: the cosine with it is not defined.")
    projection = Projection(
        BATCH_BYTES,
        scratch_bytes=vectors.source.scratch_bytes,
        search_bytes=PAIR_BYTES * ids.size,
        process_bytes=max(PROCESS_BYTES, rss_bytes()),
    )
    remedy = "Take fewer queries."
    check_fits(f"scoring {ids.size:,} ids", projection, process_allowance(), remedy)


def _check_order(ids: I64, scores: Scores, metric: Metric, name: str) -> None:
    """Raise DataError where a list is out of order by more than float32 may err on two rows."""
    keys, errors = (part.reshape(ids.shape) for part in (scores.keys, scores.errors))
    fall = keys[:, :-1] - keys[:, 1:]
    wrong = fall > 2 * (errors[:, :-1] + errors[:, 1:])
    if wrong.any():
        query, rank = (int(n) for n in np.argwhere(wrong)[0])
        raise DataError(
            f"{name} is not in the order of {metric}: row {ids[query, rank + 1]:,}, at rank "
            f"{rank + 2:,} of query {query:,}, is nearer than row {ids[query, rank]:,} before it, "
            f"by {fall[query, rank]:.9g}. Is it of another metric, or of other vectors?"
        )
