"""D64: the one definition of distance, whose bits do not depend on the machine.

Every float32 row and query is widened to float64, terms are formed element by element, padded
with zeros to a power of two and summed by halving: ``t[:h] += t[h:]``. Elementwise additions
have the same bits on every CPU and in every NumPy; a library's own sum, einsum or a matrix
product does not promise that. One condition: the process must not have been set to take denormal
numbers for zero, as a library compiled with ``-ffast-math`` can do; components below 1.2e-38
would then be lost.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from haag_vq.sources import Metric

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U64 = NDArray[np.uint64]

# Rows scored at once: 2 MiB of terms at d=1024, which stays in the L2 cache. Arbitrary.
PIECE_BYTES = 2 << 20


def fold(terms: F64) -> F64:
    """Sum (n, 2^p) terms along the last axis by halving. The terms are consumed."""
    half = terms.shape[1]
    while half > 1:
        half //= 2
        terms[:, :half] += terms[:, half : 2 * half]
    return terms[:, 0].copy()


def padded_dim(d: int) -> int:
    """Smallest power of two that is at least `d`."""
    return 1 << (d - 1).bit_length()


def piece_rows(d: int) -> int:
    """Rows that `keys` scores at once."""
    return max(1, PIECE_BYTES // (8 * padded_dim(d)))


def squared_norms(x: F32) -> F64:
    """D64 of each row with itself, x·x: (n, d) → (n,) float64."""
    out = np.empty(len(x))
    step = piece_rows(x.shape[1])
    for at in range(0, len(x), step):
        terms = _padded(x[at : at + step])
        np.multiply(terms, terms, out=terms)
        out[at : at + step] = fold(terms)
    return out


def keys(x: F32, q: F32, metric: Metric, q_squared_norm: float) -> F64:
    """Score rows against one query: smaller is nearer, whatever the metric.

    Parameters
    ----------
    x : (n, d) float32
    q : (d,) float32
    metric : {"l2", "ip", "cosine"}
    q_squared_norm : float
        ``squared_norms(q[None])[0]``; used for cosine only.

    Returns
    -------
    (n,) float64
        Squared distance for l2; the negated inner product or cosine otherwise.

    Notes
    -----
    cosine is ``x·q / (√x·x · √q·q)``, each sum folded. Memory: about 4 MiB.
    """
    n, d = x.shape
    wide = np.zeros(padded_dim(d))
    wide[:d] = q
    out = np.empty(n)
    step = piece_rows(d)
    for at in range(0, n, step):
        terms = _padded(x[at : at + step])
        if metric == "cosine":
            norms = np.sqrt(fold(terms * terms))
        if metric == "l2":
            np.subtract(terms, wide, out=terms)
            np.multiply(terms, terms, out=terms)
            out[at : at + step] = fold(terms)
            continue
        np.multiply(terms, wide, out=terms)
        dots = fold(terms)
        if metric == "cosine":
            dots /= norms * np.sqrt(q_squared_norm)
        out[at : at + step] = -dots
    # -0.0 and 0.0 are one distance and must be one bit pattern.
    out += 0.0
    return out


def row_hashes(x: F32) -> U64:
    """Fingerprint rows by their values: (n, d) float32 → (n,) uint64.

    Equal rows have equal fingerprints (0.0 and -0.0 are equal); unlike rows of equal D64 share
    one with a chance of about 2⁻³². Multilinear hashing: the sum of each component's bits times
    an odd constant of its place, modulo 2⁶⁴. Memory: about 4 MiB.
    """
    out = np.empty(len(x), np.uint64)
    multipliers = hash_multipliers(x.shape[1])
    step = piece_rows(x.shape[1])
    for at in range(0, len(x), step):
        bits = (x[at : at + step] + np.float32(0)).view(np.uint32).astype(np.uint64)
        out[at : at + step] = (bits * multipliers).sum(axis=1, dtype=np.uint64)
    return out


@cache
def hash_multipliers(d: int) -> U64:
    """(d,) odd uint64, by the SplitMix64 sequence: the same for every machine and version."""
    z = np.arange(1, d + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) | np.uint64(1)


def _padded(x: F32) -> F64:
    terms = np.zeros((len(x), padded_dim(x.shape[1])))
    terms[:, : x.shape[1]] = x
    return terms
