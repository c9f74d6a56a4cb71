"""What a search is asked: every refusal, and what is read of what is given."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq.errors import DataError, UsageError
from haag_vq.groundtruth.inputs import EXTRA, Inputs, read_inputs
from haag_vq.sources import ArraySource, Metric, SyntheticSource, open_source
from haag_vq.sources.protocol import F32
from tests.support.files import vectors, write_npy

BASE = SyntheticSource(50, 8)
QUERIES = np.arange(24, dtype=np.float32).reshape(3, 8) + 1


def read(**changed: Any) -> Inputs:
    usual: dict[str, Any] = {
        "base": BASE,
        "queries": QUERIES,
        "k": 5,
        "metric": "l2",
        "prefixes": None,
        "exclude_self": False,
        "progress": False,
    }
    return read_inputs(**{**usual, **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"k": 51}, "k=51 neighbours asked of a base of 50 rows: take 1 to 50"),
        ({"k": 0}, "k=0 neighbours"),
        ({"k": -1}, "k=-1 neighbours"),
        ({"k": 2.5}, "2.5"),
        ({"k": "5"}, "'5'"),
        ({"k": 50, "exclude_self": True}, "beside the query itself .* 50 rows: take 1 to 49"),
        ({"k": 30, "prefixes": [40, 20]}, "k=30 neighbours asked of a prefix of 20 rows"),
        ({"k": 20, "prefixes": [40, 20], "exclude_self": True}, "take 1 to 19"),
        ({"prefixes": []}, "prefixes is empty"),
        ({"prefixes": [0]}, "a prefix of 0 rows was asked of a base of 50 rows"),
        ({"prefixes": [10, 51]}, "a prefix of 51 rows"),
        ({"prefixes": [-3]}, "a prefix of -3 rows"),
        ({"prefixes": [10.5]}, "10.5"),
        ({"queries": np.ones((3, 9), np.float32)}, "dimension 9, the base has 8"),
        ({"queries": np.empty((0, 8), np.float32)}, "no queries"),
        ({"queries": None}, "no queries of its own: pass queries="),
        ({"metric": "L2"}, "metric 'L2' is none of"),
        ({"metric": "auto"}, "no metric of its own"),
        ({"base": [[1.0, 2.0]]}, "cannot search in a list"),
        ({"base": da.ones((50, 8), chunks=(10, 4))}, r"columns are cut into \(4, 4\)"),
        ({"base": da.ones(50, chunks=10)}, "two-dimensional"),
        ({"base": da.ones((50, 8), chunks=(10, 8), dtype="int64")}, r"the array holds int64.*asty"),
        ({"base": SyntheticSource(0, 8), "k": 1}, "base of 0 rows"),
    ],
)
def test_what_makes_no_sense_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(**changed)


def test_unknown_chunks_are_refused() -> None:
    array = da.ones((50, 8), chunks=(10, 8))
    with pytest.raises(UsageError, match=r"unknown chunk sizes; call compute_chunk_sizes\(\)"):
        read(base=array[array[:, 0] > 0])


@pytest.mark.parametrize("dtype", ["int64", "complex64", "bool", "object"])
def test_element_types_without_a_meaning_are_refused(dtype: str) -> None:
    for changed in ({"base": np.ones((50, 8)).astype(dtype)}, {"queries": QUERIES.astype(dtype)}):
        with pytest.raises(DataError, match=f"an array of {dtype}"):
            read(**changed)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_queries_that_are_not_finite_are_named(bad: float) -> None:
    queries = QUERIES.copy()
    queries[2, 5] = bad
    with pytest.raises(
        DataError, match="the array of queries holds NaN or infinity.* the first is row 2"
    ):
        read(queries=queries)


def test_zero_queries_are_named_under_cosine_only() -> None:
    queries = QUERIES.copy()
    queries[1], queries[2] = 0, -0.0
    with pytest.raises(DataError, match=r"2 zero vector\(s\) among the queries, .* query 1:"):
        read(queries=queries, metric="cosine")
    for metric in ("l2", "ip"):
        assert_array_equal(read(queries=queries, metric=metric).question.xq, queries)
    # The smallest there is has a direction.
    queries[1:] = np.float32(2.0**-149)
    read(queries=queries, metric="cosine")


def test_queries_come_from_anywhere() -> None:
    for queries in (
        QUERIES,
        ArraySource(QUERIES),
        Dataset(QUERIES),
        da.from_array(QUERIES, chunks=(2, 8)),
        QUERIES.tolist(),
        np.asfortranarray(QUERIES),
        QUERIES[::-1][::-1],
        QUERIES.astype(np.float64),
        QUERIES.astype(np.uint8),
    ):
        xq = read(queries=queries).question.xq
        assert_array_equal(xq, QUERIES)
        assert xq.dtype == np.float32
        assert xq.flags.c_contiguous


class Dataset:
    """What the search knows of a dataset."""

    name = "its name"
    query_origin = "held out"

    def __init__(
        self, x: F32, queries: Any = None, metric: Metric | None = None, rows: Any = None
    ) -> None:
        self.source, self.queries, self.metric = ArraySource(x), queries, metric
        self.query_rows = rows


def test_a_datasets_own_queries_and_metric() -> None:
    rows = np.array([7, 8, 9])
    base = Dataset(vectors(50, 8), QUERIES, "cosine", rows)
    question = read(base=base, queries=None, metric="auto").question
    assert (question.metric, question.dataset, question.query_source) == (
        "cosine",
        "its name",
        "held out",
    )
    assert question.query_rows is rows
    assert read(base=base, queries=None).question.metric == "l2"
    # Other queries are not the rows that its own were.
    given = read(base=base, queries=QUERIES).question
    assert given.query_rows is None
    assert given.query_source == "given as an array"


def test_queries_of_a_file_are_named_by_it(tmp_path: Path) -> None:
    path = write_npy(tmp_path / "q.npy", QUERIES)
    assert read(queries=open_source(path)).question.query_source == str(path)


def test_a_question_is_known_by_its_metric_and_its_queries() -> None:
    question = read().question
    assert question.width == 5 + EXTRA
    assert question.queries_sha256 == hashlib.sha256(QUERIES.tobytes()).hexdigest()
    assert read(k=7).question.tag == question.tag
    assert replace(question, metric="ip").tag != question.tag
    assert read(queries=QUERIES[::-1]).question.tag != question.tag


@pytest.mark.parametrize(
    ("prefixes", "ends", "segments"),
    [
        (None, (50,), [(0, 50)]),
        ([None], (50,), [(0, 50)]),
        ([30, 10, None, 10], (30, 10, 50, 10), [(0, 10), (10, 30), (30, 50)]),
        ([20], (20,), [(0, 20)]),
        ([50, None], (50, 50), [(0, 50)]),
    ],
)
def test_prefixes_cut_the_base(
    prefixes: list[int | None] | None, ends: tuple[int, ...], segments: list[tuple[int, int]]
) -> None:
    inputs = read(prefixes=prefixes)
    assert inputs.ends == ends
    assert inputs.segments == segments


def test_rows_are_known_by_their_source_or_by_the_users_word() -> None:
    inputs = read()
    assert inputs.fingerprint(10, 20) == BASE.narrow(10, 20).fingerprint
    array: NDArray[Any] = da.ones((50, 8), chunks=(10, 8))
    assert read(base=array).fingerprint(10, 20) == ""
    words = {read(base=array).fingerprint(a, 20, "mine") for a in (0, 10)}
    assert len(words) == 2
    assert all("mine" in word for word in words)
