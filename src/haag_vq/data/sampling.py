"""Row numbers drawn by pure integer arithmetic: the same for ever, whatever NumPy's version.

A keyed permutation of ``0 … n - 1`` is drawn upon from its beginning, so a sample depends only
on (n_rows, n, seed), takes memory for itself alone (no table of the population), and contains
every smaller sample of the same seed. The permutation is a six-round Feistel network over the
next even number of bits, walked until it lands inside the range (Black and Rogaway, "Ciphers
with arbitrary finite domains", CT-RSA 2002), with splitmix64's mixing function (Steele, Lea and
Flood, OOPSLA 2014) as its round function.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import UsageError, whole_number

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

N_ROUNDS = 6


def sample_rows(n_rows: int, n: int, seed: int, run_rows: int = 1) -> I64:
    """Draw `n` different rows of `n_rows`, in ascending order.

    Parameters
    ----------
    n_rows, n : int
    seed : int
        Any non-negative integer.
    run_rows : int
        Draw runs of this many consecutive rows instead of single ones. A Parquet row group
        is decoded whole for one row of it: runs of its size bound that, at the price of a
        sample whose rows are not independent.

    Returns
    -------
    (n,) int64, ascending

    Raises
    ------
    UsageError
        If `n` is not in ``0 … n_rows``, or `run_rows` or `seed` is out of range.
    """
    n, seed = whole_number("n", n), whole_number("seed", seed)
    run_rows = whole_number("run_rows", run_rows)
    if not 0 <= n <= n_rows:
        raise UsageError(f"a sample of {n:,} of {n_rows:,} rows: take 0 to that.")
    if run_rows < 1 or seed < 0:
        raise UsageError(f"run_rows={run_rows} must be at least 1 and seed={seed} at least 0.")
    n_runs = -(-n_rows // run_rows)
    needed = -(-n // run_rows)
    runs = _first_of_permutation(n_runs, min(n_runs, needed + 1), seed)
    # The last run may be short; one run more than needed makes up for it.
    lengths = np.minimum(run_rows, n_rows - runs * run_rows)
    used = int(np.searchsorted(np.cumsum(lengths), n)) + 1 if n else 0
    runs, lengths = runs[:used], lengths[:used].copy()
    if used:
        lengths[-1] -= int(lengths.sum()) - n
    order = np.argsort(runs)
    runs, lengths = runs[order], lengths[order]
    first = np.repeat(runs * run_rows, lengths)
    offsets = np.arange(n) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows: I64 = first + offsets
    return rows


def _first_of_permutation(size: int, n: int, seed: int) -> I64:
    """Images of 0 … n-1 under a keyed permutation of 0 … size-1."""
    if size <= 1:
        return np.zeros(min(n, size), np.int64)
    half_bits = np.uint64(((size - 1).bit_length() + 1) // 2)
    first_key = (seed * (N_ROUNDS + 1)) % 2**64
    keys = _mix(np.array([(first_key + i) % 2**64 for i in range(N_ROUNDS)], dtype=np.uint64))
    values = _feistel(np.arange(n, dtype=np.uint64), half_bits, keys)
    outside = np.flatnonzero(values >= np.uint64(size))
    while len(outside):
        values[outside] = _feistel(values[outside], half_bits, keys)
        outside = outside[values[outside] >= np.uint64(size)]
    return values.astype(np.int64)


def _feistel(values: U64, half_bits: np.uint64, keys: U64) -> U64:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half_bits) | right


def _mix(x: U64) -> U64:
    """splitmix64's finalizer; wraps around modulo 2⁶⁴ on purpose."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
