"""Distances of chosen pairs against brute force; what is read for them, and how often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from haag_vq.data import load_dummy_dataset
from haag_vq.errors import DataError, UsageError
from haag_vq.groundtruth import bounds, pairs
from haag_vq.groundtruth.pairs import Vectors
from haag_vq.sources import ArraySource, Metric
from tests.groundtruth import oracle
from tests.groundtruth.cases import METRICS, kinds, metrics, pair_of, seeds
from tests.support.counting import CountingSource


@given(kinds, metrics, seeds, st.integers(0, 60))
def test_pairs_have_the_bits_of_brute_force(kind: str, metric: Metric, seed: int, n: int) -> None:
    x, xq = pair_of(kind, 30, 4, 6, seed, metric)
    rng = np.random.default_rng(seed)
    queries, rows = rng.integers(0, 4, n), rng.integers(0, 30, n)
    scores = Vectors.of(x, xq).score(queries, rows, metric)
    assert scores.keys.tobytes() == oracle.distances(x, xq, metric)[queries, rows].tobytes()


@given(kinds, metrics, seeds)
def test_own_keys_are_those_of_the_querys_row(kind: str, metric: Metric, seed: int) -> None:
    x, _ = pair_of(kind, 5, 2, 6, seed, metric)
    rows = np.array([3, 0])
    vectors = Vectors.of(x, x)
    scores = vectors.score(rows, rows, metric)
    assert vectors.own_keys(rows, metric).tobytes() == scores.keys.tobytes()


@pytest.mark.parametrize("metric", METRICS)
def test_float32_errs_within_the_errors_given(metric: Metric) -> None:
    x, xq = pair_of("offset", 200, 3, 32, 1, metric)
    if metric == "cosine":
        x /= np.sqrt((x * x).sum(axis=1, keepdims=True))
        xq /= np.sqrt((xq * xq).sum(axis=1, keepdims=True))
    dots = xq @ x.T
    fast = -dots if metric != "l2" else (xq * xq).sum(1)[:, None] + (x * x).sum(1) - 2 * dots
    queries, rows = np.divmod(np.arange(600), 200)
    scores = Vectors.of(x, xq).score(queries, rows, metric)
    errors = np.abs(scores.keys - fast.ravel())
    assert errors.max() > 0
    assert np.all(errors <= scores.errors)
    q_norms, x_norms = (np.sqrt((v.astype(np.float64) ** 2).sum(axis=1)) for v in (xq, x))
    if metric == "l2":
        expected = bounds.l2_error(32, q_norms[queries], scores.keys)
    elif metric == "ip":
        expected = bounds.ip_error(32, q_norms[queries], x_norms[rows])
    else:
        expected = bounds.cosine_error(32)
    assert_allclose(scores.errors, expected, rtol=1e-12)


def test_each_row_is_read_once_in_batches_of_bounded_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "BATCH_BYTES", 7 * 4 * 6 + 5)
    x, xq = pair_of("normal", 50, 4, 6, 1, "l2")
    source = CountingSource(ArraySource(x), tmp_path / "log")
    rng = np.random.default_rng(2)
    queries, rows = rng.integers(0, 4, 90), rng.integers(0, 25, 90) * 2
    scores = Vectors.of(source, xq).score(queries, rows, "l2")
    assert scores.keys.tobytes() == oracle.distances(x, xq, "l2")[queries, rows].tobytes()
    numbers = [read.numbers for read in source.reads()]
    assert len(numbers) > 1
    assert [len(n) for n in numbers[:-1]] == [7] * (len(numbers) - 1)
    assert [row for n in numbers for row in n] == sorted(set(rows.tolist()))


def test_a_dataset_brings_its_own_queries() -> None:
    dataset = load_dummy_dataset(20, 3, 4)
    vectors = Vectors.of(dataset, None)
    assert dataset.queries is not None
    assert vectors.xq.tolist() == dataset.queries.tolist()
    assert Vectors.of(dataset, dataset.queries[:1]).xq.shape[0] == 1


@pytest.mark.parametrize(
    ("base", "queries", "message"),
    [
        ("vectors.npy", [[1.0]], "a str is no base; open it"),
        (np.ones((2, 1), np.float32), None, "no queries of its own: pass queries="),
        (np.ones((2, 1), np.float32), np.ones((2, 3)), "queries have dimension 3, the base has 1"),
    ],
)
def test_what_is_no_base_is_refused(base: Any, queries: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Vectors.of(base, queries)


def test_zero_rows_have_no_cosine() -> None:
    x = np.array([[1, 0], [0, 0], [0, 1]], np.float32)
    vectors = Vectors.of(x, x[:1])
    with pytest.raises(DataError, match="row 1 of the base is zero"):
        vectors.score(np.zeros(2, np.int64), np.array([2, 1]), "cosine")
    assert vectors.score(np.zeros(2, np.int64), np.array([2, 1]), "l2").keys.tolist() == [2, 1]
