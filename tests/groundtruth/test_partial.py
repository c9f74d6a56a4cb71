"""How many dimensions are multiplied: a bound that holds, and a choice that pays."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq.groundtruth import kernel, partial, products
from haag_vq.groundtruth.kernel import Queries, search_block
from haag_vq.groundtruth.part import combine, uncertified
from haag_vq.groundtruth.partial import best_head, easiest_first, least_pairs, rests, sampled
from haag_vq.groundtruth.workspace import Workspace
from haag_vq.sources import Metric
from tests.groundtruth import oracle
from tests.groundtruth.cases import METRICS, kinds, rows_of, seeds

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
K = 3


@given(kinds, st.integers(1, 30), st.integers(1, 70), seeds, st.data())
@settings(deadline=None, max_examples=200)
def test_no_rest_is_longer_than_its_bound(
    kind: str, n: int, d: int, seed: int, data: st.DataObject
) -> None:
    x = rows_of(kind, n, d, seed)
    head = data.draw(st.integers(0, d))
    exact = np.sqrt((x[:, head:].astype(np.float64) ** 2).sum(axis=1))
    found = rests(x, head)
    assert found.dtype == np.float32
    assert np.all(found >= exact)
    if head == d:
        assert_array_equal(found, 0)
    # Nor is the bound a loose one, but where float32 underflows.
    assert np.all((found <= exact * 1.0001 + 1e-17) | (exact > 1e18))


def sample(spread: float, d: int = 256) -> tuple[F32, F32, F32, F32]:
    """Rows around 400 centres, and a query at 20 of them; weights and offsets as for l2."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((400, d)).astype(np.float32)
    noise = rng.standard_normal((1000, d)).astype(np.float32)
    x = centres[rng.integers(0, 400, 1000)] + np.float32(spread) * noise
    return x, centres[:20], np.ones(1000, np.float32), np.einsum("ij,ij->i", x, x) / np.float32(2)


def floors_of(xq: F32, near: float) -> F32:
    """Least values of rows within squared distances of `near`."""
    norms: F64 = np.sum(xq.astype(np.float64) ** 2, axis=1)
    return ((norms - near) / 2).astype(np.float32)


def test_half_of_the_dimensions_do_where_neighbours_are_near() -> None:
    x, xq, weights, offsets = sample(0.05)
    head, n = best_head(x, xq, weights, offsets, floors_of(xq, 256 * 0.05**2))
    assert head <= 128
    assert n == 20


def test_all_dimensions_are_multiplied_where_neighbours_are_as_far_as_others() -> None:
    x, xq, weights, offsets = sample(1.0)
    assert best_head(x, xq, weights, offsets, floors_of(xq, 256 * 1.9)) == (256, 0)


def test_without_a_ceiling_there_is_nothing_to_choose() -> None:
    x, xq, weights, offsets = sample(0.05)
    assert best_head(x, xq, weights, offsets, np.full(20, -np.inf, np.float32)) == (256, 0)
    # Nor for queries that float32 cannot compare.
    assert best_head(x, xq, weights, offsets, np.full(20, np.inf, np.float32)) == (256, 0)


def test_only_the_first_queries_are_multiplied_in_part_where_the_others_are_hard() -> None:
    x, xq, weights, offsets = sample(0.05)
    floors = floors_of(xq, 256 * 0.05**2)
    floors[12:] = -np.inf
    head, n = best_head(x, xq, weights, offsets, floors)
    assert head <= 128
    assert n == 12
    assert best_head(x, xq, weights, offsets, floors[::-1].copy()) == (256, 0)


@pytest.mark.parametrize("d", [1, 2, 16, 31, 33])
def test_few_dimensions_are_left_whole(d: int) -> None:
    x, xq, weights, offsets = sample(0.05, d)
    head, n = best_head(x, xq, weights, offsets, floors_of(xq, d * 0.05**2))
    assert (head, n) == (d, 0) or d - head > 3


def test_a_choice_leaves_room_for_the_roundings_of_the_bound() -> None:
    """`bounds` proves it for d − 3 leading dimensions and fewer."""
    for d in range(32, 1100, 7):
        x = np.zeros((3, d), np.float32)
        floors = np.ones(2, np.float32)
        head, n = best_head(x, x[:2], np.ones(3, np.float32), np.zeros(3, np.float32), floors)
        assert head <= d - 3 or n == 0


@pytest.mark.parametrize("metric", METRICS)
def test_queries_are_sorted_by_how_near_their_neighbours_are(metric: Metric) -> None:
    rng = np.random.default_rng(3)
    cosines = rng.random(50)
    norms = np.full(50, 4.0) if metric == "l2" else rng.random(50) + 0.5
    # Of rows of length 2; for l2 the queries have it too.
    ceilings = {
        "l2": 4 + norms - 2 * 2 * np.sqrt(norms) * cosines,
        "ip": -2 * np.sqrt(norms) * cosines,
        "cosine": -cosines,
    }[metric]
    ceilings[7] = np.inf
    order = easiest_first(ceilings, norms, metric)
    assert sorted(order) == list(range(50))
    assert order[-1] == 7
    assert_array_equal(order[:-1], [q for q in np.argsort(-cosines) if q != 7])


def test_queries_of_no_length_are_sorted_as_well() -> None:
    for metric in METRICS:
        order = easiest_first(np.array([0.0, 1.0, np.inf]), np.zeros(3), metric)
        assert sorted(order) == [0, 1, 2]


