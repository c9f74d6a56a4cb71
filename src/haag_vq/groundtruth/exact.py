"""D64 and its fingerprints, compiled: the bits of `groundtruth.d64` at a fifth of the time.

No fused multiply-adds and no reordering of sums, which Numba does not do unless it is asked to
(``fastmath``); tests hold the two against each other.

Rows that are scored lie anywhere in a block that no cache holds. So while one is scored the next,
`ahead`, is asked for, a few cache lines at a time: 0.46 µs a row of 1,024, where asking for all of
it first took 0.60, and not asking 0.7 (measured). An empty `ahead` asks for nothing.

`dot` and `_squared_distance` are the same loop twice: with a branch between their terms inside, it
is 5 to 15% slower (measured); given a term's function, Numba cannot keep what it compiled on disk.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth.compiled import compiled
from haag_vq.groundtruth.prefetch import prefetch

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U64 = NDArray[np.uint64]

L2, IP, COSINE = 0, 1, 2
METRIC_CODES = {"l2": L2, "ip": IP, "cosine": COSINE}

MINUS_ZERO = np.uint32(0x80000000)

# Elements of either half of a row that are taken between two lots of asking: four cache lines.
_STEP = 64


@compiled
def dot(x: F32, y: F32, terms: F64, ahead: F32) -> float:
    """Fold x·y; `terms` has half the padded dimension, which is at least 1 and at most d."""
    half = terms.shape[0]
    n = x.shape[0] - half
    for at in range(0, n, _STEP):
        end = min(at + _STEP, n)
        prefetch(ahead[at:end])
        prefetch(ahead[half + at : half + end])
        # Views from 0 on: an index that could be negative is not vectorized.
        x_low, y_low, x_high, y_high = x[at:end], y[at:end], x[half + at :], y[half + at :]
        sums = terms[at:end]
        for j in range(sums.shape[0]):
            low = np.float64(x_low[j]) * np.float64(y_low[j])
            sums[j] = low + np.float64(x_high[j]) * np.float64(y_high[j])
    prefetch(ahead[n:half])
    x_low, y_low, rest = x[n:half], y[n:half], terms[n:]
    for j in range(rest.shape[0]):
        rest[j] = np.float64(x_low[j]) * np.float64(y_low[j])
    return _fold(terms)  # type: ignore[no-any-return]


@compiled
def _squared_distance(x: F32, y: F32, terms: F64, ahead: F32) -> float:
    """Fold (x − y)²."""
    half = terms.shape[0]
    n = x.shape[0] - half
    for at in range(0, n, _STEP):
        end = min(at + _STEP, n)
        prefetch(ahead[at:end])
        prefetch(ahead[half + at : half + end])
        x_low, y_low, x_high, y_high = x[at:end], y[at:end], x[half + at :], y[half + at :]
        sums = terms[at:end]
        for j in range(sums.shape[0]):
            low = np.float64(x_low[j]) - np.float64(y_low[j])
            high = np.float64(x_high[j]) - np.float64(y_high[j])
            sums[j] = low * low + high * high
    prefetch(ahead[n:half])
    x_low, y_low, rest = x[n:half], y[n:half], terms[n:]
    for j in range(rest.shape[0]):
        low = np.float64(x_low[j]) - np.float64(y_low[j])
        rest[j] = low * low
    return _fold(terms)  # type: ignore[no-any-return]


@compiled
def _fold(terms: F64) -> float:
    """Add halves to each other until one term is left: two foldings at once while they are long."""
    half = terms.shape[0]
    while half >= _STEP:
        quarter = half // 4
        a, b = terms[:quarter], terms[quarter : 2 * quarter]
        c, d = terms[2 * quarter : 3 * quarter], terms[3 * quarter : half]
        for j in range(quarter):
            a[j] = (a[j] + c[j]) + (b[j] + d[j])
        half = quarter
    while half > 1:
        half //= 2
        low, high = terms[:half], terms[half : 2 * half]
        for j in range(half):
            low[j] += high[j]
    return terms[0]  # type: ignore[no-any-return]


@compiled
def exact_key(metric: int, x: F32, q: F32, q_squared_norm: float, terms: F64, ahead: F32) -> float:
    """D64 of a pair, similarities negated: the bits of `d64.keys`."""
    if metric == L2:
        return _squared_distance(x, q, terms, ahead)  # type: ignore[no-any-return]
    product = dot(x, q, terms, ahead)
    if metric == COSINE:
        product /= np.sqrt(dot(x, x, terms, x[:0])) * np.sqrt(q_squared_norm)
    # 0.0 and -0.0 are one distance.
    return -product + 0.0  # type: ignore[no-any-return]


@compiled
def row_hash(x: F32, multipliers: U64) -> np.uint64:
    """Fingerprint a row: the bits of `d64.row_hashes`."""
    bits = x.view(np.uint32)
    total = np.uint64(0)
    for j in range(bits.shape[0]):
        word = np.uint64(0) if bits[j] == MINUS_ZERO else np.uint64(bits[j])
        total += word * multipliers[j]
    return total


@compiled
def padded_dim(d: int) -> int:
    """Smallest power of two that is at least `d`."""
    size = 1
    while size < d:
        size *= 2
    return size


@compiled
def squared_norms(x: F32) -> F64:
    """Squared norms of rows, the bits of `d64.squared_norms`: (n, d) → (n,) float64."""
    out = np.empty(x.shape[0])
    terms = np.empty(max(1, padded_dim(x.shape[1]) // 2))
    for i in range(x.shape[0]):
        out[i] = dot(x[i], x[i], terms, x[i, :0])
    return out
