"""One block's search against brute force, bit for bit, on data that float32 gets wrong."""

from __future__ import annotations

import dataclasses
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq.errors import CertificateError, DataError
from haag_vq.groundtruth import bounds, d64, engine, kernel
from haag_vq.groundtruth.kernel import Queries, search_block
from haag_vq.groundtruth.part import Part
from haag_vq.sources import Metric
from tests.groundtruth import oracle
from tests.groundtruth.cases import KINDS, METRICS, kinds, metrics, pair_of, rows_of, seeds

F32 = NDArray[np.float32]
FIRST_ID = 7_000_000_000


def assert_is_truth(part: Part, x: F32, xq: F32, k: int, metric: Metric) -> None:
    """Ids and the bits of the keys, and that the frontier says no more than is so."""
    keys, ids = oracle.neighbours(x, xq, k, metric)
    assert_array_equal(part.ids, ids + FIRST_ID)
    assert part.keys.tobytes() == keys.tobytes()
    assert part.n_rows == len(x)
    if len(x) > k:
        assert_array_equal(part.frontier, keys[:, -1])
        assert_array_equal(part.frontier_ids, ids[:, -1] + FIRST_ID)
    else:
        assert np.all(part.frontier == np.inf)
        assert np.all(part.frontier_ids == -1)


def search_and_check(x: F32, xq: F32, k: int, metric: Metric) -> Part:
    part = search_block(x, FIRST_ID, Queries.of(xq), k, metric)
    assert_is_truth(part, x, xq, k, metric)
    return part


# Sizes at which something changes: no rows, one, k, k + SPARE, a group of duplicates, many.
sizes = st.one_of(st.sampled_from([0, 1, 2, 8, 9, 10, 40, 41]), st.integers(0, 400))
ks = st.one_of(st.sampled_from([1, 2, 10, 99, 100, 101]), st.integers(1, 450))


@given(kinds, sizes, st.integers(1, 20), st.integers(1, 64), ks, seeds, metrics)
@example("mixture", 120, 29, 64, 5, 35, "ip")  # an infinite norm times a zero query
@example("duplicated", 400, 5, 16, 20, 1, "cosine")
@settings(deadline=None, max_examples=400)
def test_equals_brute_force(
    kind: str, nb: int, nq: int, d: int, k: int, seed: int, metric: Metric
) -> None:
    search_and_check(*pair_of(kind, nb, nq, d, seed, metric), k, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_equals_brute_force_on_a_larger_block(kind: str, metric: Metric) -> None:
    """Thousands of rows: FAISS's own tiles of 1,024 rows, and its reservoirs from k=100 on."""
    engine.use_threads(None)
    x, xq = pair_of(kind, 3000, 12, 24, 11, metric)
    for k in (1, 50, 130):
        search_and_check(x, xq, k, metric)


@pytest.mark.parametrize("d", [384, 1536])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["normal", "duplicated", "one ulp apart", "offset", "mixture"])
def test_equals_brute_force_at_real_dimensions(kind: str, metric: Metric, d: int) -> None:
    search_and_check(*pair_of(kind, 500, 5, d, 3, metric), 10, metric)


