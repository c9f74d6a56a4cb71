"""Parts: merged in any tree and any order to the same bits, and never believed too far."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq.errors import CertificateError
from haag_vq.groundtruth.part import (
    Part,
    Tally,
    combine,
    combine_bytes,
    finalize,
    replaced,
    select,
    uncertified,
)

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

NQ = 2
LARGEST_ID = np.iinfo(np.int64).max


def hashes_of(ids: I64) -> U64:
    """A fingerprint of each row; 0 where there is none."""
    return np.where(ids < 0, 0, ids * 2_654_435_761 + 1).astype(np.uint64)


def bits(part: Part) -> tuple[object, ...]:
    arrays = (part.keys, part.ids, part.hashes, part.frontier, part.frontier_ids)
    return (*((a.shape, a.dtype, a.tobytes()) for a in arrays), part.n_rows, part.tally)


def part_of(keys: F64, first_id: int, width: int) -> Part:
    """What an exact search of rows with these D64 keys (nq, n) gives, lists of `width`."""
    n = keys.shape[1]
    ids = np.broadcast_to(np.arange(first_id, first_id + n), keys.shape)
    order = np.lexsort((ids, keys))[:, :width]
    found, rows = np.take_along_axis(keys, order, 1), np.take_along_axis(ids, order, 1)
    frontier, frontier_ids = np.full(len(keys), np.inf), np.full(len(keys), -1)
    if n > width:
        frontier, frontier_ids = found[:, -1].copy(), rows[:, -1].copy()
    tally = Tally(n, 1, n / 100)
    return Part(found, rows, hashes_of(rows), frontier, frontier_ids, n, tally)


def pruned(part: Part, ceiling: float) -> Part:
    """The same rows, of which none above a ceiling was asked for: one may be listed or not."""
    keys, ids = part.keys.copy(), part.ids.copy()
    beyond = keys > ceiling
    keys[beyond], ids[beyond] = np.inf, -1
    lower = ceiling < part.frontier
    return replace(
        part,
        keys=keys,
        ids=ids,
        hashes=hashes_of(ids),
        frontier=np.where(lower, ceiling, part.frontier),
        frontier_ids=np.where(lower, LARGEST_ID, part.frontier_ids),
    )


def lowered(part: Part, place: int) -> Part:
    """The same lists, known to be complete only up to one of their places."""
    if place >= part.keys.shape[1]:
        return part
    keys, ids = part.keys[:, place], part.ids[:, place]
    # Never raised: padding is no row, and a ceiling may be lower already.
    lower = (ids >= 0) & (keys <= part.frontier)
    return replace(
        part,
        frontier=np.where(lower, keys, part.frontier),
        frontier_ids=np.where(lower, ids, part.frontier_ids),
    )


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


@st.composite
def pruned_bases(draw: st.DrawFn) -> tuple[F64, list[Part], int]:
    """The same, with parts that are pruned, or not known to be complete."""
    keys, parts, k = draw(bases())
    ceilings = st.integers(-4, 4).map(lambda v: v / 1.0) | st.just(np.inf)
    parts = [pruned(part, draw(ceilings)) for part in parts]
    return keys, [lowered(part, draw(st.integers(0, 50))) for part in parts], k


def in_any_tree(parts: list[Part], k: int, data: st.DataObject) -> Part:
    """Combine in an order and with a tree that Hypothesis chooses."""
    left = list(data.draw(st.permutations(parts)))
    while len(left) > 1:
        width = data.draw(st.integers(2, len(left)))
        left = [combine(left[:width], k), *left[width:]]
        left = left[1:] + left[:1]
    return left[0]


@given(bases() | pruned_bases(), st.data())
@settings(deadline=None, max_examples=150)
def test_any_tree_and_any_order_give_the_same_bits(
    base: tuple[F64, list[Part], int], data: st.DataObject
) -> None:
    _, parts, k = base
    assert bits(in_any_tree(parts, k, data)) == bits(in_any_tree(parts, k, data))
    # One part alone is what the graph's root is when there is one block.
    if len(parts) > 1:
        assert bits(in_any_tree(parts, k, data)) == bits(combine(parts, k))


@given(bases(), st.data())
@settings(deadline=None, max_examples=150)
def test_merged_parts_are_the_search_of_all_rows(
    base: tuple[F64, list[Part], int], data: st.DataObject
) -> None:
    keys, parts, k = base
    whole = part_of(keys, 0, k)
    merged = in_any_tree(parts, k, data)
    assert not uncertified(merged, k).any()
    for found, right in zip(
        finalize(merged, k), (whole.keys, whole.ids, whole.hashes), strict=True
    ):
        assert_array_equal(found, right)
    assert merged.n_rows == keys.shape[1]
    assert_array_equal(merged.frontier, whole.frontier)
    assert_array_equal(merged.frontier_ids, whole.frontier_ids)


@given(pruned_bases(), st.data())
@settings(deadline=None, max_examples=150)
def test_what_finalize_lets_through_is_the_truth(
    base: tuple[F64, list[Part], int], data: st.DataObject
) -> None:
    """Parts that lost rows behind their frontier: either refused, or right all the same."""
    keys, parts, k = base
    merged = in_any_tree(parts, k, data)
    asked = data.draw(st.integers(1, k))
    whole = part_of(keys, 0, asked)
    sound = np.flatnonzero(~uncertified(merged, asked))
    wanted = min(asked, keys.shape[1])
    assert_array_equal(merged.keys[sound, :wanted], whole.keys[sound])
    assert_array_equal(merged.ids[sound, :wanted], whole.ids[sound])
    if len(sound) == NQ:
        assert_array_equal(finalize(merged, asked)[1], whole.ids)
    else:
        with pytest.raises(CertificateError):
            finalize(merged, asked)


@given(bases(), st.data())
@settings(deadline=None, max_examples=150)
def test_a_true_ceiling_costs_no_certificate(
    base: tuple[F64, list[Part], int], data: st.DataObject
) -> None:
    """Parts pruned by an upper bound of the k-th key, equality kept, still prove the answer."""
    keys, parts, k = base
    whole = part_of(keys, 0, k)
    kth = float(whole.keys[:, -1].max()) if keys.shape[1] >= k else np.inf
    slack = data.draw(st.sampled_from([0.0, 1.0, np.inf]))
    merged = in_any_tree([pruned(part, kth + slack) for part in parts], k, data)
    assert_array_equal(finalize(merged, k)[1], whole.ids)


@given(pruned_bases(), st.data())
@settings(deadline=None, max_examples=100)
def test_some_queries_are_cut_out_and_put_back(
    base: tuple[F64, list[Part], int], data: st.DataObject
) -> None:
    """Redone by themselves, the unproven queries' lists take the place of what was there."""
    keys, parts, k = base
    merged = combine(parts, k)
    wrong = np.flatnonzero(uncertified(merged, k))
    redone = part_of(keys[wrong], 0, k)
    mended = replaced(merged, wrong, redone)
    whole = part_of(keys, 0, k)
    assert_array_equal(finalize(mended, k)[1], whole.ids)
    assert_array_equal(finalize(mended, k)[2], whole.hashes)
    assert bits(select(mended, wrong))[3:6] == bits(redone)[3:6]
    assert mended.tally == merged.tally + redone.tally
    kept = np.flatnonzero(~uncertified(merged, k))
    assert_array_equal(mended.frontier[kept], merged.frontier[kept])


