"""Vectors that make exact search hard, each by a name that says why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from haag_vq.sources import Metric

F32 = NDArray[np.float32]
METRICS: tuple[Metric, ...] = ("l2", "ip", "cosine")

LEAST = np.float32(2.0**-149)
"""The smallest positive float32."""


def rows_of(kind: str, n: int, d: int, seed: int, metric: Metric = "l2") -> F32:
    """Make (n, d) float32 vectors of a kind; none is zero where the metric is cosine."""
    x = np.ascontiguousarray(KINDS[kind](n, d, np.random.default_rng(seed)), np.float32)
    if not np.isfinite(x).all():
        raise AssertionError(f"{kind} made vectors that are not finite")
    if metric == "cosine" and n:
        x[~x.any(axis=1), 0] = LEAST
    return x


def pair_of(kind: str, n: int, nq: int, d: int, seed: int, metric: Metric) -> tuple[F32, F32]:
    """Make a base and queries of one kind; every other query is a row of the base."""
    both = rows_of(kind, n + nq, d, seed, metric)
    order = np.random.default_rng(seed + 1).permutation(n + nq)
    x, xq = both[order[:n]].copy(), both[order[n:]].copy()
    if n:
        xq[::2] = x[:: max(1, n // nq)][: len(xq[::2])][np.arange(len(xq[::2])) % n]
    return x, xq


def _normal(n: int, d: int, rng: np.random.Generator) -> F32:
    return rng.standard_normal((n, d), dtype=np.float32)


def _duplicated(n: int, d: int, rng: np.random.Generator) -> F32:
    """Groups of 40 equal rows: the k-th place is a tie."""
    return np.repeat(_normal(n // 40 + 1, d, rng), 40, axis=0)[:n]


def _one_ulp_apart(n: int, d: int, rng: np.random.Generator) -> F32:
    """Groups of 40 that differ by one unit in the last place: float32 sums cannot tell."""
    x = _duplicated(n, d, rng)
    up = np.nextafter(x, np.float32(np.inf))
    return np.where(rng.random(x.shape) < 1 / d, up, x)


def _all_equal(n: int, d: int, rng: np.random.Generator) -> F32:
    return np.repeat(_normal(1, d, rng), n, axis=0)


def _scaled(scale: float) -> Callable[[int, int, np.random.Generator], F32]:
    """Rows of about this norm, or with this largest component where float32 ends."""

    def make(n: int, d: int, rng: np.random.Generator) -> F32:
        x = _normal(n, d, rng).astype(np.float64)
        x *= scale / np.sqrt(d)
        return np.clip(x, -3.4e38, 3.4e38).astype(np.float32)

    return make


def _denormal(n: int, d: int, rng: np.random.Generator) -> F32:
    return rng.integers(-5, 6, (n, d)).astype(np.float32) * LEAST


def _integers(n: int, d: int, rng: np.random.Generator) -> F32:
    """Small integers: float32 sums are exact and ties are many."""
    return rng.integers(-3, 4, (n, d)).astype(np.float32)


def _offset(n: int, d: int, rng: np.random.Generator) -> F32:
    """A common mean 25 times the spread: ‖x‖² + ‖q‖² − 2x·q cancels."""
    return _normal(n, d, rng) + np.float32(25)


def _cancelling(n: int, d: int, rng: np.random.Generator) -> F32:
    """Products that cancel in pairs of opposite sign and leave the small ones."""
    x = _normal(n, d, rng)
    half = d // 2
    x[:, :half] = np.float32(2.0**12) * (1 + x[:, :half] * np.float32(2.0**-20))
    sign = np.where(rng.random((n, 1)) < 0.5, -1, 1).astype(np.float32)
    x[:, half : 2 * half] = sign * x[:, :half]
    return x


def _some_zero(n: int, d: int, rng: np.random.Generator) -> F32:
    return _normal(n, d, rng) * (rng.random((n, 1)) < 0.7).astype(np.float32)


def _far_outlier(n: int, d: int, rng: np.random.Generator) -> F32:
    """Near rows, among them a few that are 10^12 times as long."""
    x = _normal(n, d, rng)
    x[rng.random(n) < 0.02] *= np.float32(1e12)
    return x


def _binary(n: int, d: int, rng: np.random.Generator) -> F32:
    """Zeros and ones: distances are small integers, most of them shared by many rows."""
    return rng.integers(0, 2, (n, d)).astype(np.float32)


def _one_hot(n: int, d: int, rng: np.random.Generator) -> F32:
    """A single 1: two distances in all."""
    return np.eye(d, dtype=np.float32)[rng.integers(0, d, n)]


def _sparse(n: int, d: int, rng: np.random.Generator) -> F32:
    """One component in twenty: most products are 0, and so are many rows."""
    return _normal(n, d, rng) * (rng.random((n, d)) < 0.05).astype(np.float32)


def _two_far_clusters(n: int, d: int, rng: np.random.Generator) -> F32:
    """Around 1000 and -1000, spread by a thousandth: float32 sees two points."""
    centre = np.where(rng.random((n, 1)) < 0.5, -1000, 1000).astype(np.float32)
    return centre + _normal(n, d, rng) * np.float32(1e-3)


def _at_the_limits(n: int, d: int, rng: np.random.Generator) -> F32:
    """Norms on both sides of where float32 is given up: 2^63 for l2 and 2^±40 for cosine."""
    exponent = rng.choice([-41, -40, -39, 39, 40, 41, 61, 62, 63, 64], (n, 1))
    x = _normal(n, d, rng).astype(np.float64)
    x *= 2.0**exponent / np.sqrt((x**2).sum(axis=1, keepdims=True))
    return x.astype(np.float32)


def _mixture(n: int, d: int, rng: np.random.Generator) -> F32:
    """Rows of all the other kinds."""
    kinds = [make for name, make in KINDS.items() if name != "mixture"]
    made = np.stack([make(n, d, rng) for make in kinds])
    return np.asarray(made[rng.integers(0, len(kinds), n), np.arange(n)])


def _moderate_mixture(n: int, d: int, rng: np.random.Generator) -> F32:
    """The kinds whose distances float32 can hold."""
    names = ("normal", "duplicated", "one ulp apart", "integers", "offset", "some zero")
    made = np.stack([KINDS[name](n, d, rng) for name in names])
    return np.asarray(made[rng.integers(0, len(names), n), np.arange(n)])


KINDS: dict[str, Callable[[int, int, np.random.Generator], F32]] = {
    "normal": _normal,
    "duplicated": _duplicated,
    "one ulp apart": _one_ulp_apart,
    "all equal": _all_equal,
    "norm 1e19": _scaled(1e19),
    "norm 3e38": _scaled(3e38),
    "norm 1e-22": _scaled(1e-22),
    "norm 1e-30": _scaled(1e-30),
    "denormal": _denormal,
    "integers": _integers,
    "offset": _offset,
    "cancelling": _cancelling,
    "some zero": _some_zero,
    "far outlier": _far_outlier,
    "binary": _binary,
    "one-hot": _one_hot,
    "sparse": _sparse,
    "two far clusters": _two_far_clusters,
    "at the limits": _at_the_limits,
    "mixture": _mixture,
    "moderate mixture": _moderate_mixture,
}

kinds = st.sampled_from(sorted(KINDS))
metrics = st.sampled_from(METRICS)
seeds = st.integers(0, 2**31 - 1)