@given(
    kinds,
    st.sampled_from([20, 60, 150, 250]) | st.integers(0, 250),
    st.integers(1, 40),
    st.integers(1, 24),
    st.sampled_from([1, 5, 20]) | ks,
    seeds,
    metrics,
)
@example("normal", 250, 10, 8, 10, 1, "cosine")
@example("duplicated", 250, 10, 8, 20, 1, "cosine")
@example("duplicated", 250, 10, 8, 20, 1, "l2")
@settings(deadline=None, max_examples=100)
def test_batches_tiles_and_scans_change_no_bit(
    kind: str, nb: int, nq: int, d: int, k: int, seed: int, metric: Metric
) -> None:
    """With every loop's step far smaller than the data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "BATCH_BYTES", 7 * kernel.CANDIDATE_BYTES * (k + kernel.SPARE))
        patch.setattr(kernel, "TILE_BYTES", 4 * d * 37)
        patch.setattr(kernel, "SCAN_ROWS", 23)
        patch.setattr(kernel, "SCAN_QUERIES", 3)
        patch.setattr(kernel, "SCAN_PIECE", 5)
        patch.setattr(d64, "PIECE_BYTES", 8 * d64.padded_dim(d) * 5)
        assert kernel.batch_queries(nq, k) == min(nq, 7)
        assert kernel.tile_rows(d) == 37
        search_and_check(*pair_of(kind, nb, nq, d, seed, metric), k, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_ties_at_the_last_place_are_scanned_for(metric: Metric) -> None:
    """Groups of 40 equal rows and k=20: which of them belong is for their ids to say."""
    x, xq = pair_of("duplicated", 2000, 30, 16, 1, metric)
    part = search_and_check(x, xq, 20, metric)
    assert part.n_widened > 0


def test_the_scan_finds_what_faiss_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every query scanned, from the worst candidates there could be."""
    x, xq = pair_of("normal", 1500, 9, 20, 2, "l2")

    def farthest(
        block: kernel._Block, queries: Queries, chosen: NDArray[np.int64], n: int
    ) -> tuple[F32, NDArray[np.int64]]:
        exact = oracle.distances(block.x, queries.x[chosen], block.metric)
        rows = np.argsort(-exact, axis=1)[:, :n]
        # Distances that are right and a claim that is not: nothing outside is nearer than these.
        return np.take_along_axis(exact, rows, 1).astype(np.float32), rows

    monkeypatch.setattr(kernel, "_propose", farthest)
    monkeypatch.setattr(kernel, "_decide", _never_decide(kernel._decide))
    for metric in METRICS:
        part = search_and_check(x, xq, 10, metric)
        assert part.n_widened == len(xq)


def _never_decide(decide: object) -> object:
    def undecided(*args: object) -> bool:
        assert callable(decide)
        decide(*args)
        return False

    return undecided


@pytest.mark.parametrize("metric", METRICS)
def test_easy_data_is_certified_by_faiss_alone(metric: Metric) -> None:
    part = search_and_check(*pair_of("normal", 3000, 40, 32, 5, metric), 10, metric)
    # A query that is a row of the base is at distance 0, and its bound no smaller for it.
    assert part.n_widened == 0


def test_what_float32_cannot_hold_never_reaches_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("FAISS was asked about norms it cannot square")

    monkeypatch.setattr(engine, "knn", refuse)
    for metric in METRICS:
        search_and_check(*pair_of("norm 3e38", 100, 5, 8, 1, metric), 10, metric)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_one_query_beyond_float32_leaves_the_others_to_faiss(metric: Metric) -> None:
    x, xq = pair_of("normal", 300, 6, 8, 1, metric)
    xq[2] = np.float32(3e38)
    search_and_check(x, xq, 10, metric)


