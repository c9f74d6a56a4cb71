"""Lists of neighbours looked up by brute force; lists that are no ground truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haag_vq.errors import DataError
from haag_vq.groundtruth.lists import checked_keys, columns_of, later_copies
from haag_vq.groundtruth.result import GroundTruth
from haag_vq.sources import Metric
from tests.groundtruth.cases import METRICS

# Few values, far apart, with padding.
IDS = st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**62])


@given(st.integers(0, 4), st.integers(0, 5), st.integers(0, 5), st.data())
def test_columns_by_brute_force(nq: int, width: int, m: int, data: st.DataObject) -> None:
    unique = st.lists(IDS.filter(lambda i: i >= 0), min_size=width, max_size=width, unique=True)
    padding = [-1] * data.draw(st.integers(0, 2))
    among = [data.draw(unique) + padding for _ in range(nq)]
    ids = [[data.draw(IDS) for _ in range(m)] for _ in range(nq)]
    found = columns_of(
        np.array(ids, np.int64).reshape(nq, m),
        np.array(among, np.int64).reshape(nq, width + len(padding)),
    )
    assert found.tolist() == [
        [listed.index(i) if i >= 0 and i in listed else -1 for i in wanted]
        for wanted, listed in zip(ids, among, strict=True)
    ]


@given(st.lists(st.lists(IDS, min_size=5, max_size=5), min_size=1, max_size=4))
def test_later_copies_by_brute_force(ids: list[list[int]]) -> None:
    assert later_copies(np.array(ids)).tolist() == [
        [i >= 0 and i in row[:at] for at, i in enumerate(row)] for row in ids
    ]


@pytest.mark.parametrize(
    ("ids", "distances", "metric", "message"),
    [
        (
            [[0, 1], [2, -1]],
            [[1, 2], [1, 2]],
            "l2",
            r"no neighbour at rank 2 of query 1 .* up to 1",
        ),
        ([[0, 1], [2, 9]], [[1, 2], [1, 2]], "l2", r"id 9 at rank 2 of query 1, the base has rows"),
        ([[0, 1], [2, 2]], [[1, 2], [1, 2]], "l2", "lists row 2 twice for query 1"),
        ([[0, 1], [2, 3]], [[1, 2], [1, np.nan]], "l2", "distance nan at rank 2 of query 1"),
        ([[0, 1], [2, 3]], [[1, 2], [1, np.inf]], "l2", "distance inf at rank 2 of query 1"),
        ([[0, 1], [2, 3]], [[1, 2], [2, 1]], "l2", "not in the order of l2: query 1 has 2 at rank"),
        ([[0, 1], [2, 3]], [[2, 1], [1, 2]], "ip", "not in the order of ip: query 1 has 1 at rank"),
    ],
)
def test_what_is_no_truth_is_refused(
    ids: Any, distances: Any, metric: Metric, message: str
) -> None:
    truth = GroundTruth(np.array(ids), np.array(distances, float), metric, 9, 1)
    with pytest.raises(DataError, match=f"^T .*{message}|^T {message}"):
        checked_keys(truth, 2, "T")
    if "outside" not in message and "id 9" not in message:
        checked_keys(truth, 1, "T")  # the first places are sound


def test_keys_are_smaller_for_nearer() -> None:
    ids, distances = np.array([[0, 1]]), np.array([[2.0, 1.0]])
    for metric in METRICS[1:]:
        truth = GroundTruth(ids, distances, metric, 0, 0)
        assert checked_keys(truth, 2, "T").tolist() == [[-2.0, -1.0]]
