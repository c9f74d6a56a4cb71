"""A truth of which only ids are published (TEXMEX's .ivecs): its distances, from the vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import UsageError
from haag_vq.groundtruth.lists import as_ids, check_within
from haag_vq.groundtruth.pairs import Vectors
from haag_vq.groundtruth.result import GroundTruth
from haag_vq.sources import Metric, check_metric

I64 = NDArray[np.int64]


def score_ids(ids: Any, metric: Metric, base: Any, queries: Any = None) -> GroundTruth:
    """Give the neighbours that a file names their distances, and the order of these.

    Parameters
    ----------
    ids : (nq, k) integers
        Rows of `base`, of each query.
    metric : {"l2", "ip", "cosine"}
    base : dataset, VectorSource or (n, d) array
    queries : (nq, d) array, optional
        A dataset's own when not given.

    Returns
    -------
    GroundTruth
        The same rows of each query, by D64 and, where that is equal, by id: that rows which
        float32 cannot tell apart are in another order in the file is not seen in it.

    Raises
    ------
    UsageError
        If there are not as many queries as lists of ids.
    DataError
        If an id is no row of the base, or padding.

    Notes
    -----
    Memory: as `Vectors.score`, of all pairs; the rows named are read once.
    """
    check_metric(metric)
    found, vectors = as_ids(ids, "the truth"), Vectors.of(base, queries)
    nq, k = found.shape
    if nq != len(vectors.xq):
        raise UsageError(
            f"the truth has {nq:,} queries, {len(vectors.xq):,} were given with the base: query i "
            "of both must be the same."
        )
    check_within(found, vectors.source.n_rows, "the truth")
    if found.size and int(found.min()) < 0:
        raise UsageError("the truth lacks neighbours (id -1): it cannot be scored.")
    of = np.repeat(np.arange(nq), k)
    keys = vectors.score(of, found.ravel(), metric).keys.reshape(nq, k)
    order = np.lexsort((found, keys), axis=1)
    keys = np.take_along_axis(keys, order, 1)
    return GroundTruth(
        np.take_along_axis(found, order, 1),
        keys if metric == "l2" else 0.0 - keys,
        metric,
        vectors.source.n_rows,
        vectors.source.dim,
    )