def test_a_missing_proposal_is_scored_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAISS says −1 where it found nothing; that must not become the last row."""
    knn = engine.knn

    def forgetful(xq: F32, xb: F32, k: int, similarity: bool) -> tuple[F32, NDArray[np.int64]]:
        D, I = knn(xq, xb, k, similarity)
        I[::2, -1] = -1
        return D, I

    monkeypatch.setattr(engine, "knn", forgetful)
    for metric in METRICS:
        search_and_check(*pair_of("normal", 300, 7, 8, 1, metric), 10, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_arithmetic_that_breaks_the_bound_is_reported(
    monkeypatch: pytest.MonkeyPatch, metric: Metric
) -> None:
    knn = engine.knn

    def wrong(xq: F32, xb: F32, k: int, similarity: bool) -> tuple[F32, NDArray[np.int64]]:
        D, I = knn(xq, xb, k, similarity)
        D[3, 4] += np.float32(0.01)
        return D, I

    monkeypatch.setattr(engine, "knn", wrong)
    x, xq = pair_of("normal", 300, 7, 8, 1, metric)
    with pytest.raises(CertificateError, match=rf"query 3, {metric}.*please report it"):
        search_block(x, 0, Queries.of(xq), 10, metric)


def test_distances_that_are_not_numbers_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    knn = engine.knn

    def wrong(xq: F32, xb: F32, k: int, similarity: bool) -> tuple[F32, NDArray[np.int64]]:
        D, I = knn(xq, xb, k, similarity)
        D[0, 0] = np.nan
        return D, I

    monkeypatch.setattr(engine, "knn", wrong)
    x, xq = pair_of("normal", 300, 7, 8, 1, "l2")
    with pytest.raises(CertificateError):
        search_block(x, 0, Queries.of(xq), 10, "l2")


def test_zero_vectors_under_cosine_are_named() -> None:
    x, xq = pair_of("normal", 50, 3, 8, 1, "cosine")
    x[[17, 40]] = 0
    x[40] = np.float32(-0.0)
    with pytest.raises(DataError, match=r"^2 zero vector\(s\) in rows 1,000:1,050 .* row 1,017:"):
        search_block(x, 1000, Queries.of(xq), 5, "cosine")


def test_a_row_whose_float32_norm_is_zero_is_no_zero_vector() -> None:
    x, xq = pair_of("normal", 50, 3, 8, 1, "cosine")
    x[17] *= np.float32(1e-30)
    assert engine.squared_norms_f32(x)[17] == 0
    search_and_check(x, xq, 5, "cosine")


@pytest.mark.parametrize("metric", METRICS)
def test_a_block_without_rows_is_an_empty_and_complete_part(metric: Metric) -> None:
    _, xq = pair_of("normal", 10, 3, 8, 1, metric)
    part = search_and_check(np.empty((0, 8), np.float32), xq, 5, metric)
    assert part.keys.shape == part.ids.shape == (3, 0)


@pytest.mark.parametrize("metric", METRICS)
def test_answers_do_not_depend_on_other_queries_or_on_the_blocks_size(metric: Metric) -> None:
    """The float32 bits do: sgemm takes other paths. D64's may not."""
    x, xq = pair_of("moderate mixture", 700, 33, 48, 9, metric)
    whole = search_block(x, 0, Queries.of(xq), 700, metric)
    for q in (0, 5, 32):
        alone = search_block(x, 0, Queries.of(xq[q : q + 1]), 700, metric)
        assert alone.keys.tobytes() == whole.keys[q : q + 1].tobytes()
    head = search_block(x[:301], 0, Queries.of(xq), 301, metric)
    for q in range(len(xq)):
        inside = whole.ids[q] < 301
        assert_array_equal(head.ids[q], whole.ids[q][inside])
        assert head.keys[q].tobytes() == whole.keys[q][inside].tobytes()


@pytest.mark.parametrize("metric", METRICS)
def test_inputs_are_left_as_they_were(metric: Metric) -> None:
    x, xq = pair_of("duplicated", 200, 5, 8, 1, metric)
    before = x.copy(), xq.copy()
    x.flags.writeable = xq.flags.writeable = False
    search_block(x, 0, Queries.of(xq), 10, metric)
    assert_array_equal(x, before[0])
    assert_array_equal(xq, before[1])


