"""Sources as arrays: NumPy's indexing, and no row read that was not asked for."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from haag_vq import arrays
from haag_vq.arrays import SourceArray, check_whole_rows, fill_pieces, read_array, to_dask_array
from haag_vq.errors import DataError, InsufficientMemoryError, UsageError
from haag_vq.memory import Allowance
from haag_vq.partition import plan_partitions
from haag_vq.sources import ArraySource, ConcatSource, VectorSource
from haag_vq.sources.protocol import F32, I64
from tests.support.counting import CountingSource

# The most that a task may carry.
TASK_BYTES = 16 << 10
N, DIM = 23, 5
X = np.arange(N * DIM, dtype=np.float32).reshape(N, DIM)


class Unreadable(VectorSource):
    """Has a shape and edges; a read is a failure, and so is looking at all its shards again."""

    def __init__(self, n_rows: int, dim: int, shard_rows: int | None = None) -> None:
        self.n_rows, self.dim, self.dtype = n_rows, dim, np.dtype(np.float32)
        self.shard_rows = shard_rows or max(1, n_rows)
        self.n_narrowed = 0

    @property
    def edges(self) -> I64:
        return np.append(np.arange(0, self.n_rows, self.shard_rows), self.n_rows)

    fingerprint = "unreadable"
    scratch_bytes = 0
    stored_bytes = 0

    def read_into(self, start: int, out: F32) -> None:
        raise AssertionError("a row was read")

    def take_into(self, rows: I64, out: F32) -> None:
        raise AssertionError("a row was taken")

    def narrow(self, start: int, stop: int) -> Unreadable:
        self.n_narrowed += 1
        return Unreadable(stop - start, self.dim)


# --- NumPy's basic indexing ------------------------------------------------------------------


def slices(n: int) -> st.SearchStrategy[slice]:
    """Slices that start and stop inside, outside, forwards, backwards, or nowhere."""
    ends = st.none() | st.integers(-n - 3, n + 3)
    steps = st.none() | st.integers(1, n + 3) | st.integers(-n - 3, -1)
    return st.builds(slice, ends, ends, steps)


def one(n: int) -> st.SearchStrategy[Any]:
    integers = st.integers(-n - 2, n + 1)
    return slices(n) | integers | integers.map(np.int64)


indexes = st.one_of(
    one(N),
    st.just(()),
    st.just(Ellipsis),
    st.tuples(one(N)),
    st.tuples(one(N), one(DIM)),
    st.tuples(st.just(Ellipsis), one(DIM)),
    st.tuples(one(N), st.just(Ellipsis)),
    st.tuples(one(N), st.just(Ellipsis), one(DIM)),
    st.tuples(one(N), one(DIM), st.just(Ellipsis)),
    st.tuples(one(N), one(DIM), one(DIM)),
)


@given(indexes, st.sampled_from([N, 1, 0]))
@settings(deadline=None, max_examples=500)
def test_indexes_as_numpy_does(index: Any, n: int) -> None:
    rows = X[:n]
    found: Any
    try:
        expected = rows[index]
    except IndexError:
        with pytest.raises(IndexError):
            SourceArray(ArraySource(rows))[index]
        return
    found = SourceArray(ArraySource(rows))[index]
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert_array_equal(found, expected)


@given(indexes)
@settings(deadline=None, max_examples=200)
def test_a_dask_array_of_it_indexes_as_one_of_numpys_does(index: Any) -> None:
    """Not as NumPy itself: Dask takes ``x[-(n + 1)::-1]`` for all rows."""
    ours = to_dask_array(ArraySource(X), chunk_bytes=4 * 4 * DIM)
    numpys = da.from_array(X, chunks=(4, DIM))
    assert ours.chunks == numpys.chunks
    try:
        expected = numpys[index].compute(scheduler="sync")
    except (IndexError, NotImplementedError) as error:
        with pytest.raises(type(error)):
            ours[index].compute(scheduler="sync")
        return
    found = ours[index].compute(scheduler="sync")
    assert found.dtype == np.float32
    assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "index", [[1, 2], np.array([1, 2]), None, True, np.True_, 1.0, "1", (1, [0]), (0, True)]
)
def test_other_indexes_are_refused(index: Any) -> None:
    with pytest.raises(IndexError, match=r"only ints and slices.*use take\(\)"):
        SourceArray(Unreadable(N, DIM))[index]


def test_a_step_of_zero_is_refused_as_by_numpy() -> None:
    with pytest.raises(ValueError, match="zero"):
        SourceArray(ArraySource(X))[::0]


def test_the_result_keeps_no_more_memory_than_it_shows() -> None:
    source = SourceArray(ArraySource(X))
    for found in (source[2:9, 1], source[2:9, 1:3], source[7], source[9:2:-1]):
        assert found.flags.c_contiguous
        assert found.base is None or found.base.nbytes == found.nbytes


# --- only the rows asked for are read --------------------------------------------------------

READS: list[tuple[Callable[[Any], Any], list[int]]] = [
    (lambda v: v[3:11], list(range(3, 11))),
    (lambda v: v[5], [5]),
    (lambda v: v[-1], [N - 1]),
    (lambda v: v[::7], list(range(0, N, 7))),
    (lambda v: v[3:11, :3], list(range(3, 11))),
    (lambda v: v[3:11, 2], list(range(3, 11))),
    (lambda v: v[-3:], list(range(N - 3, N))),
    (lambda v: v[7:7], []),
    (lambda v: v[:], list(range(N))),
]


@pytest.mark.parametrize("case", range(len(READS)))
@pytest.mark.parametrize("optimize", [True, False])
def test_slices_read_what_they_return(case: int, optimize: bool, tmp_path: Path) -> None:
    take, rows = READS[case]
    source = CountingSource(ArraySource(X), tmp_path / "reads")
    array = take(to_dask_array(source, chunk_bytes=4 * 4 * DIM))
    assert source.reads() == []
    found = array.compute(scheduler="sync", optimize_graph=optimize)
    assert_array_equal(found, take(X))
    read = sorted(number for read in source.reads() for number in read.numbers)
    # Without Dask's optimization a slice comes after whole blocks: right, and no cheaper.
    assert read == rows if optimize else set(rows) <= set(read)


@pytest.mark.parametrize(
    ("take", "rows"),
    [
        (lambda v: v[10:4:-2], range(4, 12)),
        (lambda v: v[4:20][2:5], range(4, 12)),
        (lambda v: v[5:15][2:5], range(5, 12)),
    ],
)
def test_what_dask_does_not_fuse_is_read_by_blocks_and_once(
    take: Callable[[Any], Any], rows: range, tmp_path: Path
) -> None:
    """Steps backwards, and a slice of a slice: right, at the cost of the blocks they touch."""
    source = CountingSource(ArraySource(X), tmp_path / "reads")
    array = take(to_dask_array(source, chunk_bytes=4 * 4 * DIM))
    assert_array_equal(array.compute(scheduler="sync"), take(X))
    read = sorted(number for read in source.reads() for number in read.numbers)
    assert read == list(rows)


def test_a_slice_after_a_cast_reads_each_block_once(tmp_path: Path) -> None:
    source = CountingSource(ArraySource(X), tmp_path / "reads")
    array = to_dask_array(source, chunk_bytes=4 * 4 * DIM)
    total = (array.astype(np.float64) * 2).sum().compute(scheduler="sync")
    assert total == 2 * X.sum()
    assert source.times_read().tolist() == [1] * N


def test_blocks_end_at_the_sources_edges() -> None:
    parts = [ArraySource(X[a:b]) for a, b in ((0, 6), (6, 6), (6, 13), (13, 23))]
    array = to_dask_array(ConcatSource(parts), chunk_bytes=8 * 4 * DIM)
    assert array.chunks == ((6, 7, 8, 2), (DIM,))
    assert_array_equal(array.compute(scheduler="sync"), X)
    assert array.dtype == np.float32


def test_a_source_without_rows() -> None:
    array = to_dask_array(ArraySource(X[:0]))
    assert array.shape == (0, DIM)
    assert array.compute(scheduler="sync").shape == (0, DIM)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_computes_under_local_schedulers(scheduler: str) -> None:
    array = to_dask_array(ArraySource(X), chunk_bytes=4 * 4 * DIM)
    assert_array_equal(array.compute(scheduler=scheduler), X)


# --- nothing is read before compute ----------------------------------------------------------


@contextmanager
def nothing_computes() -> Iterator[None]:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        yield


def test_nothing_is_read_before_compute() -> None:
    with nothing_computes():
        array = to_dask_array(Unreadable(10_000, 8), chunk_bytes=32_000)
        for lazy in (array, array[5], array[::7, :3], array[-3:], array.T, array + 1, array.sum()):
            assert repr(lazy).startswith("dask.array<")
            assert "<table>" in lazy._repr_html_()
        assert array.shape == (10_000, 8)
        dask.optimize(array[3:50])
        pickle.dumps(array)
    with pytest.raises(AssertionError, match="a row was read"):
        array[5].compute(scheduler="sync")


def test_a_billion_rows_of_many_shards_touch_no_block() -> None:
    source = Unreadable(10**9, 64, shard_rows=10**6)
    with nothing_computes():
        array = to_dask_array(source, chunk_bytes=100_000 * 256)
        assert array.numblocks == (10_000, 1)
        assert source.n_narrowed == 0
        some = array[500_000_000:500_000_100]
        assert some.shape == (100, 64)
        assert source.n_narrowed == 0
        (optimized,) = dask.optimize(some)
        graph = dict(optimized.dask)
    # Two blocks at most are cut out of the source for a hundred rows of it.
    assert source.n_narrowed <= 2
    assert len(graph) <= 4


def test_tasks_are_small() -> None:
    """Whatever the number of shards: each carries the one that it reads."""
    source = ConcatSource([Unreadable(10_000, 64, shard_rows=10) for _ in range(300)])
    array = to_dask_array(source, chunk_bytes=1 << 20)
    # The layer travels to a scheduler and carries the source, but not that of each block.
    assert len(pickle.dumps(array[5])) <= len(pickle.dumps(source)) + TASK_BYTES
    (optimized,) = dask.optimize(array)
    sizes = [len(pickle.dumps(task)) for task in dict(optimized.dask).values()]
    assert len(sizes) >= array.npartitions
    assert max(sizes) <= TASK_BYTES


def test_arrays_of_one_source_have_names_of_their_own() -> None:
    """A file may have changed in between; Dask would take equal names for equal content."""
    source = ArraySource(X)
    assert to_dask_array(source).name != to_dask_array(source).name


# --- reading whole ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [None, 1, 2, 7])
def test_read_array_is_the_whole(
    n_threads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "READ_PIECE_BYTES", 3 * 4 * DIM)
    source = CountingSource(ArraySource(X), tmp_path / "reads")
    found = read_array(source, n_threads)
    assert_array_equal(found, X)
    assert found.flags.c_contiguous
    assert source.times_read().tolist() == [1] * N
    assert len(source.reads()) == 8


def test_read_array_of_nothing() -> None:
    assert read_array(ArraySource(X[:0])).shape == (0, DIM)


def test_read_array_uses_several_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "READ_PIECE_BYTES", 4 * DIM)
    meet = threading.Barrier(3, timeout=60)

    class Meeting(ArraySource):
        def read_into(self, start: int, out: F32) -> None:
            if start < 3:
                meet.wait()
            super().read_into(start, out)

    assert_array_equal(read_array(Meeting(X), 3), X)


class Failing(ArraySource):
    """Fails at one row, and counts what is read."""

    def __init__(self, array: Any, bad_row: int) -> None:
        super().__init__(array)
        self.bad_row = bad_row
        self.n_reads = 0

    def read_into(self, start: int, out: F32) -> None:
        self.n_reads += 1
        time.sleep(0.001)  # a read that lets go of the interpreter, as real ones do
        if start <= self.bad_row < start + len(out):
            raise DataError(f"row {self.bad_row} is bad")
        super().read_into(start, out)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_first_error_ends_the_read(n_threads: int) -> None:
    x = np.zeros((3000, 2), np.float32)
    source = Failing(x, bad_row=3)
    pieces = [(row, row + 1) for row in range(3000)]
    with pytest.raises(DataError, match="row 3 is bad"):
        fill_pieces(source, pieces, np.empty_like(x), n_threads)
    # Threads may have been ahead, but not by everything.
    assert source.n_reads < 3000


def test_too_large_an_array_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrays, "process_allowance", lambda: Allowance(2 << 30, "the test's limit"))
    with pytest.raises(InsufficientMemoryError) as caught:
        read_array(Unreadable(10**6, 1024))
    message = str(caught.value)
    assert "reading 1,000,000 × 1024 vectors into one array needs" in message
    assert "may use 2 GiB (the test's limit)" in message
    assert "limit=" in message
    with pytest.raises(AssertionError, match="a row was read"):
        read_array(Unreadable(10**4, 1024))


def test_what_no_memory_holds_is_refused() -> None:
    with pytest.raises(InsufficientMemoryError, match="3.64 TiB"):
        read_array(Unreadable(10**9, 1000))


# --- arrays of others ------------------------------------------------------------------------


def test_check_whole_rows() -> None:
    check_whole_rows(da.ones((50, 8), chunks=(7, 8)))
    check_whole_rows(da.ones((0, 8), chunks=(7, 8)))
    with pytest.raises(UsageError, match=r"columns are cut into \(4, 4\).*rechunk\(\{1: -1\}\)"):
        check_whole_rows(da.ones((50, 8), chunks=(7, 4)))
    with pytest.raises(UsageError, match="not 1 dims"):
        check_whole_rows(da.ones(50))
    unknown = da.ones((50, 8), chunks=(7, 8))
    with pytest.raises(UsageError, match="unknown chunk sizes"):
        check_whole_rows(unknown[unknown[:, 0] > 0])


def test_chunks_smaller_than_a_row_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot hold one row of 20 bytes"):
        to_dask_array(ArraySource(X), chunk_bytes=19)
    assert len(plan_partitions(ArraySource(X).edges, 20, 20)) == N
