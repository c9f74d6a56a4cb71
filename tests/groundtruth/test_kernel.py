"""One block's search against brute force, bit for bit, on data that float32 gets wrong."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq.errors import CertificateError, DataError
from haag_vq.groundtruth import (
    bounds,
    d64,
    engine,
    kernel,
    opening,
    partial,
    products,
    tasks,
)
from haag_vq.groundtruth.kernel import Queries, search_block
from haag_vq.groundtruth.listed import LARGEST_ID
from haag_vq.groundtruth.part import Part, combine, uncertified
from haag_vq.groundtruth.workspace import Workspace
from haag_vq.sources import ArraySource, Metric
from tests.groundtruth import oracle
from tests.groundtruth.cases import KINDS, METRICS, kinds, metrics, pair_of, rows_of, seeds

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
FIRST_ID = 7_000_000_000

# What is used again from search to search, as a process does.
WORKSPACE = Workspace()


def assert_is_truth(
    part: Part, x: F32, xq: F32, k: int, metric: Metric, ceilings: F64 | None = None
) -> None:
    """Ids, the bits of the keys, fingerprints, and a frontier that says just what is so."""
    keys, ids = oracle.neighbours(x, xq, k, metric)
    most = np.full(len(xq), np.inf) if ceilings is None else ceilings
    asked = keys <= most[:, None]
    n = asked.sum(axis=1)
    width = int(n.max(initial=0))
    assert part.ids.shape == (len(xq), width)
    assert_array_equal(part.ids, np.where(asked, ids + FIRST_ID, -1)[:, :width])
    assert part.keys.tobytes() == np.where(asked, keys, np.inf)[:, :width].tobytes()
    of_rows = d64.row_hashes(x)[ids] if len(x) else np.zeros(ids.shape, np.uint64)
    assert_array_equal(part.hashes, np.where(asked, of_rows, np.uint64(0))[:, :width])
    assert part.n_rows == len(x)
    for q in range(len(xq)):
        if n[q] == len(x):
            frontier = np.inf, -1
        elif n[q] == k:
            frontier = keys[q, -1], ids[q, -1] + FIRST_ID
        else:
            frontier = most[q], LARGEST_ID if np.isfinite(most[q]) else -1
        assert (part.frontier[q], part.frontier_ids[q]) == frontier
    assert part.tally.largest_error <= 1


def search_and_check(x: F32, xq: F32, k: int, metric: Metric, **options: Any) -> Part:
    options.setdefault("workspace", WORKSPACE)
    part = search_block(x, FIRST_ID, Queries.of(xq), k, metric, **options)
    assert_is_truth(part, x, xq, k, metric, options.get("ceilings"))
    return part


# Sizes at which something changes: no rows, one, k, the buffer of candidates, many.
sizes = st.one_of(st.sampled_from([0, 1, 2, 8, 9, 10, 40, 41, 64, 84, 85]), st.integers(0, 400))
ks = st.one_of(st.sampled_from([1, 2, 10, 99, 100, 101]), st.integers(1, 450))


@given(kinds, sizes, st.integers(1, 20), st.integers(1, 64), ks, seeds, metrics)
@example("mixture", 120, 29, 64, 5, 35, "ip")  # an infinite norm times a zero query
@example("duplicated", 400, 5, 16, 20, 1, "cosine")
@settings(deadline=None, max_examples=300)
def test_equals_brute_force(
    kind: str, nb: int, nq: int, d: int, k: int, seed: int, metric: Metric
) -> None:
    search_and_check(*pair_of(kind, nb, nq, d, seed, metric), k, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_equals_brute_force_on_a_larger_block(kind: str, metric: Metric) -> None:
    """Thousands of rows: FAISS opens, then a tile of 4,096 rows and another."""
    x, xq = pair_of(kind, 4500, 12, 24, 11, metric)
    for k in (1, 50, 130):
        search_and_check(x, xq, k, metric, n_threads=2)


@pytest.mark.parametrize("d", [384, 1536])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["normal", "duplicated", "one ulp apart", "offset", "mixture"])
def test_equals_brute_force_at_real_dimensions(kind: str, metric: Metric, d: int) -> None:
    search_and_check(*pair_of(kind, 500, 5, d, 3, metric), 10, metric)


def any_head(x: F32, xq: F32, *_: F32) -> tuple[int, int]:
    """Choose at random how much of which queries: no choice may change the answer."""
    d = x.shape[1]
    rng = np.random.default_rng(x.view(np.uint32).ravel()[:9])
    # No more than the proof allows.
    return (int(rng.integers(1, d - 2)), int(rng.integers(0, len(xq) + 1))) if d > 3 else (d, 0)


@contextmanager
def tiny_steps(d: int, n_threads: int) -> Iterator[None]:
    """Every loop's step far smaller than the data, opened by FAISS and partial all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partial, "LEAST_USE", 0)
        patch.setattr(products, "best_head", any_head)
        patch.setattr(kernel, "TILE_BYTES", 4 * d * 37)
        patch.setattr(products, "PRODUCT_BYTES", n_threads * 4 * 37 * 3)
        patch.setattr(kernel, "n_candidates", lambda k: 5)
        patch.setattr(opening, "LEAST_ROWS", 1)
        patch.setattr(d64, "PIECE_BYTES", 8 * d64.padded_dim(d) * 5)
        assert kernel.tile_rows(250, d, n_threads) == 37
        yield


