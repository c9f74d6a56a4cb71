"""Parts: merged in any tree and any order to the same bits, and never believed too far."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq.errors import CertificateError
from haag_vq.groundtruth import part as part_module
from haag_vq.groundtruth.part import Part, combine, finalize, sort_and_cut

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

NQ = 2


def bits(part: Part) -> tuple[object, ...]:
    arrays = (part.keys, part.ids, part.frontier, part.frontier_ids)
    return (*((a.shape, a.dtype, a.tobytes()) for a in arrays), part.n_rows, part.n_widened)


def part_of(keys: F64, first_id: int, width: int) -> Part:
    """What an exact search of rows with these D64 keys (nq, n) gives, lists of `width`."""
    n = keys.shape[1]
    ids = np.broadcast_to(np.arange(first_id, first_id + n), keys.shape)
    found, found_ids = sort_and_cut(keys, ids, width)
    if n > width:
        return Part(found, found_ids, found[:, -1].copy(), found_ids[:, -1].copy(), n, 1)
    return Part(found, found_ids, np.full(len(keys), np.inf), np.full(len(keys), -1), n)


def lowered(part: Part, place: int) -> Part:
    """The same lists, known to be complete only up to one of their places."""
    if place >= part.keys.shape[1]:
        return part
    frontier = part.keys[:, place].copy(), part.ids[:, place].copy()
    return Part(part.keys, part.ids, *frontier, part.n_rows, part.n_widened)


@st.composite
def bases(draw: st.DrawFn) -> tuple[F64, list[Part], int]:
    """Keys of a base with many ties, its parts by random cuts, and a k."""
    n = draw(st.integers(1, 40))
    values = st.integers(-3, 3).map(float)
    keys = np.array(
        draw(st.lists(st.lists(values, min_size=n, max_size=n), min_size=NQ, max_size=NQ))
    )
    cuts = [0, *sorted(draw(st.lists(st.integers(0, n), max_size=6))), n]
    k = draw(st.integers(1, 45))
    parts = [part_of(keys[:, a:b], a, k) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    return keys, parts, k


def in_any_tree(parts: list[Part], k: int, data: st.DataObject) -> Part:
    """Combine in an order and with a tree that Hypothesis chooses."""
    left = list(data.draw(st.permutations(parts)))
    while len(left) > 1:
        width = data.draw(st.integers(2, len(left)))
        left = [combine(left[:width], k), *left[width:]]
        left = left[1:] + left[:1]
    return left[0]


@given(bases(), st.data())
@settings(deadline=None, max_examples=200)
def test_any_tree_and_any_order_give_the_same_bits(
    base: tuple[F64, list[Part], int], data: st.DataObject
) -> None:
    _, parts, k = base
    assert bits(in_any_tree(parts, k, data)) == bits(in_any_tree(parts, k, data))
    # One part alone is what the graph's root is when there is one block.
    if len(parts) > 1:
        assert bits(in_any_tree(parts, k, data)) == bits(combine(parts, k))


@given(bases(), st.integers(1, 3))
@settings(deadline=None, max_examples=50)
def test_merging_a_few_queries_at_a_time_changes_no_bit(
    base: tuple[F64, list[Part], int], n_queries: int
) -> None:
    _, parts, k = base
    whole = bits(combine(parts, k))
    width = sum(part.keys.shape[1] for part in parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part_module, "COMBINE_BYTES", n_queries * part_module._sort_bytes(width))
        assert bits(combine(parts, k)) == whole


@pytest.mark.parametrize(("nq", "k"), [(1, 3000), (2000, 50), (20, 2000), (1, 1)])
def test_merging_keeps_to_its_memory(nq: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_module, "COMBINE_BYTES", 1 << 20)
    rng = np.random.default_rng(0)
    parts = [part_of(rng.random((nq, k)), i * k, k) for i in range(8)]
    tracemalloc.start()
    try:
        merged = combine(parts, k)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    frontiers = 10 * nq * 8
    assert peak <= merged.keys.nbytes * 2 + part_module.combine_bytes(8, k) + frontiers + 20_000


@given(bases(), st.data())
@settings(deadline=None, max_examples=200)
def test_incomplete_parts_merge_the_same_in_any_tree(
    base: tuple[F64, list[Part], int], data: st.DataObject
) -> None:
    _, parts, k = base
    places = st.integers(0, 50)
    parts = [lowered(part, data.draw(places)) for part in parts]
    assert bits(in_any_tree(parts, k, data)) == bits(in_any_tree(parts, k, data))


@given(bases(), st.data())
@settings(deadline=None, max_examples=200)
def test_merged_parts_are_the_search_of_all_rows(
    base: tuple[F64, list[Part], int], data: st.DataObject
) -> None:
    keys, parts, k = base
    whole = part_of(keys, 0, k)
    merged = in_any_tree(parts, k, data)
    assert_array_equal(merged.keys, whole.keys)
    assert_array_equal(merged.ids, whole.ids)
    assert merged.n_rows == keys.shape[1]
    if keys.shape[1] < k:
        with pytest.raises(CertificateError, match="fewer than k="):
            finalize(merged, k)
    else:
        found, ids = finalize(merged, k)
        assert_array_equal(found, whole.keys)
        assert_array_equal(ids, whole.ids)


@given(bases(), st.data())
@settings(deadline=None, max_examples=200)
def test_what_finalize_lets_through_is_the_truth(
    base: tuple[F64, list[Part], int], data: st.DataObject
) -> None:
    """Parts that lost rows behind their frontier: either refused, or right all the same."""
    keys, parts, k = base
    pruned = []
    for part in parts:
        place = data.draw(st.integers(0, 50))
        if part.keys.shape[1] > place:
            known = lowered(part, place)
            kept = slice(0, place + 1)
            part = Part(
                known.keys[:, kept],
                known.ids[:, kept],
                known.frontier,
                known.frontier_ids,
                known.n_rows,
            )
        pruned.append(part)
    merged = in_any_tree(pruned, k, data)
    asked = data.draw(st.integers(1, k))
    try:
        found, ids = finalize(merged, asked)
    except CertificateError:
        return
    whole = part_of(keys, 0, asked)
    assert_array_equal(found, whole.keys)
    assert_array_equal(ids, whole.ids)


def hand_made(
    keys: list[float], ids: list[int], frontier: float = np.inf, frontier_id: int = -1
) -> Part:
    return Part(
        np.array([keys]), np.array([ids]), np.array([frontier]), np.array([frontier_id]), 10
    )


@pytest.mark.parametrize(
    ("frontier", "frontier_id", "certified"),
    [
        (np.inf, -1, True),
        (3.5, -1, True),
        (3.0, 7, True),  # the k-th itself
        (3.0, 8, True),  # a later row of the same distance
        (3.0, 6, False),  # an earlier one: row 7 might not be the next
        (3.0, -1, False),
        (2.5, 100, False),
        (-np.inf, -1, False),
    ],
)
def test_the_certificate_compares_distance_and_id(
    frontier: float, frontier_id: int, certified: bool
) -> None:
    part = hand_made([1.0, 2.0, 3.0], [3, 5, 7], frontier, frontier_id)
    if certified:
        assert finalize(part, 3)[1].tolist() == [[3, 5, 7]]
        return
    with pytest.raises(CertificateError, match=r"^1 of 1 queries are not certified; query 0: its "):
        finalize(part, 3)


def test_a_part_certifies_as_far_as_its_frontier() -> None:
    part = hand_made([1.0, 2.0, 3.0], [3, 5, 7], 2.0, 5)
    assert finalize(part, 2)[1].tolist() == [[3, 5]]
    with pytest.raises(CertificateError):
        finalize(part, 3)


def test_the_uncertified_query_is_named() -> None:
    part = Part(
        np.zeros((4, 1)), np.ones((4, 1), np.int64), np.array([1.0, 1, -1, 1]), np.full(4, -1), 9
    )
    with pytest.raises(CertificateError, match="query 2: its neighbour 1 has key"):
        finalize(part, 1)


def test_fewer_than_k_are_refused_with_the_queries() -> None:
    whole = np.array([[1.0, 2.0], [1.0, np.inf]]), np.array([[4, 5], [4, -1]])
    part = Part(*whole, np.full(2, np.inf), np.full(2, -1), 2)
    with pytest.raises(CertificateError, match=r"fewer than k=2 .* 2 rows: \[1\] are"):
        finalize(part, 2)
    with pytest.raises(CertificateError, match="fewer than k=3"):
        finalize(part, 3)
    assert finalize(part, 1)[1].tolist() == [[4], [4]]


def test_combine_keeps_the_smaller_frontier() -> None:
    near = hand_made([1.0, 5.0], [0, 1], 5.0, 1)
    far = hand_made([2.0, 9.0], [10, 11])
    merged = combine([near, far], 4)
    assert merged.keys.tolist() == [[1.0, 2.0, 5.0, 9.0]]
    # Row 11 is in the list; a row of `near` between 5 and 9 may not be.
    assert (merged.frontier[0], merged.frontier_ids[0]) == (5.0, 1)
    assert finalize(merged, 3)[1].tolist() == [[0, 10, 1]]
    with pytest.raises(CertificateError):
        finalize(merged, 4)


def test_a_cut_lowers_the_frontier_to_the_last_kept() -> None:
    merged = combine([hand_made([1.0, 3.0], [0, 1]), hand_made([3.0, 3.0], [10, 11])], 3)
    assert merged.ids.tolist() == [[0, 1, 10]]
    assert (merged.frontier[0], merged.frontier_ids[0]) == (3.0, 10)


def test_nothing_cut_leaves_the_frontier_open() -> None:
    merged = combine([hand_made([1.0, 3.0], [0, 1]), hand_made([3.0], [10])], 3)
    assert (merged.frontier[0], merged.frontier_ids[0]) == (np.inf, -1)


def test_padding_is_no_row() -> None:
    padded = hand_made([1.0, np.inf, np.inf], [0, -1, -1])
    merged = combine([padded, hand_made([2.0], [10])], 3)
    assert merged.ids.tolist() == [[0, 10, -1]]
    assert merged.frontier[0] == np.inf
    assert combine([merged, hand_made([0.5], [20])], 3).ids.tolist() == [[20, 0, 10]]


def test_counts_add_up() -> None:
    none = np.empty((1, 0)), np.empty((1, 0), np.int64)
    parts = [Part(*none, np.full(1, np.inf), np.full(1, -1), n, 10 * n) for n in (1, 2)]
    merged = combine(parts, 3)
    assert (merged.n_rows, merged.n_widened) == (3, 30)


def test_equal_keys_are_ordered_by_id() -> None:
    keys, ids = sort_and_cut(np.array([[2.0, 1.0, 2.0, 1.0]]), np.array([[9, 8, 3, 4]]), 3)
    assert keys.tolist() == [[1, 1, 2]]
    assert ids.tolist() == [[4, 8, 3]]
