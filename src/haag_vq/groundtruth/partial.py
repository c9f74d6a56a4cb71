"""Products of the leading dimensions alone, where they show already that most rows are far.

With x = (x′, x″) and q likewise, x·q ≤ x′·q′ + ‖x″‖‖q″‖ (Cauchy and Schwarz). A row that this
bound leaves below a query's ceiling needs no more looking at; the few others have the rest of
their product added one by one. How many dimensions lead is chosen from a sample of pairs, anew as
the ceilings fall: on clustered data, and for models whose first dimensions say most (Matryoshka),
half of them or less can do; where they cannot, all are multiplied as if this did not exist. Queries
differ in it, so they are sorted, and the first of them are multiplied so.

Only what is multiplied depends on the choice, never the answer: the bound is computed in float32
within the error that `bounds` allows for the whole product, if 3 dimensions or more are left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth import bounds
from haag_vq.groundtruth.norms import squared_norms_from
from haag_vq.sources import Metric

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Rows and queries of a sample, of each.
N_SAMPLED = 256

# A choice takes about as long as so many whole products of its sample (measured, d=1024).
CHOICE_COST = 4

# And is made for at least so many times what it takes.
LEAST_USE = 40

# What else a pair takes, in multiply-adds: writing its product and comparing it. And what it takes
# to finish the product of one: to find it, to fetch the row, to multiply the rest (measured).
PAIR_COST = 64
FINISH_COST = 12_000
REST_COST = 16

# What is won must be worth a wrong guess. More than 0.05 · PAIR_COST dimensions are left, so 3.
LEAST_GAIN = 0.05


def least_pairs(nq: int) -> int:
    """Pairs for which it is worth choosing."""
    return LEAST_USE * CHOICE_COST * N_SAMPLED * min(nq, N_SAMPLED)


def least_rows(nq: int) -> int:
    """Rows for which it is worth choosing what is multiplied with `nq` queries."""
    return -(-least_pairs(nq) // max(1, nq))


def sampled(n: int) -> slice:
    """Take a sample of `n` things, evenly spread."""
    return slice(None, None, max(1, -(-n // N_SAMPLED)))


def most_finished(d: int, head: int) -> float:
    """Share of the pairs beyond which it is faster to multiply all whole."""
    return (d - head) / (FINISH_COST + REST_COST * (d - head))


def rests(x: F32, head: int) -> F32:
    """Bound the norms of what follows the first `head` dimensions of vectors (n, d) from above.

    Returns
    -------
    (n,) float32
        Zeros where nothing follows; inf where float32 overflows.
    """
    n, d = x.shape
    if head == d:
        return np.zeros(n, np.float32)
    squared = np.empty(n, np.float32)
    squared_norms_from(head, x, squared)
    with np.errstate(over="ignore"):
        norms: F32 = bounds.norm_ceiling(d, squared.astype(np.float64)).astype(np.float32)
    return np.nextafter(norms, np.float32(np.inf))


def easiest_first(ceilings: F64, squared_norms: F64, metric: Metric) -> I64:
    """Order queries by how far from most rows their ceilings are.

    Parameters
    ----------
    ceilings, squared_norms : (nq,) float64

    Returns
    -------
    (nq,) int64
        Those come first for which fewer dimensions are likely to do: a guess, without any row.
    """
    with np.errstate(all="ignore"):
        least = (squared_norms - ceilings) / 2 if metric == "l2" else -ceilings
        cosines = least if metric == "cosine" else least / np.sqrt(squared_norms)
    return np.argsort(-cosines, kind="stable")


def best_head(x: F32, xq: F32, weights: F32, offsets: F32, floors: F32) -> tuple[int, int]:
    """Choose for pairs like those of a sample what to multiply.

    Parameters
    ----------
    x, xq : (n, d) and (m, d) float32
        Rows and queries, as they are multiplied.
    weights, offsets : (n,) float32
        A value is ``product · weight − offset`` of the row.
    floors : (m,) float32
        Least values of interest.

    Returns
    -------
    head : int
        Leading dimensions; d where fewer would not be faster.
    n_easy : int
        The first so many queries are to be multiplied so, the others whole.

    Notes
    -----
    Memory: three float32 arrays (n, m).
    """
    n, d = x.shape
    step = max(16, -(-d // 256) * 16)
    if d < 2 * step or not np.isfinite(floors).any():
        return d, 0
    starts = np.arange(0, d, step)
    x_rests, q_rests = (_norms_from(v, starts) for v in (x, xq))
    product = np.zeros((n, len(xq)), np.float32)
    numbers = np.arange(1, len(xq) + 1)
    best, most = (d, 0), LEAST_GAIN * len(xq) * (d + PAIR_COST)
    with np.errstate(all="ignore"):  # queries that float32 cannot compare; their floors are inf
        for i, head in enumerate(starts[1:].tolist()):
            if (d - head) * len(xq) <= most:
                break
            leading = slice(head - step, head)
            product += x[:, leading] @ xq[:, leading].T
            values = np.multiply.outer(x_rests[:, i + 1], q_rests[:, i + 1])
            values += product
            values *= weights[:, None]
            values -= offsets[:, None]
            # One more, for what so small a sample cannot see.
            n_left = np.cumsum(np.count_nonzero(values >= floors, axis=0)) + 1
            gains = numbers * (d - head) - n_left / n * (FINISH_COST + REST_COST * (d - head))
            at = int(np.argmax(gains))
            if gains[at] > most:
                best, most = (head, at + 1), gains[at]
    return best


def _norms_from(x: F32, starts: I64) -> F32:
    """Return norms of ``x[:, start:]`` for each start: (n, len(starts)) float32."""
    squared = np.empty((len(x), len(starts)), np.float32)
    with np.errstate(over="ignore"):
        for i, part in enumerate(np.split(x, starts[1:], axis=1)):
            np.einsum("ij,ij->i", part, part, out=squared[:, i])
        return np.sqrt(np.cumsum(squared[:, ::-1], axis=1)[:, ::-1])
