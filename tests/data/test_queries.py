"""Where queries come from, and what that leaves of the base."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haag_vq import open_dataset
from haag_vq.data.queries import QuerySpec, as_rows, limited, split_queries
from haag_vq.errors import DataError, SourceNotFoundError, UsageError
from haag_vq.sources import ArraySource
from tests.data.forbidden import ForbiddenSource
from tests.support.files import read_rows, vectors, write_npy, write_parquet

BASE = vectors(57, 6)


def split(
    spec: str, limit: int | None = None, seed: int = 0, n: int = len(BASE)
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Base and queries of a spec over rows that hold their own number; and where they lie."""
    rows = np.repeat(np.arange(n, dtype=np.float32)[:, None], 3, axis=1)
    base, queries = split_queries(ArraySource(rows), QuerySpec.parse(spec), limit, seed)
    return (
        read_rows(base)[:, 0].astype(int),
        read_rows(queries)[:, 0].astype(int),
        base.stored_rows(np.arange(base.n_rows)),
        queries.stored_rows(np.arange(queries.n_rows)),
    )


@pytest.mark.parametrize(
    ("text", "kind", "n", "path"),
    [
        ("first:100", "first", 100, ""),
        ("holdout:1", "holdout", 1, ""),
        ("sample:007", "sample", 7, ""),
        ("queries.npy", "file", 0, "queries.npy"),
        ("dir/with:colon.npy", "file", 0, "dir/with:colon.npy"),
        ("first", "file", 0, "first"),
        ("c:/first.npy", "file", 0, "c:/first.npy"),
    ],
)
def test_specs(text: str, kind: str, n: int, path: str) -> None:
    assert QuerySpec.parse(text) == QuerySpec(kind, n, path)
    assert QuerySpec.parse(Path(path)).kind == "file" if path else True


@pytest.mark.parametrize(
    "text", ["first:", "first:0", "holdout:-3", "sample:1.5", "sample:1e3", "first: 3", "holdout:x"]
)
def test_a_bad_number_is_refused_with_the_spec_named(text: str) -> None:
    with pytest.raises(UsageError, match="positive number of queries") as caught:
        QuerySpec.parse(text)
    assert repr(text) in str(caught.value)


def test_first_queries_stay_in_the_base() -> None:
    base, queries, stored_base, stored_queries = split("first:5")
    assert queries.tolist() == [0, 1, 2, 3, 4]
    assert base.tolist() == stored_base.tolist() == list(range(57))
    assert stored_queries.tolist() == queries.tolist()


def test_first_is_at_most_everything_that_the_limit_leaves() -> None:
    base, queries, _, _ = split("first:100", limit=7)
    assert base.tolist() == queries.tolist() == list(range(7))


def test_sampled_queries_come_from_the_limited_base_and_stay_in_it() -> None:
    base, queries, _, stored_queries = split("sample:4", limit=9)
    assert base.tolist() == list(range(9))
    assert set(queries.tolist()) <= set(range(9))
    assert len(set(queries.tolist())) == 4
    assert stored_queries.tolist() == queries.tolist()


def test_sampling_more_than_the_limit_leaves_is_refused() -> None:
    with pytest.raises(UsageError, match="sample:10 asked of a base of 9 rows"):
        split("sample:10", limit=9)


@given(
    st.integers(2, 80),
    st.data(),
    st.integers(0, 5),
)
def test_held_out_rows_leave_the_base_and_ids_map_back(
    n: int, data: st.DataObject, seed: int
) -> None:
    n_held = data.draw(st.integers(1, n - 1))
    limit = data.draw(st.none() | st.integers(1, n + 3))
    base, queries, stored_base, stored_queries = split(f"holdout:{n_held}", limit, seed, n)
    assert len(queries) == n_held
    assert np.all(np.diff(queries) > 0)
    remaining = [row for row in range(n) if row not in set(queries.tolist())]
    # The limit counts what remains; held-out rows come from the whole set whatever it is.
    assert base.tolist() == remaining[: n if limit is None else limit]
    assert stored_base.tolist() == base.tolist()
    assert stored_queries.tolist() == queries.tolist()


def test_held_out_rows_do_not_depend_on_the_limit() -> None:
    assert split("holdout:9", limit=3)[1].tolist() == split("holdout:9")[1].tolist()
    assert split("holdout:9", limit=3)[1].max() > 12


def test_held_out_rows_depend_on_the_seed() -> None:
    assert split("holdout:9", seed=1)[1].tolist() != split("holdout:9", seed=2)[1].tolist()


def test_held_out_rows_are_not_those_of_a_sample_of_that_seed() -> None:
    held = set(split("holdout:500", n=100_000)[1].tolist())
    sampled = set(split("sample:500", n=100_000)[1].tolist())
    assert len(held & sampled) < 20  # 2.5 expected