def hand_made(
    keys: list[float],
    ids: list[int],
    frontier: float = np.inf,
    frontier_id: int = -1,
    n_rows: int = 10,
) -> Part:
    rows = np.array([ids], np.int64)
    return Part(
        np.array([keys], np.float64),
        rows,
        hashes_of(rows),
        np.array([frontier]),
        np.array([frontier_id]),
        n_rows,
    )


@pytest.mark.parametrize(
    ("frontier", "frontier_id", "certified"),
    [
        (np.inf, -1, True),
        (3.5, -1, True),
        (3.0, 7, True),  # the k-th itself
        (3.0, 8, True),  # a later row of the same distance
        (3.0, LARGEST_ID, True),  # a ceiling: all of that distance
        (3.0, 6, False),  # an earlier one: row 7 might not be the next
        (3.0, -1, False),
        (2.5, LARGEST_ID, False),
        (-np.inf, -1, False),
    ],
)
def test_the_certificate_compares_distance_and_id(
    frontier: float, frontier_id: int, certified: bool
) -> None:
    part = hand_made([1.0, 2.0, 3.0], [3, 5, 7], frontier, frontier_id)
    assert uncertified(part, 3).tolist() == [not certified]
    if certified:
        assert finalize(part, 3)[1].tolist() == [[3, 5, 7]]
        return
    with pytest.raises(CertificateError, match=r"^1 of 1 queries are not certified; query 0: 3 of"):
        finalize(part, 3)