@given(
    kinds,
    st.sampled_from([20, 60, 150, 250]) | st.integers(0, 250),
    st.integers(1, 150),
    st.integers(1, 24),
    st.sampled_from([1, 5, 20]) | ks,
    seeds,
    metrics,
    st.integers(1, 3),
    st.booleans(),
)
@example("normal", 250, 10, 8, 10, 1, "cosine", 1, False)
@example("duplicated", 250, 10, 8, 20, 1, "cosine", 2, True)
@example("duplicated", 250, 130, 8, 20, 1, "l2", 2, True)
@settings(deadline=None, max_examples=120)
def test_tiles_batches_buffers_and_threads_change_no_bit(
    kind: str,
    nb: int,
    nq: int,
    d: int,
    k: int,
    seed: int,
    metric: Metric,
    n_threads: int,
    reads: bool,
) -> None:
    x, xq = pair_of(kind, nb, nq, d, seed, metric)
    with tiny_steps(d, n_threads):
        part = search_block(
            np.full_like(x, np.nan) if reads else x,
            FIRST_ID,
            Queries.of(xq),
            k,
            metric,
            source=ArraySource(x) if reads else None,
            n_threads=n_threads,
            workspace=Workspace(),
        )
    assert_is_truth(part, x, xq, k, metric)


@given(
    kinds,
    st.integers(1, 250),
    st.integers(1, 12),
    st.integers(1, 24),
    st.integers(1, 60),
    seeds,
    metrics,
    st.data(),
)
@settings(deadline=None, max_examples=150)
def test_a_ceiling_from_outside_leaves_out_what_is_above_it_and_nothing_else(
    kind: str, nb: int, nq: int, d: int, k: int, seed: int, metric: Metric, data: st.DataObject
) -> None:
    """Ceilings at keys that rows have, so that equality is met; between them, and beyond all."""
    x, xq = pair_of(kind, nb, nq, d, seed, metric)
    keys = np.sort(oracle.distances(x, xq, metric), axis=1)
    places = st.integers(0, nb - 1)
    ceilings = np.array([keys[q, data.draw(places)] for q in range(nq)])
    change = data.draw(st.sampled_from(["equal", "below", "beyond", "nothing"]))
    if change == "below":
        ceilings = np.nextafter(ceilings, -np.inf)
    elif change == "beyond":
        ceilings[::2] = np.inf
    elif change == "nothing":
        ceilings[::2] = -np.inf
    with tiny_steps(d, 1):
        search_and_check(x, xq, k, metric, ceilings=ceilings, workspace=Workspace())
    search_and_check(x, xq, k, metric, ceilings=ceilings)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_partial_products_equal_brute_force_at_real_dimensions(kind: str, metric: Metric) -> None:
    """With ceilings so tight that most rows are left out by their leading dimensions."""
    x, xq = pair_of(kind, 500, 8, 384, 3, metric)
    nearest = oracle.neighbours(x, xq, 10, metric)[0]
    for at in (0, 9):
        with tiny_steps(384, 2):
            options = {"ceilings": nearest[:, at].copy(), "workspace": Workspace()}
            search_and_check(x, xq, 10, metric, n_threads=2, **options)


