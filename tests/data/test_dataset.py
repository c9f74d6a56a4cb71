"""A dataset against the array that it stands for; and what it reads to deliver that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from haag_vq import VectorDataset, load_dummy_dataset, open_dataset
from haag_vq.data.sampling import sample_rows
from haag_vq.errors import InsufficientMemoryError, UsageError
from haag_vq.memory import Allowance
from haag_vq.sources import ArraySource, RangeSource, TakeSource
from tests.data.forbidden import ForbiddenSource
from tests.groundtruth import oracle
from tests.support.counting import CountingSource
from tests.support.files import vectors, write_npy, write_parquet

N, DIM = 60, 8
BASE = vectors(N, DIM)
QUERIES = vectors(5, DIM, seed=1)


def dataset(chunk_rows: int = 16) -> VectorDataset:
    return VectorDataset(
        ArraySource(BASE), "set", ArraySource(QUERIES), "cosine", chunk_bytes=chunk_rows * DIM * 4
    )


def counted(tmp_path: Path, n: int = N) -> tuple[VectorDataset, CountingSource]:
    source = CountingSource(ArraySource(vectors(n, DIM)), tmp_path / "reads")
    return VectorDataset(source, "counted", chunk_bytes=16 * DIM * 4), source


# --- one array -----------------------------------------------------------------------------


def test_properties() -> None:
    found = dataset()
    assert (found.n_rows, found.dim, found.shape, len(found)) == (N, DIM, (N, DIM), N)
    assert found.nbytes == N * DIM * 4
    assert found.metric == "cosine"
    assert found.name == "set"
    assert found.fingerprint == ArraySource(BASE).fingerprint


@pytest.mark.parametrize("n_threads", [None, 1, 4])
def test_compute_is_the_array(n_threads: int | None) -> None:
    found = dataset().compute(n_threads)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, BASE)


def test_asarray_is_the_array_in_the_asked_type() -> None:
    for found in (np.asarray(dataset()), np.array(dataset(), copy=True)):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, BASE)
    wide = np.asarray(dataset(), dtype=np.float64)
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(wide, BASE.astype(np.float64))


def test_an_array_without_a_copy_cannot_be_had() -> None:
    with pytest.raises(ValueError, match="without a copy"):
        VectorDataset(ForbiddenSource(10, 4), "lazy").__array__(copy=False)


def test_vectors_is_the_array_in_blocks() -> None:
    lazy = dataset().vectors
    assert lazy.dtype == np.float32
    assert lazy.shape == (N, DIM)
    assert lazy.chunks == ((16, 16, 16, 12), (DIM,))
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), BASE)


def test_compute_passes_no_scheduler() -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a scheduler was asked to run something")

    with dask.config.set(scheduler=refuse):
        np.testing.assert_array_equal(dataset().take([3, 1]).compute(), BASE[[3, 1]])
        np.testing.assert_array_equal(np.asarray(dataset()), BASE)
        np.testing.assert_array_equal(dataset().queries, QUERIES)


def test_too_much_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ten terabytes: more than any machine these tests run on.
    huge = VectorDataset(ForbiddenSource(10**10, 256), "huge")
    with pytest.raises(InsufficientMemoryError, match="9.31 TiB"):
        huge.compute()
    monkeypatch.setattr("haag_vq.arrays.process_allowance", lambda: Allowance(1000, "a test"))
    with pytest.raises(InsufficientMemoryError, match=r"reading 60 × 8 .*a test.*limit="):
        dataset().compute()


# --- subsets -------------------------------------------------------------------------------

CUTS: dict[str, slice] = {
    "nothing": slice(0, 0),
    "everything": slice(None),
    "a range": slice(7, 31),
    "to the end": slice(50, None),
    "negative": slice(-9, -2),
    "steps": slice(3, 50, 7),
    "backwards": slice(None, None, -1),
    "backwards in steps": slice(40, 2, -5),
    "beyond the end": slice(55, 1000),
    "nothing that ends before it begins": slice(30, 10),
}


@pytest.mark.parametrize("cut", list(CUTS))
def test_slices_are_those_of_numpy(cut: str) -> None:
    found = dataset()[CUTS[cut]]
    np.testing.assert_array_equal(found.compute(), BASE[CUTS[cut]])
    np.testing.assert_array_equal(
        found.stored_rows(np.arange(found.n_rows)), np.arange(N)[CUTS[cut]]
    )
    assert (found.metric, found.name) == ("cosine", "set")
    np.testing.assert_array_equal(found.queries, QUERIES)


@pytest.mark.parametrize("index", [3, -1, (1, 2), [1, 2], None, ..., np.arange(3)])
def test_only_slices_index_a_dataset(index: Any) -> None:
    with pytest.raises(UsageError, match=r"take\(\)"):
        dataset()[index]


def test_take_keeps_order_and_repeats() -> None:
    rows = [7, 3, 3, -1, 0, 59, 7]
    found = dataset().take(rows)
    np.testing.assert_array_equal(found.compute(), BASE[rows])
    np.testing.assert_array_equal(found.vectors.compute(scheduler="sync"), BASE[rows])
    assert found.stored_rows(np.arange(7)).tolist() == [7, 3, 3, 59, 0, 59, 7]


def test_take_of_nothing() -> None:
    found = dataset().take([])
    assert found.compute().shape == (0, DIM)
    assert found.vectors.shape == (0, DIM)


def test_a_mask_is_no_list_of_rows() -> None:
    with pytest.raises(UsageError, match="bool"):
        dataset().take(BASE[:, 0] > 0)


@pytest.mark.parametrize("run_rows", [1, 4])
def test_a_sample_is_the_sampled_rows(run_rows: int) -> None:
    found = dataset().sample(20, seed=3, run_rows=run_rows)
    rows = sample_rows(N, 20, 3, run_rows)
    np.testing.assert_array_equal(found.compute(), BASE[rows])
    np.testing.assert_array_equal(found.stored_rows(np.arange(20)), rows)


def test_sampling_too_many_is_refused() -> None:
    with pytest.raises(UsageError, match="61 of 60"):
        dataset().sample(61)


def test_limit() -> None:
    np.testing.assert_array_equal(dataset().limit(7).compute(), BASE[:7])
    np.testing.assert_array_equal(dataset().limit(None).compute(), BASE)
    np.testing.assert_array_equal(dataset().limit(N + 1).compute(), BASE)
    with pytest.raises(UsageError, match="limit=0"):
        dataset().limit(0)


def test_dims_keeps_the_first_dimensions_of_vectors_and_queries() -> None:
    found = dataset().dims(3)
    assert found.dim == 3
    np.testing.assert_array_equal(found.compute(), BASE[:, :3])
    np.testing.assert_array_equal(found.queries, QUERIES[:, :3])
    assert found.metric == "cosine"


def test_dims_renormalized() -> None:
    def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        wide = rows[:, :3].astype(np.float64)
        lengths = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
        short: NDArray[np.float32] = (wide / lengths).astype(np.float32)
        return short

    found = dataset().dims(3, renormalize=True)
    np.testing.assert_allclose(found.compute(), unit(BASE), rtol=1e-6)
    assert found.queries is not None
    np.testing.assert_allclose(found.queries, unit(QUERIES), rtol=1e-6)
    np.testing.assert_array_equal(found[5:9].compute(), found.compute()[5:9])


@pytest.mark.parametrize("m", [0, -1, DIM + 1])
def test_dims_must_be_there(m: int) -> None:
    with pytest.raises(UsageError, match=f"dims={m}"):
        dataset().dims(m)


Step = Callable[[VectorDataset, NDArray[np.float32]], tuple[VectorDataset, NDArray[np.float32]]]


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[str, Any]]:
    one = st.one_of(
        st.tuples(st.just("slice"), st.slices(40)),
        st.tuples(st.just("take"), st.lists(st.integers(0, 10**6), max_size=30)),
        st.tuples(st.just("sample"), st.tuples(st.integers(0, 40), st.integers(0, 9))),
        st.tuples(st.just("limit"), st.integers(1, 50)),
        st.tuples(st.just("dims"), st.integers(1, DIM)),
    )
    return draw(st.lists(one, max_size=4))


@given(steps())
def test_subsets_of_subsets(asked: list[tuple[str, Any]]) -> None:
    lazy, rows, dim = dataset(), np.arange(N), DIM
    for kind, argument in asked:
        n = len(rows)
        if kind == "slice":
            lazy, rows = lazy[argument], rows[argument]
        elif kind == "take" and n:
            chosen = [row % n for row in argument]
            lazy, rows = lazy.take(chosen), rows[np.array(chosen, int)]
        elif kind == "sample":
            drawn = sample_rows(n, min(n, argument[0]), argument[1])
            lazy, rows = lazy.sample(len(drawn), argument[1]), rows[drawn]
        elif kind == "limit":
            lazy, rows = lazy.limit(argument), rows[:argument]
        elif kind == "dims":
            dim = min(dim, argument)
            lazy = lazy.dims(dim)
    expected = BASE[rows, :dim]
    np.testing.assert_array_equal(lazy.compute(), expected)
    np.testing.assert_array_equal(lazy.vectors.compute(scheduler="sync"), expected)
    np.testing.assert_array_equal(lazy.stored_rows(np.arange(len(rows))), rows)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (1, 2, 3), (0,), (3, 0)])
def test_stored_rows_of_any_shape(shape: tuple[int, ...]) -> None:
    found = dataset()[::-1]
    ids = np.random.default_rng(0).integers(0, N, shape)
    np.testing.assert_array_equal(found.stored_rows(ids), N - 1 - ids)
    assert found.stored_rows(ids).shape == shape
    assert found.stored_rows(ids).dtype == np.int64


@pytest.mark.parametrize("bad", [-1, N, [[0, 5], [N + 3, 1]]])
def test_stored_rows_of_rows_that_are_not_there(bad: Any) -> None:
    with pytest.raises(UsageError, match="none of this dataset's 60"):
        dataset().stored_rows(bad)


def test_stored_rows_are_whole_numbers() -> None:
    with pytest.raises(UsageError, match="float64"):
        dataset().stored_rows([1.5])


# --- queries, ground truth -------------------------------------------------------------------


def test_queries_of_another_dimension_are_refused() -> None:
    with pytest.raises(UsageError, match=r"queries of set have dimension 7, its vectors have 8"):
        VectorDataset(ArraySource(BASE), "set", ArraySource(vectors(3, 7)))


def test_no_queries() -> None:
    found = VectorDataset(ArraySource(BASE), "set")
    assert found.queries is None
    assert found.query_rows is None
    with pytest.raises(UsageError, match="no queries"):
        _ = found.ground_truth


def test_ground_truth_is_the_ids_of_the_hundred_nearest() -> None:
    many = vectors(300, DIM, seed=3)
    found = VectorDataset(ArraySource(many), "set", ArraySource(QUERIES), "cosine")
    with dask.config.set(scheduler="sync"):
        ids = found.ground_truth
    assert ids.shape == (5, 100)
    assert ids.dtype == np.int64
    # Squared l2 as in the original, whatever the publisher's metric.
    np.testing.assert_array_equal(ids, oracle.neighbours(many, QUERIES, 100, "l2")[1])
    assert found.ground_truth is ids, "found once"


def test_ground_truth_of_fewer_rows_has_fewer_columns() -> None:
    with dask.config.set(scheduler="sync"):
        ids = dataset()[10:20].ground_truth
    np.testing.assert_array_equal(ids, oracle.neighbours(BASE[10:20], QUERIES, 10, "l2")[1])


def test_ids_of_a_subset_map_back_to_the_files() -> None:
    found = dataset().take([9, 50, 9, 2])
    with dask.config.set(scheduler="sync"):
        nearest = found.stored_rows(found.ground_truth[:, 0])
    keys = oracle.distances(BASE, QUERIES, "l2")
    assert nearest.tolist() == [[9, 50, 2][i] for i in np.argmin(keys[:, [9, 50, 2]], axis=1)]


def test_repr_says_what_there_is() -> None:
    text = repr(dataset())
    for part in ("set", "60 × 8", "float32", "1.88 KiB", "5 queries", "cosine"):
        assert part in text
    assert "queries" not in repr(VectorDataset(ArraySource(BASE), "set"))


# --- what is read --------------------------------------------------------------------------


def test_nothing_is_read_before_compute() -> None:
    lazy = VectorDataset(
        ForbiddenSource(10**7, 64), "lazy", ForbiddenSource(100, 64), queries_are_rows=True
    )
    subsets = [
        lazy[5:100],
        lazy[::-3],
        lazy.take([5, 3, 3]),
        lazy.sample(1000, seed=1, run_rows=10),
        lazy.limit(10),
        lazy.dims(8, renormalize=True),
    ]
    for one in [lazy, *subsets]:
        assert repr(one)
        assert one.vectors[3:5].shape == (2, one.dim) or one.n_rows < 5
        assert repr(one.vectors)
        assert one.fingerprint
        assert one.stored_rows([0]).shape == (1,)
        assert one.query_rows is not None
    with pytest.raises(AssertionError, match="rows 5:100 were read"):
        lazy[5:100].compute()
    with pytest.raises(AssertionError, match="rows 0:100 were read"):
        _ = lazy.queries


def test_opening_a_file_reads_no_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_npy(tmp_path / "a.npy", BASE)
    write_parquet(tmp_path / "a.parquet", BASE, row_group_size=7)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("vectors were read")

    monkeypatch.setattr("haag_vq.sources.fileio.os.preadv", refuse)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", refuse)
    for name in ("a.npy", "a.parquet"):
        lazy = open_dataset(tmp_path / name, queries="holdout:5", limit=40)
        assert lazy.sample(10)[2:5].vectors.shape == (3, DIM)
        with pytest.raises(AssertionError, match="vectors were read"):
            lazy.compute()


WANTED: dict[str, tuple[Callable[[VectorDataset], Any], list[int]]] = {
    "a slice": (lambda d: d[20:23].compute(), [20, 21, 22]),
    "a slice of blocks": (lambda d: d.vectors[20:23].compute(), [20, 21, 22]),
    "blocks of a slice": (lambda d: d[10:40].vectors[5:7].compute(), [15, 16]),
    "one row of blocks": (lambda d: d.vectors[33].compute(), [33]),
    "steps": (lambda d: d[10:40:10].compute(), [10, 20, 30]),
    "rows": (lambda d: d.take([40, 3, -1]).compute(), [3, 40, 59]),
    "a sample": (lambda d: d.sample(4, 7).compute(), sample_rows(N, 4, 7).tolist()),
    "a limit": (lambda d: d.limit(2).compute(), [0, 1]),
    "dims": (lambda d: d.dims(2)[4:6].compute(), [4, 5]),
    "a slice of a sample": (
        lambda d: d.sample(9, 7)[2:4].compute(),
        sample_rows(N, 9, 7)[2:4].tolist(),
    ),
}


@pytest.mark.parametrize("asked", list(WANTED))
def test_only_what_is_asked_for_is_read(asked: str, tmp_path: Path) -> None:
    lazy, source = counted(tmp_path)
    compute, rows = WANTED[asked]
    with dask.config.set(scheduler="sync"):
        compute(lazy)
    assert sorted(n for read in source.reads() for n in read.numbers) == rows


def test_everything_is_read_once(tmp_path: Path) -> None:
    lazy, source = counted(tmp_path)
    lazy.compute(n_threads=3)
    assert source.times_read().tolist() == [1] * N


def test_queries_are_read_once(tmp_path: Path) -> None:
    queries = CountingSource(ArraySource(QUERIES), tmp_path / "reads")
    found = VectorDataset(ArraySource(BASE), "set", queries)
    assert found.queries is found.queries
    assert queries.times_read().tolist() == [1] * 5


@pytest.mark.parametrize(("run_rows", "most_groups"), [(1, 24), (25, 4)])
def test_runs_of_rows_bound_the_row_groups_that_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_rows: int, most_groups: int
) -> None:
    rows = vectors(1_000, DIM)
    write_parquet(tmp_path / "a.parquet", rows, row_group_size=25)
    decoded: list[int] = []
    real = pq.ParquetFile.iter_batches

    def iter_batches(self: Any, **options: Any) -> Any:
        decoded.extend(options["row_groups"])
        return real(self, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    sample = open_dataset(tmp_path / "a.parquet").sample(100, seed=1, run_rows=run_rows)
    numbers = sample_rows(1_000, 100, 1, run_rows)
    np.testing.assert_array_equal(sample.compute(), rows[numbers])
    assert sorted(decoded) == np.unique(numbers // 25).tolist(), "each once, and no other"
    assert len(decoded) <= most_groups or run_rows == 1


# --- made up -------------------------------------------------------------------------------


def test_the_dummy_set() -> None:
    found = load_dummy_dataset(500, 16, seed=3)
    assert (found.shape, found.name) == ((500, 16), "dummy-500x16")
    rows = found.compute()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found.queries, rows[:100])
    np.testing.assert_array_equal(found.query_rows, np.arange(100))
    np.testing.assert_array_equal(load_dummy_dataset(900, 16, seed=3)[:500].compute(), rows)
    assert np.any(load_dummy_dataset(500, 16, seed=4).compute() != rows)


def test_the_dummy_set_has_at_most_as_many_queries_as_rows() -> None:
    found = load_dummy_dataset(7, 4)
    assert found.queries is not None
    assert found.queries.shape == (7, 4)


def test_sources_of_subsets_are_plain() -> None:
    # A slice must stay a range: as chosen rows it would carry 8 bytes a row.
    huge = VectorDataset(ForbiddenSource(10**12, 4), "huge")
    assert isinstance(huge[5 : 10**11].source, RangeSource)
    assert isinstance(huge.limit(10**11).source, RangeSource)
    assert isinstance(huge.take([1]).source, TakeSource)