@pytest.mark.parametrize("n_held", [57, 58, 1_000])
def test_a_holdout_must_leave_something(n_held: int) -> None:
    with pytest.raises(UsageError, match=f"holdout:{n_held} would leave nothing of 57 rows"):
        split(f"holdout:{n_held}")


def test_a_negative_seed_is_told_as_it_was_given() -> None:
    for spec in ("holdout:3", "sample:3"):
        with pytest.raises(UsageError, match="^seed=-1 "):
            split(spec, seed=-1)


def test_splitting_reads_nothing() -> None:
    source = ForbiddenSource(1_000_000, 8)
    for spec in ("first:10", "holdout:10", "sample:10"):
        base, queries = split_queries(source, QuerySpec.parse(spec), 500, 0)
        assert (base.n_rows, queries.n_rows) == (500, 10)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_must_leave_rows(limit: int) -> None:
    with pytest.raises(UsageError, match=f"limit={limit}"):
        limited(ArraySource(BASE), limit)


def test_a_limit_beyond_the_end_is_everything() -> None:
    source = ArraySource(BASE)
    for limit in (None, 57, 58, 10**9):
        assert limited(source, limit) is source
    assert limited(source, 56).n_rows == 56


def test_row_numbers_are_checked() -> None:
    assert as_rows([3, -1, 3, -10], 10).tolist() == [3, 9, 3, 0]
    assert as_rows(np.array([5], np.uint64), 10).tolist() == [5]
    assert as_rows([], 10).shape == (0,)
    for bad in ([[1, 2]], [1.5], [True], ["1"], 3):
        with pytest.raises(UsageError, match="one-dimensional array of integers"):
            as_rows(bad, 10)


@pytest.mark.parametrize("row", [10, -11, 2**63, 2**64 - 1])
def test_a_row_outside_is_told_as_it_was_given(row: int) -> None:
    rows = np.array([0, row], np.uint64) if row >= 2**63 else np.array([0, row])
    with pytest.raises(UsageError, match=f"{row:,}"):
        as_rows(rows, 10)


def test_queries_from_a_file(tmp_path: Path) -> None:
    write_npy(tmp_path / "base.npy", BASE)
    asked = vectors(4, 6, seed=9)
    write_npy(tmp_path / "queries.npy", asked)
    dataset = open_dataset(tmp_path / "base.npy", queries=tmp_path / "queries.npy", limit=20)
    assert dataset.queries is not None
    np.testing.assert_array_equal(dataset.queries, asked)
    assert dataset.n_rows == 20
    assert dataset.query_rows is None, "they are rows of no file of the base"


def test_queries_from_a_chosen_column(tmp_path: Path) -> None:
    write_npy(tmp_path / "base.npy", BASE)
    asked = vectors(4, 6, seed=9)
    write_parquet(tmp_path / "queries.parquet", asked, column="question")
    dataset = open_dataset(
        tmp_path / "base.npy", queries=tmp_path / "queries.parquet", query_column="question"
    )
    assert dataset.queries is not None
    np.testing.assert_array_equal(dataset.queries, asked)
    with pytest.raises(DataError, match="no column 'answer'.*'question'"):
        open_dataset(
            tmp_path / "base.npy", queries=tmp_path / "queries.parquet", query_column="answer"
        )


def test_a_missing_file_of_queries(tmp_path: Path) -> None:
    write_npy(tmp_path / "base.npy", BASE)
    with pytest.raises(SourceNotFoundError, match="no-such.npy"):
        open_dataset(tmp_path / "base.npy", queries=tmp_path / "no-such.npy")


def test_queries_of_another_dimension(tmp_path: Path) -> None:
    write_npy(tmp_path / "base.npy", BASE)
    write_npy(tmp_path / "queries.npy", vectors(4, 5))
    with pytest.raises(UsageError, match="dimension 5, its vectors have 6"):
        open_dataset(tmp_path / "base.npy", queries=tmp_path / "queries.npy")


@pytest.mark.parametrize("spec", ["first:3", "holdout:3", "sample:3"])
def test_query_rows_say_where_they_lie_in_the_files(tmp_path: Path, spec: str) -> None:
    write_npy(tmp_path / "part-2.npy", BASE[:30])
    write_npy(tmp_path / "part-10.npy", BASE[30:])
    dataset = open_dataset(tmp_path / "part-*.npy", queries=spec, seed=4, limit=50)
    assert dataset.queries is not None
    assert dataset.query_rows is not None
    np.testing.assert_array_equal(dataset.queries, BASE[dataset.query_rows])
    np.testing.assert_array_equal(dataset.compute(), BASE[dataset.stored_rows(np.arange(50))])