@given(
    st.sampled_from(["normal", "duplicated", "integers", "binary", "all equal", "one ulp apart"]),
    st.integers(1, 150),
    st.integers(0, 150),
    st.integers(1, 12),
    st.integers(1, 40),
    seeds,
    metrics,
)
@settings(deadline=None, max_examples=150)
def test_neighbours_known_from_other_rows_count_and_the_frontier_is_no_lie(
    kind: str, nb: int, n_known: int, d: int, k: int, seed: int, metric: Metric
) -> None:
    """What the block alone would have listed may be missing, but never up to the frontier."""
    both, xq = pair_of(kind, nb + n_known, 6, d, seed, metric)
    x, known = both[:nb].copy(), None
    if n_known >= k:
        known = oracle.neighbours(both[nb:], xq, k, metric)[0]
    with tiny_steps(d, 1):
        part = search_block(
            x,
            FIRST_ID,
            Queries.of(xq),
            k,
            metric,
            ceilings=None if known is None else known.max(axis=1),
            known=known,
            workspace=Workspace(),
        )
    assert_says_what_is_so(part, x, xq, metric)
    # All of the block's rows that are among the k nearest of both are there.
    keys, ids = oracle.neighbours(both, xq, k, metric)
    for q in range(len(xq)):
        needed = {int(row) + FIRST_ID for row in ids[q] if row < nb}
        assert needed <= set(part.ids[q].tolist())
        if len(both) >= k:
            assert (keys[q, -1], -1) <= (part.frontier[q], part.frontier_ids[q])


def assert_says_what_is_so(part: Part, x: F32, xq: F32, metric: Metric) -> None:
    """Rows listed have their D64 and are in order; every row up to the frontier is listed."""
    exact = oracle.distances(x, xq, metric)
    for q in range(len(xq)):
        rows = part.ids[q][part.ids[q] >= 0] - FIRST_ID
        listed = list(zip(part.keys[q].tolist(), rows.tolist(), strict=False))
        assert listed == sorted(zip(exact[q, rows].tolist(), rows.tolist(), strict=True))
        frontier = float(part.frontier[q]), int(part.frontier_ids[q]) - FIRST_ID
        wanted = {row for row in range(len(x)) if (exact[q, row], row) <= frontier}
        assert wanted <= set(rows.tolist())


@pytest.mark.parametrize("metric", METRICS)
def test_a_ceiling_spares_scoring(metric: Metric) -> None:
    x, xq = pair_of("normal", 3000, 40, 32, 5, metric)
    free = search_and_check(x, xq, 10, metric)
    pruned = search_and_check(x, xq, 10, metric, ceilings=free.keys[:, 0].copy())
    assert 0 < pruned.tally.n_scored < free.tally.n_scored / 4
    assert uncertified(pruned, 10).all()


