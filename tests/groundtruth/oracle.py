"""Brute force that shares no code with the package: what every answer is compared with.

Two of them. `distances` and `neighbours` are D64 by another way than the package's: whole
arrays, no pieces, no buffers reused, no FAISS; answers must equal them to the bit. `exact_keys`
is the real number itself, as a fraction, for the few rows that can afford it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def halving_sum(terms: Any) -> F64:
    """Sum (…, d) along the last axis: zeros up to a power of two, then first half + second."""
    d = terms.shape[-1]
    size = 1
    while size < d:
        size *= 2
    total = np.concatenate((terms, np.zeros((*terms.shape[:-1], size - d))), axis=-1)
    while size > 1:
        size //= 2
        total = total[..., :size] + total[..., size:]
    return np.asarray(total[..., 0])


def distances(x: Any, xq: Any, metric: str) -> F64:
    """D64 of every pair, similarities negated: (n, d), (nq, d) → (nq, n) float64."""
    rows = np.array(x, dtype=np.float64)
    found = np.empty((len(xq), len(rows)))
    for i, query in enumerate(np.array(xq, dtype=np.float64)):
        if metric == "l2":
            found[i] = halving_sum((rows - query) ** 2)
        elif metric == "ip":
            found[i] = -halving_sum(rows * query)
        else:
            length = np.sqrt(halving_sum(rows * rows)) * np.sqrt(halving_sum(query * query))
            found[i] = -(halving_sum(rows * query) / length)
    return np.where(found == 0, 0.0, found)


def neighbours(x: Any, xq: Any, k: int, metric: str) -> tuple[F64, I64]:
    """The k smallest (D64, id) of each query: (nq, min(k, n)) keys and ids."""
    keys = distances(x, xq, metric)
    ids = np.broadcast_to(np.arange(keys.shape[1]), keys.shape)
    order = np.lexsort((ids, keys))[:, :k]
    return np.take_along_axis(keys, order, 1), order.astype(np.int64)


def exact_keys(x: Any, query: Any, metric: str) -> list[Fraction]:
    """The real numbers that D64 approximates, for l2 and ip: n fractions."""
    q = [Fraction(float(v)) for v in query]
    found = []
    for row in x:
        r = [Fraction(float(v)) for v in row]
        if metric == "l2":
            found.append(sum(((a - b) ** 2 for a, b in zip(r, q, strict=True)), Fraction(0)))
        else:
            found.append(-sum((a * b for a, b in zip(r, q, strict=True)), Fraction(0)))
    return found


def exact_square(x: Any) -> list[Fraction]:
    """Exact squared norm of each row of (n, d)."""
    return [sum((Fraction(float(v)) ** 2 for v in row), Fraction(0)) for row in x]
