"""Selecting and sorting candidates against NumPy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from haag_vq.groundtruth.order import kth_smallest, sort_descending

# Few different values: ties are what goes wrong.
numbers = st.lists(
    st.one_of(st.integers(-3, 3).map(float), st.floats(width=32, allow_nan=False)),
    min_size=1,
    max_size=300,
)


@given(numbers, st.data())
@settings(deadline=None)
def test_the_kth_smallest_is_that(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    given_values = np.array(values)
    assert kth_smallest(given_values.copy(), k) == np.sort(given_values)[k - 1]


@given(numbers, st.data())
@settings(deadline=None)
def test_values_take_their_rows_along(values: list[float], data: st.DataObject) -> None:
    n = data.draw(st.integers(0, len(values)))
    before = np.array(values, np.float32)
    after, rows = before.copy(), np.arange(len(values), dtype=np.int32)
    sort_descending(after, rows, n)
    assert np.array_equal(after[:n], -np.sort(-before[:n]))
    assert np.array_equal(after, before[rows])
    assert sorted(rows[:n].tolist()) == list(range(n))
    assert np.array_equal(rows[n:], np.arange(n, len(values)))