def test_threads_search_side_by_side() -> None:
    x, xq = pair_of("duplicated", 800, 20, 16, 1, "l2")
    expected = oracle.neighbours(x, xq, 10, "l2")
    found: list[Part] = []

    def work() -> None:
        engine.use_threads(1)
        found.append(search_block(x, 0, Queries.of(xq), 10, "l2"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for part in found:
        assert_array_equal(part.ids, expected[1])
        assert part.keys.tobytes() == expected[0].tobytes()


def test_without_the_bound_the_answer_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """That these data need the scan at all: a bound of nothing lets FAISS's order stand."""
    x, xq = pair_of("one ulp apart", 2000, 60, 64, 1, "l2")
    monkeypatch.setattr(kernel, "_error", lambda *args: np.float64(1e-300))
    monkeypatch.setattr(kernel, "_check_error", lambda *args: None)
    part = search_block(x, 0, Queries.of(xq), 20, "l2")
    assert not np.array_equal(part.ids, oracle.neighbours(x, xq, 20, "l2")[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("kind", "nb", "nq", "d", "k"),
    [
        ("all equal", 3000, 4, 3072, 2),  # every row of a tile is within the bound
        ("all equal", 17_000, 66, 16, 2),
        ("normal", 3000, 1000, 512, 2),
        ("normal", 3000, 1000, 8, 300),
        ("mixture", 1500, 400, 512, 1),  # some of the queries are not for FAISS
        ("norm 3e38", 3000, 4, 1536, 2),
        ("normal", 1, 2, 1, 1),
    ],
)
def test_workspace_is_not_passed(
    kind: str, nb: int, nq: int, d: int, k: int, metric: Metric
) -> None:
    """As NumPy allocates it; what FAISS does itself is measured in whole processes."""
    x, xq = pair_of(kind, nb, nq, d, 1, metric)
    tracemalloc.start()
    try:
        part = search_block(x, 0, Queries.of(xq), k, metric)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert part.n_rows == nb
    assert peak <= kernel.workspace_bytes(nb, nq, d, k, metric)


def test_merging_tiles_keeps_to_the_batchs_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    x, xq = pair_of("normal", 3000, 1000, 8, 1, "cosine")
    monkeypatch.setattr(kernel, "TILE_BYTES", 4 * 8 * 500)
    block, queries = kernel._measure(x, 0, "cosine"), Queries.of(xq)
    tracemalloc.start()
    try:
        kernel._propose(block, queries, np.arange(1000), 200)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    n_queries_bytes = 2 * xq.nbytes + kernel.TILE_BYTES
    assert peak <= 1000 * 200 * kernel.CANDIDATE_BYTES + n_queries_bytes


@pytest.mark.parametrize("metric", METRICS)
def test_workspace_grows_with_rows_queries_and_k(metric: Metric) -> None:
    sizes = [(1, 10), (500, 10_000), (50_000, 200_000)]
    for d in (8, 1536):
        for k in (1, 50, 2000):
            grown = [kernel.workspace_bytes(nb, nq, d, k, metric) for nq, nb in sizes]
            assert grown == sorted(grown)
            fewer = kernel.workspace_bytes(10_000, 500, d, max(1, k // 2), metric)
            assert fewer <= kernel.workspace_bytes(10_000, 500, d, k, metric)


def test_batches_hold_at_least_one_query() -> None:
    assert kernel.batch_queries(1, 10**7) == 1
    assert kernel.batch_queries(10, 10**7) == 1
    assert kernel.batch_queries(10, 1) == 10


def test_limits_are_where_float32_ends() -> None:
    """On both sides of each limit the answer is right; inside, FAISS is asked."""
    asked = []
    rows = rows_of("normal", 60, 16, 1)
    unit = rows / np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    low, high = bounds.COSINE_NORM_RANGE
    scales = {"l2": [2.0**61, 2.0**63], "ip": [2.0**62, 2.0**63.5], "cosine": [low / 2, high * 2]}
    inside = {"l2": 2.0**61, "ip": 2.0**62, "cosine": high / 2}
    knn = engine.knn

    def noted(xq: F32, xb: F32, k: int, similarity: bool) -> tuple[F32, NDArray[np.int64]]:
        asked.append(len(xb))
        return knn(xq, xb, k, similarity)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "knn", noted)
        for metric in METRICS:
            for scale in (*scales[metric], inside[metric]):
                x = (unit * scale).astype(np.float32)
                asked.clear()
                search_and_check(x, x[:4].copy(), 5, metric)
                assert bool(asked) == (scale == inside[metric])


def test_parts_are_values() -> None:
    x, xq = pair_of("normal", 20, 2, 4, 1, "l2")
    part = search_block(x, 0, Queries.of(xq), 3, "l2")
    with pytest.raises(dataclasses.FrozenInstanceError):
        part.n_rows = 3  # type: ignore[misc]
