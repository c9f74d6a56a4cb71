"""FAISS's first ceilings: above the k-th key whatever float32 does, and not far above."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from haag_vq.groundtruth import d64, engine, opening
from haag_vq.groundtruth.norms import measure
from haag_vq.groundtruth.workspace import Workspace
from haag_vq.sources import Metric
from tests.groundtruth import oracle
from tests.groundtruth.cases import METRICS, kinds, metrics, pair_of, seeds

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def ceilings_of(x: F32, xq: F32, k: int, metric: Metric) -> F64:
    squared, q_norms = np.empty(len(x), np.float32), np.sqrt(d64.squared_norms(xq))
    measure(x, 0, metric, squared)
    q = (xq / q_norms[:, None]).astype(np.float32) if metric == "cosine" else xq
    return opening.first_ceilings(x, squared, q, q_norms, k, metric, Workspace())


@given(kinds, st.integers(1, 120), st.integers(1, 8), st.integers(1, 70), seeds, metrics, st.data())
@settings(deadline=None, max_examples=200)
def test_k_rows_have_keys_no_larger(
    kind: str, n: int, nq: int, d: int, seed: int, metric: Metric, data: st.DataObject
) -> None:
    x, xq = pair_of(kind, n, nq, d, seed, metric)
    k = data.draw(st.integers(1, n))
    assert np.all(ceilings_of(x, xq, k, metric) >= oracle.neighbours(x, xq, k, metric)[0][:, -1])


@pytest.mark.parametrize("metric", METRICS)
def test_ceilings_are_close(metric: Metric) -> None:
    x, xq = pair_of("normal", 500, 30, 16, 1, metric)
    kth = oracle.neighbours(x, xq, 10, metric)[0][:, -1]
    assert np.all(ceilings_of(x, xq, 10, metric) <= kth + 1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_where_float32_cannot_tell_there_is_none(metric: Metric) -> None:
    x, xq = pair_of("norm 3e38", 50, 4, 8, 1, metric)
    assert np.all(ceilings_of(x, xq, 5, metric) == np.inf)
    x, xq = pair_of("normal", 50, 4, 8, 1, metric)
    xq[2] *= np.float32(1e38)
    assert np.isinf(ceilings_of(x, xq, 5, metric)).tolist() == [False, False, True, False]


def test_what_faiss_did_not_find_gives_no_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    knn = engine.knn

    def forgetful(xq: F32, xb: F32, k: int, similarity: bool) -> Any:
        D, I = knn(xq, xb, k, similarity)
        I[1, 2] = -1
        return D, I

    monkeypatch.setattr(engine, "knn", forgetful)
    x, xq = pair_of("normal", 50, 3, 8, 1, "l2")
    assert np.isinf(ceilings_of(x, xq, 5, "l2")).tolist() == [False, True, False]


def test_enough_rows_are_searched_for_any_k() -> None:
    assert opening.opening_rows(1) == opening.LEAST_ROWS
    assert opening.opening_rows(10_000) == 40_000


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("nq", "d", "k"), [(1, 512, 3), (700, 64, 100), (3000, 8, 20)])
def test_what_is_allocated_is_projected(nq: int, d: int, k: int, metric: Metric) -> None:
    """As far as NumPy allocates it; FAISS's own is measured in whole processes."""
    x, xq = pair_of("normal", opening.opening_rows(k), nq, d, 1, metric)
    xq[0] *= np.float32(1e25)  # the others are picked out
    squared, q_norms = np.empty(len(x), np.float32), np.sqrt(d64.squared_norms(xq))
    measure(x, 0, metric, squared)
    workspace = Workspace()
    tracemalloc.start()
    try:
        opening.first_ceilings(x, squared, xq, q_norms, k, metric, workspace)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= opening.opening_bytes(nq, d, k, metric) + nq * 64