@pytest.mark.parametrize("metric", METRICS)
def test_ties_at_the_last_place_take_no_second_look(metric: Metric) -> None:
    """Groups of 40 equal rows and k=20: which of them belong is for their ids to say."""
    x, xq = pair_of("duplicated", 2000, 30, 16, 1, metric)
    search_and_check(x, xq, 20, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_more_ties_than_candidates_fit_are_scored_on_the_way(metric: Metric) -> None:
    x, xq = pair_of("all equal", 5000, 3, 16, 1, metric)
    part = search_and_check(x, xq, 20, metric)
    assert part.tally.n_widened == len(xq)


@pytest.mark.parametrize("metric", METRICS)
def test_easy_data_score_few_rows(metric: Metric) -> None:
    part = search_and_check(*pair_of("normal", 9000, 40, 32, 5, metric), 10, metric)
    # A query that is a row of the base is at distance 0, and its bound no smaller for it.
    assert part.tally.n_widened == 0
    assert 10 * 40 <= part.tally.n_scored < 1.5 * 10 * 40


def asked_of_faiss(patch: pytest.MonkeyPatch) -> list[int]:
    """Let FAISS open every block, and note how many queries it was asked each time."""
    asked: list[int] = []
    knn = engine.knn

    def noted(xq: F32, xb: F32, k: int, similarity: bool) -> Any:
        asked.append(len(xq))
        return knn(xq, xb, k, similarity)

    patch.setattr(opening, "LEAST_ROWS", 1)
    patch.setattr(engine, "knn", noted)
    return asked


def test_what_float32_cannot_hold_never_reaches_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_of_faiss(monkeypatch)
    for metric in METRICS:
        part = search_and_check(*pair_of("norm 3e38", 100, 5, 8, 1, metric), 10, metric)
        assert part.tally.n_scored >= 500
    assert asked == []
    search_and_check(*pair_of("normal", 100, 5, 8, 1, "l2"), 10, "l2")
    assert asked == [5]


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_one_query_beyond_float32_leaves_the_others_to_faiss(
    monkeypatch: pytest.MonkeyPatch, metric: Metric
) -> None:
    asked = asked_of_faiss(monkeypatch)
    x, xq = pair_of("normal", 300, 6, 8, 1, metric)
    xq[2] = np.float32(3e38)
    part = search_and_check(x, xq, 10, metric)
    assert asked == [5]
    assert part.tally.n_widened == 1


def test_limits_are_where_float32_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """On both sides of each limit the answer is right; inside, FAISS is asked."""
    rows = rows_of("normal", 60, 16, 1)
    unit = rows / np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    low, high = bounds.COSINE_NORM_RANGE
    scales = {"l2": [2.0**61, 2.0**63], "ip": [2.0**62, 2.0**63.5], "cosine": [low / 2, high * 2]}
    inside = {"l2": 2.0**61, "ip": 2.0**62, "cosine": high / 2}
    asked = asked_of_faiss(monkeypatch)
    for metric in METRICS:
        for scale in (*scales[metric], inside[metric]):
            x = (unit * scale).astype(np.float32)
            asked.clear()
            search_and_check(x, x[:4].copy(), 5, metric)
            assert bool(asked) == (scale == inside[metric])


def test_a_missing_proposal_gives_no_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAISS says −1 where it found nothing, with a distance that means nothing."""
    knn = engine.knn

    def forgetful(xq: F32, xb: F32, k: int, similarity: bool) -> Any:
        D, I = knn(xq, xb, k, similarity)
        I[::2, -1] = -1
        D[::2, -1] = np.inf if similarity else -np.inf
        return D, I

    monkeypatch.setattr(opening, "LEAST_ROWS", 1)
    monkeypatch.setattr(engine, "knn", forgetful)
    for metric in METRICS:
        search_and_check(*pair_of("normal", 300, 7, 8, 1, metric), 10, metric)


class Miscalculating:
    """NumPy, but for matrix products that come out a little larger for query 3."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def matmul(self, x: F32, y: F32, out: F32) -> F32:
        np.matmul(x, y, out=out)
        if out.shape[1] > 3:
            out[:, 3] += np.float32(0.01)
        return out


@pytest.mark.parametrize("metric", METRICS)
def test_arithmetic_that_breaks_the_bound_is_reported(
    monkeypatch: pytest.MonkeyPatch, metric: Metric
) -> None:
    x, xq = pair_of("normal", 300, 7, 8, 1, metric)
    monkeypatch.setattr(products, "np", Miscalculating())
    with pytest.raises(CertificateError, match=rf"query 3, {metric}.*please report it") as caught:
        search_block(x, FIRST_ID, Queries.of(xq), 10, metric)
    # The pair can be looked up: the message has its row and its true distance.
    words = re.match(r"row ([\d,]+), .* is off D64 (\S+) by", str(caught.value))
    assert words is not None
    row = int(words[1].replace(",", "")) - FIRST_ID
    assert float(words[2]) == oracle.distances(x[row : row + 1], xq[3:4], metric)[0, 0]


def test_zero_vectors_under_cosine_are_named() -> None:
    x, xq = pair_of("normal", 50, 3, 8, 1, "cosine")
    x[[17, 40]] = 0
    x[40] = np.float32(-0.0)
    with pytest.raises(DataError, match=r"^2 zero vector\(s\) in rows 1,000:1,050 .* row 1,017:"):
        search_block(x, 1000, Queries.of(xq), 5, "cosine")


def test_a_row_whose_float32_norm_is_zero_is_no_zero_vector() -> None:
    x, xq = pair_of("normal", 50, 3, 8, 1, "cosine")
    x[17] *= np.float32(1e-30)
    assert (x[17] ** 2).sum() == 0
    search_and_check(x, xq, 5, "cosine")


@pytest.mark.parametrize("metric", METRICS)
def test_a_block_without_rows_is_an_empty_and_complete_part(metric: Metric) -> None:
    _, xq = pair_of("normal", 10, 3, 8, 1, metric)
    part = search_and_check(np.empty((0, 8), np.float32), xq, 5, metric)
    assert part.keys.shape == part.ids.shape == (3, 0)


@pytest.mark.parametrize("metric", METRICS)
def test_no_queries_have_no_neighbours(metric: Metric) -> None:
    x, xq = pair_of("normal", 10, 3, 8, 1, metric)
    assert search_and_check(x, xq[:0].copy(), 5, metric).keys.shape[0] == 0


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
    ceilings = np.full(5, 0.5)
    known = np.full((5, 12), 0.25)
    given = (x, xq, ceilings, known)
    before = [array.copy() for array in given]
    search_block(x, 0, Queries.of(xq), 10, metric)
    search_block(x, 0, Queries.of(xq), 10, metric, ceilings=ceilings, known=known)
    for array, copy in zip(given, before, strict=True):
        assert_array_equal(array, copy)


def test_a_part_is_not_the_workspaces_memory() -> None:
    """The next block's lists would be written over it."""
    x, xq = pair_of("normal", 300, 9, 16, 1, "l2")
    workspace = Workspace()
    first = search_block(x, FIRST_ID, Queries.of(xq), 10, "l2", workspace=workspace)
    search_block(-x, 0, Queries.of(xq), 10, "l2", workspace=workspace)
    assert_is_truth(first, x, xq, 10, "l2")


def test_threads_search_side_by_side() -> None:
    x, xq = pair_of("duplicated", 800, 20, 16, 1, "l2")
    found: list[Part] = []

    def work() -> None:
        engine.use_threads(1)
        found.append(search_block(x, FIRST_ID, Queries.of(xq), 10, "l2", n_threads=2))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for part in found:
        assert_is_truth(part, x, xq, 10, "l2")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_threads", [1, 4])
@pytest.mark.parametrize(
    ("kind", "nb", "nq", "d", "k"),
    [
        ("all equal", 3000, 4, 3072, 2),  # every row of a tile is within the bound
        ("all equal", 17_000, 66, 16, 2),
        ("normal", 5000, 1000, 512, 2),
        ("normal", 5000, 1000, 8, 300),
        ("mixture", 1500, 400, 512, 1),  # some of the queries are not for FAISS
        ("norm 3e38", 3000, 4, 1536, 2),
        ("normal", 1, 2, 1, 1),
    ],
)
def test_workspace_is_not_passed(
    kind: str, nb: int, nq: int, d: int, k: int, n_threads: int, metric: Metric
) -> None:
    """As NumPy allocates it; what FAISS does itself is measured in whole processes."""
    x, xq = pair_of(kind, nb, nq, d, 1, metric)
    peak = peak_of_search(x, xq, k, metric, n_threads)
    assert peak <= kernel.workspace_bytes(nb, nq, d, k, metric) + 100_000


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("nq", "d", "k"), [(1000, 512, 2), (1000, 8, 300), (9, 3072, 10), (30_000, 64, 100)]
)
def test_workspace_is_not_passed_where_queries_are_sorted(
    nq: int, d: int, k: int, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of them takes the place of the opening, and their choice that of its tiles."""
    monkeypatch.setattr(partial, "LEAST_USE", 0)
    x, xq = pair_of("normal", 5000, nq, d, 1, metric)
    known = np.sort(np.random.default_rng(0).random((nq, k)), axis=1) + (d if metric == "l2" else 0)
    peak = peak_of_search(x, xq, k, metric, 2, ceilings=known[:, -1].copy(), known=known)
    assert peak <= kernel.workspace_bytes(5000, nq, d, k, metric) + 100_000


def peak_of_search(x: F32, xq: F32, k: int, metric: Metric, n_threads: int, **options: Any) -> int:
    tracemalloc.start()
    try:
        part = search_block(x, 0, Queries.of(xq), k, metric, n_threads=n_threads, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert part.n_rows == len(x)
    return peak


@pytest.mark.parametrize("metric", METRICS)
def test_workspace_grows_with_rows_queries_and_k(metric: Metric) -> None:
    sizes = [(1, 10), (500, 10_000), (50_000, 200_000)]
    for d in (8, 1536):
        for k in (1, 50, 2000):
            grown = [kernel.workspace_bytes(nb, nq, d, k, metric) for nq, nb in sizes]
            assert grown == sorted(grown)
            fewer = kernel.workspace_bytes(10_000, 500, d, max(1, k // 2), metric)
            assert fewer <= kernel.workspace_bytes(10_000, 500, d, k, metric)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_an_error_while_reading_is_raised(n_threads: int) -> None:
    x, xq = pair_of("normal", 9000, 5, 16, 1, "l2")
    x[8000, 3] = np.nan
    with pytest.raises(DataError, match="the first is row 8000|row 8,000"):
        search_block(
            np.empty_like(x),
            0,
            Queries.of(xq),
            10,
            "l2",
            source=ArraySource(x),
            n_threads=n_threads,
        )


@pytest.mark.parametrize(
    ("n_threads", "scratch", "block", "expected"),
    [(8, 0, 0, 1), (8, 0, 1 << 20, 8), (8, 1 << 20, 16 << 20, 4), (2, 1 << 30, 1 << 20, 1)],
)
def test_readers_scratch_takes_no_more_than_a_quarter_of_the_block(
    n_threads: int, scratch: int, block: int, expected: int
) -> None:
    assert kernel.n_readers(n_threads, scratch, block) == expected


class Crowded(ArraySource):
    """Notes how many read at one time; decoding takes so much memory beside the rows."""

    scratch_bytes = 1 << 20

    def __init__(self, array: F32) -> None:
        super().__init__(array)
        self.n_reading = self.most = 0
        self._lock = threading.Lock()

    def read_into(self, start: int, out: F32) -> None:
        with self._lock:
            self.n_reading += 1
            self.most = max(self.most, self.n_reading)
        time.sleep(1e-3)
        super().read_into(start, out)
        with self._lock:
            self.n_reading -= 1


@pytest.mark.parametrize(("n_rows", "most"), [(1000, 1), (40_000, 2)])
def test_a_block_is_read_by_as_many_as_have_scratch(n_rows: int, most: int) -> None:
    """Of four threads: 40,000 rows of 64 are 9.8 MiB, a quarter of which holds two."""
    x, xq = pair_of("normal", n_rows, 5, 64, 1, "l2")
    source = Crowded(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "TILE_BYTES", 4 * 64 * (n_rows // 20))
        part = search_block(
            np.empty_like(x), FIRST_ID, Queries.of(xq), 9, "l2", source=source, n_threads=4
        )
    assert_is_truth(part, x, xq, 9, "l2")
    assert source.most == most


def test_parts_are_values() -> None:
    x, xq = pair_of("normal", 20, 2, 4, 1, "l2")
    part = search_block(x, 0, Queries.of(xq), 3, "l2")
    with pytest.raises(dataclasses.FrozenInstanceError):
        part.n_rows = 3  # type: ignore[misc]


@pytest.mark.parametrize("metric", METRICS)
def test_products_that_are_no_numbers_lose_no_row(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a BLAS that is broken: nothing says that such a row is far."""
    x, xq = pair_of("normal", 600, 10, 8, 5, metric)
    right = search_block(x, 0, Queries.of(xq), 5, metric)
    multiply = np.matmul

    def broken(a: F32, b: F32, out: F32) -> F32:
        multiply(a, b, out=out)
        out[np.random.default_rng(0).random(out.shape) < 0.5] = np.nan
        return out

    monkeypatch.setattr(np, "matmul", broken)
    part = search_block(x, 0, Queries.of(xq), 5, metric, ceilings=np.full(10, np.inf))
    assert_array_equal(part.ids, right.ids)
    assert_array_equal(part.keys, right.keys)


def test_tiles_are_as_large_as_helps_and_enough_for_the_threads() -> None:
    assert kernel.tile_rows(28_572, 1024, 2) == 2048
    assert kernel.tile_rows(28_572, 1024, 24) == 298
    assert kernel.tile_rows(28_572, 1024, 200) == kernel.LEAST_TILE_ROWS
    assert kernel.tile_rows(10**6, 4, 1) == kernel.MOST_TILE_ROWS
    assert kernel.tile_rows(100, 10**7, 4) == 1


def test_a_task_that_is_run_again_finds_the_same() -> None:
    x, xq = pair_of("normal", 6000, 9, 8, 4, "l2")
    source = ArraySource(x)
    search = tasks.Search("run again", 30, "l2", 2)
    blocks = [
        tasks.BlockTask(source.narrow(a, a + 2000), a, 0, search) for a in range(0, 6000, 2000)
    ]
    parts = [block(xq) for block in blocks[:2]]
    again = blocks[0](xq)
    whole = combine([again, parts[1], blocks[2](xq)], 30)
    assert not uncertified(whole, 30).any()
    assert_array_equal(whole.ids, oracle.neighbours(x, xq, 30, "l2")[1])
