"""D64: defined by its bits, so its bits are tested."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from haag_vq.groundtruth import d64
from haag_vq.sources import Metric
from tests.groundtruth import oracle
from tests.groundtruth.cases import METRICS, kinds, metrics, pair_of, seeds

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# Roundings on the way of one term: its difference, its square, and one addition a halving.
U64 = 2.0**-53


def paired_sum(terms: list[float]) -> float:
    """Sum by halving, one Python float at a time."""
    while len(terms) & (len(terms) - 1):
        terms = [*terms, 0.0]
    while len(terms) > 1:
        half = len(terms) // 2
        terms = [terms[i] + terms[i + half] for i in range(half)]
    return terms[0]


def scored(x: F32, q: F32, metric: Metric) -> F64:
    return d64.keys(x, q, metric, float(d64.squared_norms(q[None])[0]))


@pytest.mark.parametrize("d", [*range(1, 71), 384, 1024, 1536])
def test_fold_adds_in_pairs(d: int) -> None:
    x, xq = pair_of("normal", 3, 2, d, d, "l2")
    for q in xq:
        exact = [float(v) for v in q]
        for key, row in zip(scored(x, q, "l2"), x, strict=True):
            terms = [(float(v) - w) * (float(v) - w) for v, w in zip(row, exact, strict=True)]
            assert key == paired_sum(terms)
        for key, row in zip(scored(x, q, "ip"), x, strict=True):
            assert key == -paired_sum([float(v) * w for v, w in zip(row, exact, strict=True)])
    for norm, row in zip(d64.squared_norms(x), x, strict=True):
        assert norm == paired_sum([float(v) * float(v) for v in row])


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 63, 64, 65])
def test_padded_dim_is_the_next_power_of_two(d: int) -> None:
    assert d64.padded_dim(d) == min(2**p for p in range(8) if 2**p >= d)


def test_fold_consumes_its_terms_and_keeps_nothing_of_them() -> None:
    terms = np.arange(8.0).reshape(2, 4)
    total = d64.fold(terms)
    terms[:] = np.nan
    assert total.tolist() == [6.0, 22.0]


@given(kinds, st.integers(0, 60), st.integers(1, 70), seeds, metrics)
@settings(deadline=None, max_examples=150)
def test_keys_are_the_oracles(kind: str, n: int, d: int, seed: int, metric: Metric) -> None:
    x, xq = pair_of(kind, n, 3, d, seed, metric)
    expected = oracle.distances(x, xq, metric)
    assert not np.isnan(expected).any()
    for row, q in zip(expected, xq, strict=True):
        assert scored(x, q, metric).tobytes() == row.tobytes()


@given(kinds, st.integers(1, 33), seeds, st.sampled_from(["l2", "ip"]))
@settings(deadline=None, max_examples=60)
def test_keys_are_near_the_real_number(kind: str, d: int, seed: int, metric: Metric) -> None:
    x, xq = pair_of(kind, 5, 1, d, seed, metric)
    exact = oracle.exact_keys(x, xq[0], metric)
    q_square = oracle.exact_square(xq)[0]
    # Of l2 the sum is of what it is compared with; of ip only its terms are that large.
    for key, real, x_square in zip(
        scored(x, xq[0], metric), exact, oracle.exact_square(x), strict=True
    ):
        error = abs(Fraction(float(key)) - real)
        n_roundings = math.ceil(math.log2(d)) + 4
        scale_squared = real**2 if metric == "l2" else x_square * q_square
        assert error**2 <= Fraction(n_roundings * U64) ** 2 * scale_squared


@given(kinds, st.integers(1, 33), seeds)
@settings(deadline=None, max_examples=60)
def test_cosine_is_near_the_real_number(kind: str, d: int, seed: int) -> None:
    x, xq = pair_of(kind, 5, 1, d, seed, "cosine")
    q_square = oracle.exact_square(xq)[0]
    # The root is irrational: that of a fraction scaled by 2^200 is good to 30 digits.
    for key, dot, x_square in zip(
        scored(x, xq[0], "cosine"),
        oracle.exact_keys(x, xq[0], "ip"),
        oracle.exact_square(x),
        strict=True,
    ):
        ratio = dot * dot / (x_square * q_square)
        root = Fraction(math.isqrt(int(ratio * 2**200)), 2**100)
        cosine = root if dot > 0 else -root
        tolerance = Fraction((2 * math.ceil(math.log2(d)) + 8) * U64) + Fraction(1, 2**99)
        assert abs(Fraction(float(key)) - cosine) <= tolerance


def test_known_bits() -> None:
    """Written down once, so that a change of definition shows even if the oracle follows it."""
    sevenths = np.arange(1, 22, dtype=np.float32).reshape(3, 7) / np.float32(7)
    x = sevenths * sevenths * sevenths
    q = np.float32(1) / np.arange(1, 8, dtype=np.float32)
    bits = {metric: [key.hex() for key in scored(x, q, metric).tolist()] for metric in METRICS}
    assert bits == KNOWN_BITS


KNOWN_BITS = {
    "l2": ["0x1.2219df96c2d64p+1", "0x1.259588e6221c0p+7", "0x1.23dd455f1384dp+11"],
    "ip": ["-0x1.a1f58e92a1830p-2", "-0x1.edc79395a5bd8p+2", "-0x1.24a300cdfab9cp+5"],
    "cosine": ["-0x1.0f35eedac02cap-2", "-0x1.fadae1af9994dp-2", "-0x1.368059ff0b1d6p-1"],
}


def test_sums_that_depend_on_order_follow_the_fold() -> None:
    # 1 + 2^53 − 2^53 + 1: from left to right 1, by numpy.sum 1 or 2, exactly 2, halving 0 + 2.
    big = 2.0**27
    x = np.array([[1, big, big, 1, 0]], np.float32)
    q = np.array([1, big, -big, 1, 0], np.float32)
    products = [1.0, 2.0**54, -(2.0**54), 1.0]
    assert scored(x, q, "ip")[0] == -((products[0] + products[2]) + (products[1] + products[3]))


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_negative_zero_is_zero(metric: Metric) -> None:
    zero = np.float32(-0.0)
    x = np.array([[zero, zero], [0, 0], [zero, 1], [1, zero]], np.float32)
    q = np.array([zero, zero], np.float32)
    keys = scored(x, q, metric)
    assert not np.signbit(keys).any()
    orthogonal = scored(np.array([[1, -1], [-1, 1]], np.float32), np.ones(2, np.float32), "cosine")
    assert orthogonal.tolist() == [0, 0]
    assert not np.signbit(orthogonal).any()


def test_cosine_of_a_row_with_itself_is_one_to_the_last_places() -> None:
    x, _ = pair_of("normal", 200, 1, 48, 5, "cosine")
    for row in x:
        assert abs(scored(row[None], row, "cosine")[0] + 1) <= 2.0**-52


def test_rows_do_not_depend_on_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    x, xq = pair_of("normal", 100, 1, 20, 3, "l2")
    whole = {metric: scored(x, xq[0], metric) for metric in METRICS}
    norms = d64.squared_norms(x)
    for rows in (1, 7, 64):
        monkeypatch.setattr(d64, "PIECE_BYTES", rows * 8 * 32)
        assert d64.piece_rows(20) == rows
        for metric in METRICS:
            assert scored(x, xq[0], metric).tobytes() == whole[metric].tobytes()
        assert d64.squared_norms(x).tobytes() == norms.tobytes()


def test_memory_order_does_not_matter() -> None:
    x, xq = pair_of("normal", 60, 1, 21, 4, "l2")
    strided = np.zeros((120, 42), np.float32)
    strided[::2, ::2] = x
    reverse = np.ascontiguousarray(x[::-1])
    for metric in METRICS:
        bits = scored(x, xq[0], metric).tobytes()
        for view in (np.asfortranarray(x), strided[::2, ::2], reverse[::-1]):
            assert not view.flags.c_contiguous
            assert scored(view, xq[0], metric).tobytes() == bits
            assert d64.squared_norms(view).tobytes() == d64.squared_norms(x).tobytes()


def test_known_hashes() -> None:
    """They are kept in checkpoints, and must be those of every machine and version."""
    rows = np.array([[1, -2.5, 0], [0, 0, 2.0**-149], [3e38, 1, 1]], np.float32)
    assert d64.hash_multipliers(3).tolist() == [splitmix(i) | 1 for i in range(3)]
    for row, found in zip(rows, d64.row_hashes(rows).tolist(), strict=True):
        words = [int(word) for word in row.view(np.uint32)]
        assert found == sum(w * (splitmix(i) | 1) for i, w in enumerate(words)) % 2**64


def splitmix(n: int) -> int:
    """The n-th number of SplitMix64 from seed 0, as published by Vigna."""
    z = (n + 1) * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def test_hashes_do_not_depend_on_pieces_or_on_memory_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, _ = pair_of("integers", 100, 1, 20, 3, "l2")
    whole = d64.row_hashes(x).tolist()
    assert d64.row_hashes(np.asfortranarray(x)).tolist() == whole
    assert d64.row_hashes(np.where(x == 0, np.float32(-0.0), x)).tolist() == whole
    monkeypatch.setattr(d64, "PIECE_BYTES", 7 * 8 * 32)
    assert d64.row_hashes(x).tolist() == whole


BITS_PROGRAM = """
import hashlib
import numpy as np
from haag_vq.groundtruth import d64

rng = np.random.default_rng(0)
digest = hashlib.sha256()
for d in (1, 2, 3, 7, 31, 48, 100, 384, 1024, 1536):
    x = rng.standard_normal((40, d), dtype=np.float32)
    digest.update(d64.squared_norms(x).tobytes())
    for metric in ("l2", "ip", "cosine"):
        for q in x[:3]:
            digest.update(d64.keys(x, q, metric, d64.squared_norms(q[None])[0]).tobytes())
print(digest.hexdigest())
"""


def test_bits_are_those_of_a_lesser_cpu() -> None:
    """NumPy's own switch makes it leave out the instructions that this CPU has beyond others."""
    features = _switchable_features()
    runs = [
        subprocess.run(
            [sys.executable, "-c", BITS_PROGRAM],
            env={**os.environ, "NPY_DISABLE_CPU_FEATURES": off},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for off in ("", " ".join(features))
    ]
    assert len(runs[0]) == 65
    assert runs[0] == runs[1]


def _switchable_features() -> list[str]:
    """Features of this CPU that NumPy was compiled to use where there, and can leave out."""
    umath = importlib.import_module("numpy._core._multiarray_umath")
    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]
