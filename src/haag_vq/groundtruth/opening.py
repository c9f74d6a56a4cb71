"""The first ceilings of a job: FAISS searches some rows where nothing is known yet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth import bounds, engine
from haag_vq.groundtruth.norms import inverse_roots, longest, safe_queries
from haag_vq.groundtruth.workspace import Workspace
from haag_vq.sources import Metric

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# Enough rows for ceilings that spare most candidates of the others. Of 256 to 2,048 none is faster
# (measured, k=100); what FAISS multiplies, the tiles multiply again.
LEAST_ROWS = 512


def opening_rows(k: int) -> int:
    """Rows that FAISS searches first."""
    return max(LEAST_ROWS, 4 * k)


def first_ceilings(
    x: F32,
    squared_norms: F32,
    xq: F32,
    q_norms: F64,
    k: int,
    metric: Metric,
    workspace: Workspace,
) -> F64:
    """Bound the k-th key of each query from above by FAISS's k-th distance and its error.

    Parameters
    ----------
    x : (n, d) float32
        Rows of the base, n ≥ k; `squared_norms` (n,) are theirs.
    xq : (nq, d) float32
        Queries, normalized for cosine; `q_norms` (nq,) are those of the original ones.

    Returns
    -------
    (nq,) float64
        At least k of the rows have keys no larger; inf where float32 cannot tell.

    Notes
    -----
    Memory: FAISS's (`opening_bytes`).
    """
    d = x.shape[1]
    ceilings = np.full(len(xq), np.inf)
    chosen = np.flatnonzero(safe_queries(squared_norms, d, q_norms, metric))
    if not len(chosen):
        return ceilings
    if metric == "cosine":
        unit = workspace.array("unit rows", x.shape, np.float32)
        x = np.multiply(x, inverse_roots(squared_norms)[:, None], out=unit)
    picked = xq if len(chosen) == len(xq) else xq[chosen]
    D, I = engine.knn(picked, x, k, metric != "l2")
    found = (I >= 0).all(axis=1)
    last, chosen = D[found, -1].astype(np.float64), chosen[found]
    if metric == "l2":
        ceilings[chosen] = bounds.l2_ceiling(d, q_norms[chosen], last)
    elif metric == "ip":
        ceilings[chosen] = -last + bounds.ip_error(d, q_norms[chosen], longest(squared_norms, d))
    else:
        ceilings[chosen] = -last + bounds.cosine_error(d)
    return ceilings


def opening_bytes(nq: int, d: int, k: int, metric: Metric) -> int:
    """Most bytes that `first_ceilings` allocates."""
    batch = min(nq, engine.TILE_QUERIES)
    # A tile of distances, reservoirs of 2k a query of it, what is returned, and queries picked.
    own = batch * (engine.TILE_ROWS * 4 + 2 * k * 12) + nq * k * 12 + nq * d * 4
    return own + (opening_rows(k) * d * 4 if metric == "cosine" else 0)
