"""Norms of rows, and what float32 can do with rows and queries of such norms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import DataError
from haag_vq.groundtruth import bounds
from haag_vq.groundtruth.compiled import compiled_in_any_order
from haag_vq.sources import Metric

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@compiled_in_any_order
def squared_norms_from(first: int, x: F32, out: F32) -> None:
    """Fill `out` (n,) with the sums of squares of what rows (n, d) hold from `first` on.

    Half the time of NumPy's einsum (0.2 µs a row of 1,024 from the second-level cache, measured).
    """
    for i in range(x.shape[0]):
        row = x[i, first:]
        total = np.float32(0)
        for j in range(row.shape[0]):
            total += row[j] * row[j]
        out[i] = total


def measure(x: F32, first_id: int, metric: Metric, out: F32) -> None:
    """Fill `out` (n,) with squared norms of rows (n, d), summed in float32; inf on overflow.

    Raises
    ------
    DataError
        If a row is zero and the metric is cosine: rows of the base are named from `first_id` on.
    """
    squared_norms_from(0, x, out)
    if metric != "cosine":
        return
    # The float32 norm underflows to 0 for rows that are tiny but not zero.
    zero = [int(row) for row in np.flatnonzero(out == 0) if not x[row].any()]
    if zero:
        raise DataError(
            f"{len(zero):,} zero vector(s) in rows {first_id:,}:{first_id + len(x):,} of the "
            f"base, the first at row {first_id + zero[0]:,}: the cosine with a zero vector is "
            "not defined. Remove these rows, or use metric l2 or ip."
        )


def longest(squared_norms: F32, d: int) -> float:
    """No row of these squared norms is longer than this; inf where float32 overflowed."""
    return float(bounds.norm_ceiling(d, float(squared_norms.max())))


def safe_queries(squared_norms: F32, d: int, q_norms: F64, metric: Metric) -> NDArray[np.bool_]:
    """Which queries float32 can compare with all these rows, without overflow or underflow.

    Returns
    -------
    (nq,) bool
        Where False, float32 says nothing and only D64 does.
    """
    most = longest(squared_norms, d)
    if metric == "l2":
        return np.asarray((most + q_norms) ** 2 < bounds.L2_LIMIT)
    if metric == "ip":
        # Norms enter too: an infinite one would make the bound infinite, or with a zero query
        # not a number.
        if not np.isfinite(most):
            return np.zeros(len(q_norms), bool)
        return np.asarray(most * q_norms < bounds.IP_LIMIT)
    low, high = bounds.COSINE_NORM_RANGE
    inside = low < float(np.sqrt(squared_norms.min())) and most < high
    return np.asarray(inside & (low < q_norms) & (q_norms < high))


def inverse_roots(squared_norms: F32) -> F32:
    """1/‖x‖, rounded once: (n,) float32."""
    return (1 / np.sqrt(squared_norms, dtype=np.float64)).astype(np.float32)
