"""The compiled merge against a sort."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq.groundtruth.merge import merge

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

Lists = tuple[F64, I64, U64]
Entry = tuple[float, int, int]

# Few values, so that most are tied; an entry's fingerprint follows from its id.
entries = st.lists(
    st.tuples(st.sampled_from([-np.inf, -1.0, 0.0, 2.0, np.inf]), st.integers(0, 60)),
    max_size=12,
    unique_by=lambda entry: entry[1],
)


def fingerprint(row: int) -> int:
    return (row * 0x9E3779B97F4A7C15 + 7) % 2**64


def lists_of(rows: list[list[tuple[float, int]]], width: int) -> Lists:
    """Sorted lists a query, padded to `width`."""
    keys = np.full((len(rows), width), np.inf)
    ids, hashes = np.full(keys.shape, -1, np.int64), np.zeros(keys.shape, np.uint64)
    for q, found in enumerate(rows):
        for place, (key, row) in enumerate(sorted(found)):
            keys[q, place], ids[q, place], hashes[q, place] = key, row, fingerprint(row)
    return keys, ids, hashes


def merged(a: Lists, b: Lists, width: int) -> Lists:
    shape = (len(a[0]), width)
    out = np.full(shape, np.nan), np.full(shape, 77, np.int64), np.full(shape, 77, np.uint64)
    merge(*a, *b, *out)
    return out


@given(st.lists(st.tuples(entries, entries), min_size=1, max_size=5), st.integers(0, 30))
@settings(deadline=None, max_examples=300)
def test_merging_is_sorting_both(
    pairs: list[tuple[list[tuple[float, int]], list[tuple[float, int]]]], width: int
) -> None:
    # Rows are of one list or of the other.
    mine = [a for a, _ in pairs]
    others = [[(key, row + 100) for key, row in b] for _, b in pairs]
    a = lists_of(mine, max(map(len, mine)))
    b = lists_of(others, max(map(len, others)) + 1)
    expected = lists_of(
        [sorted([*x, *y])[:width] for x, y in zip(mine, others, strict=True)], width
    )
    for found in (merged(a, b, width), merged(b, a, width)):
        for array, right in zip(found, expected, strict=True):
            assert_array_equal(array, right)


def test_a_row_at_an_infinite_distance_is_one_all_the_same() -> None:
    """Only the id tells padding from a row whose D64 is beyond float64."""
    a, b = lists_of([[(np.inf, 5)]], 2), lists_of([[(1.0, 9), (np.inf, 3)]], 2)
    assert merged(a, b, 4)[1].tolist() == [[9, 3, 5, -1]]


def test_what_does_not_fit_is_left_out_and_the_rest_is_padded() -> None:
    a, b = lists_of([[(1.0, 1), (3.0, 2)], []], 2), lists_of([[(2.0, 11)], [(4.0, 12)]], 1)
    keys, ids, hashes = merged(a, b, 2)
    assert keys.tolist() == [[1.0, 2.0], [4.0, np.inf]]
    assert ids.tolist() == [[1, 11], [12, -1]]
    assert hashes.tolist() == [[fingerprint(1), fingerprint(11)], [fingerprint(12), 0]]


def test_inputs_are_left_alone() -> None:
    a, b = lists_of([[(1.0, 1)]], 3), lists_of([[(0.5, 2)]], 3)
    for array in (*a, *b):
        array.flags.writeable = False
    assert merged(a, b, 3)[1].tolist() == [[2, 1, -1]]