@pytest.mark.parametrize("metric", METRICS)
def test_clustered_rows_are_multiplied_in_part_and_the_answer_is_exact(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is forced: three blocks, of which the first tells the others how near is near."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((400, 256))
    x = centres[rng.integers(0, 400, 12_000)] + 0.3 * rng.standard_normal((12_000, 256))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    # Half of them have their neighbours in no cluster.
    near, far = x[::60] + np.float32(0.001), rng.standard_normal((200, 256)) / 16
    xq = np.concatenate((near, far)).astype(np.float32)[rng.permutation(400)]
    chosen: list[tuple[int, int]] = []
    lock = threading.Lock()

    def noted(*sample: Any) -> tuple[int, int]:
        found = best_head(*sample)
        with lock:
            chosen.append(found)
        return found

    monkeypatch.setattr(partial, "LEAST_USE", 1)
    monkeypatch.setattr(products, "best_head", noted)
    parts, known = [], None
    for at in range(0, 12_000, 4000):
        parts.append(
            search_block(
                x[at : at + 4000],
                at,
                Queries.of(xq),
                K,
                metric,
                ceilings=None if known is None else known.max(axis=1),
                known=known,
                n_threads=2,
            )
        )
        met = np.concatenate([part.keys for part in parts], axis=1)
        known = np.sort(met, axis=1)[:, :K].copy()
    heads = [head for head, n in chosen if n]
    assert heads
    assert max(heads) <= 192
    assert {0 < n < 256 for _, n in chosen} == {True, False}
    whole = combine(parts, K)
    assert not uncertified(whole, K).any()
    some = slice(None, None, 6)  # brute force is slow, and the order of queries random
    keys, ids = oracle.neighbours(x, xq[some], K, metric)
    assert_array_equal(whole.ids[some], ids)
    assert whole.keys[some].tobytes() == keys.tobytes()


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_near_in_spite_of_the_sample_are_multiplied_whole(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base in order of its clusters: the tile that was sampled says nothing of the next."""
    rng = np.random.default_rng(0)
    far = rng.standard_normal((6000, 64)).astype(np.float32)
    far[3000:] = far[0] + np.float32(0.001) * far[3000:]
    xq = (far[0] + np.float32(0.001) * rng.standard_normal((300, 64))).astype(np.float32)
    keys, ids = oracle.neighbours(far, xq, K, metric)
    whole: list[int] = []
    multiply = products.Products.whole

    def noted(self: Any, left: Any, x: F32, first: int, last: int) -> Any:
        whole.append(len(x))
        return multiply(self, left, x, first, last)

    monkeypatch.setattr(partial, "LEAST_USE", 0)
    monkeypatch.setattr(products, "best_head", lambda *_: (16, 150))
    monkeypatch.setattr(products.Products, "whole", noted)
    part = search_block(far, 0, Queries.of(xq), K, metric, ceilings=keys[:, -1].copy())
    assert whole
    assert 0 < min(whole) < kernel.tile_rows(6000, 64, 1)
    assert_array_equal(part.ids, ids)
    assert part.keys.tobytes() == keys.tobytes()


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 511, 512, 10_000])
def test_a_sample_is_spread_over_all(n: int) -> None:
    taken = list(range(n))[sampled(n)]
    assert min(n, partial.N_SAMPLED // 2) <= len(taken) <= partial.N_SAMPLED
    assert n - taken[-1] <= max(1, n // 128)
    assert len(set(np.diff(taken))) <= 1


def test_a_choice_is_made_for_many_times_its_pairs() -> None:
    assert least_pairs(1) < least_pairs(100) < least_pairs(256) == least_pairs(10**6)


def made_products(nq: int, n_rows: int) -> products.Products:
    xq = np.random.default_rng(0).standard_normal((nq, 64)).astype(np.float32)
    return products.Products(xq, n_rows, 1, Workspace(), informed=True)


def offered(some: products.Products, n: int) -> None:
    """Let `n` rows of a tile have their say on what is multiplied."""
    x = np.ones((n, 64), np.float32)
    ones, zeros = np.ones(n, np.float32), np.zeros(n, np.float32)
    some.choose(x, ones, zeros, lambda queries: np.ones(len(queries), np.float32))


def test_a_choice_that_was_wrong_is_not_made_again_before_it_can_have_paid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen: list[int] = []

    def noted(x: F32, *_: Any) -> tuple[int, int]:
        chosen.append(len(x))
        return 16, 150

    monkeypatch.setattr(products, "best_head", noted)
    n = partial.least_rows(300)
    some = made_products(300, 100 * n)
    for turn in range(20):
        offered(some, -(-n // 4))
        for leading, *_ in some.of(np.ones((50, 64), np.float32)):
            if leading.head < 64:
                list(some.whole(leading, np.ones((20, 64), np.float32), 0, 10))
        assert len(chosen) == 1 + turn // 4


def test_a_choice_that_another_thread_has_made_since_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "best_head", lambda *_: (16, 150))
    n = partial.least_rows(300)
    some = made_products(300, 100 * n)
    x = np.ones((50, 64), np.float32)
    offered(some, n)
    old = next(some.of(x))[0]
    for _ in range(2):  # the second choice is made after twice as many rows
        offered(some, n)
    list(some.whole(old, x, 0, 10))
    assert next(some.of(x))[0].head == 16
    list(some.whole(next(some.of(x))[0], x, 0, 10))
    assert next(some.of(x))[0].head == 64