def test_a_part_certifies_as_far_as_its_frontier() -> None:
    part = hand_made([1.0, 2.0, 3.0], [3, 5, 7], 2.0, 5)
    assert finalize(part, 2)[1].tolist() == [[3, 5]]
    with pytest.raises(CertificateError):
        finalize(part, 3)


def test_all_rows_listed_need_no_frontier() -> None:
    """Where every row is there, nothing can have been left out, whatever a frontier says."""
    part = hand_made([1.0, 2.0, 3.0], [3, 5, 7], 0.5, -1, n_rows=3)
    assert not uncertified(part, 3).any()
    assert finalize(part, 5)[1].tolist() == [[3, 5, 7]]
    assert uncertified(replace(part, n_rows=4), 3).all()


def test_a_row_at_an_infinite_distance_is_listed_and_certified() -> None:
    part = hand_made([1.0, np.inf], [3, 5], n_rows=2)
    assert finalize(part, 2)[1].tolist() == [[3, 5]]


@pytest.mark.parametrize("n_rows", [2, 3, 10])
def test_fewer_than_k_must_be_all_rows(n_rows: int) -> None:
    part = hand_made([1.0, 2.0, np.inf], [4, 5, -1], n_rows=n_rows)
    assert uncertified(part, 3).tolist() == [n_rows > 2]
    if n_rows == 2:
        assert finalize(part, 3)[1].tolist() == [[4, 5]]
    else:
        with pytest.raises(CertificateError, match=rf"2 of k=3 neighbours among {n_rows} rows"):
            finalize(part, 3)


def test_lists_shorter_than_k_are_not_certified() -> None:
    part = hand_made([1.0, 2.0], [4, 5])
    assert uncertified(part, 3).all()
    with pytest.raises(CertificateError):
        finalize(part, 3)
    assert finalize(part, 1)[1].tolist() == [[4]]


def test_a_base_without_rows_is_certified() -> None:
    part = hand_made([], [], n_rows=0)
    assert not uncertified(part, 3).any()
    assert finalize(part, 3)[0].shape == (1, 0)


def test_the_uncertified_query_is_named() -> None:
    ids = np.ones((4, 1), np.int64)
    part = Part(np.zeros((4, 1)), ids, hashes_of(ids), np.array([1.0, 1, -1, 1]), np.full(4, -1), 9)
    with pytest.raises(CertificateError, match=r"^1 of 4 .*query 2: 1 of k=1 .* please report it"):
        finalize(part, 1)


def test_a_query_without_neighbours_is_named_too() -> None:
    with pytest.raises(CertificateError, match="the last is 'none'"):
        finalize(hand_made([np.inf], [-1]), 1)


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


def test_one_part_that_is_longer_than_k_is_cut_too() -> None:
    merged = combine([hand_made([1.0, 3.0, 3.0], [0, 1, 2])], 2)
    assert merged.ids.tolist() == [[0, 1]]
    assert (merged.frontier[0], merged.frontier_ids[0], merged.n_rows) == (3.0, 1, 10)


def test_nothing_cut_leaves_the_frontier_open() -> None:
    merged = combine([hand_made([1.0, 3.0], [0, 1]), hand_made([3.0], [10])], 3)
    assert (merged.frontier[0], merged.frontier_ids[0]) == (np.inf, -1)


def test_padding_is_no_row() -> None:
    padded = hand_made([1.0, np.inf, np.inf], [0, -1, -1])
    merged = combine([padded, hand_made([2.0], [10])], 3)
    assert merged.ids.tolist() == [[0, 10, -1]]
    assert merged.hashes[0, 2] == 0
    assert merged.frontier[0] == np.inf
    assert combine([merged, hand_made([0.5], [20])], 3).ids.tolist() == [[20, 0, 10]]


def test_counts_add_up_and_the_largest_error_stays() -> None:
    parts = [replace(hand_made([], [], n_rows=n), tally=Tally(n, 10 * n, 0.5 / n)) for n in (1, 2)]
    merged = combine(parts, 3)
    assert (merged.n_rows, merged.tally) == (3, Tally(3, 30, 0.5))


@pytest.mark.parametrize(("nq", "k"), [(1, 3000), (2000, 50), (20, 2000), (1, 1)])
def test_merging_keeps_to_its_memory(nq: int, k: int) -> None:
    rng = np.random.default_rng(0)
    parts = [part_of(rng.random((nq, k)), i * k, k) for i in range(8)]
    combine(parts[:2], k)  # compiled before it is measured
    tracemalloc.start()
    try:
        combine(parts, k)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= combine_bytes(nq, k)
