"""The contract that every source keeps, whatever it is made of."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from haag_vq.errors import UsageError
from haag_vq.partition import plan_partitions
from haag_vq.sources import ArraySource, SyntheticSource, VectorSource
from haag_vq.sources.protocol import I64
from tests.sources.kinds import KINDS, Made, pickled
from tests.support.files import n_open_files, read_rows, take_rows

# The most that a task may carry; sources of rows in memory carry the rows.
TASK_BYTES = 16 << 10


@pytest.fixture(scope="module", params=list(KINDS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    kind: str = request.param
    return KINDS[kind](tmp_path_factory.mktemp("source"))


def some_takes(n: int) -> list[list[int]]:
    """Ascending row numbers: none, one, all, scattered, in runs, and repeated."""
    ends = [0, n - 1]
    runs = [row for row in range(n) if row % 5 != 2]
    repeats = sorted([0, 0, 0, 6, 7, 7, 8, n // 2, n // 2, n - 1, n - 1])
    return [[], [n // 2], ends, list(range(n)), list(range(0, n, 3)), runs, repeats]


def test_describes_its_rows(made: Made) -> None:
    source = made.source
    assert (source.n_rows, source.dim) == made.expected.shape
    assert source.dtype == made.dtype
    assert source.stored_as in (made.dtype.name, *(f"{c} codes" for c in ("PQ3", "SQ8", "SQ4")))
    assert len(source) == made.n
    assert f"{made.n:,} × {source.dim}" in repr(source)


def test_reads_all_rows(made: Made) -> None:
    assert_array_equal(read_rows(made.source), made.expected)


def test_reads_any_range(made: Made) -> None:
    for start, stop in made.some_ranges():
        assert_array_equal(read_rows(made.source, start, stop), made.expected[start:stop])


def test_takes_any_ascending_rows(made: Made) -> None:
    for rows in some_takes(made.n):
        assert_array_equal(take_rows(made.source, rows), made.expected[rows])


def test_reads_the_first_dimensions_alone(made: Made) -> None:
    rows = [0, 7, 7, made.n - 1]
    for m in (1, made.source.dim - 1):
        assert_array_equal(read_rows(made.source, dims=m), made.expected[:, :m])
        assert_array_equal(read_rows(made.source, 3, 11, dims=m), made.expected[3:11, :m])
        assert_array_equal(take_rows(made.source, rows, dims=m), made.expected[rows, :m])


def test_narrow_is_a_slice(made: Made) -> None:
    for start, stop in made.some_ranges():
        part = made.source.narrow(start, stop)
        expected = made.expected[start:stop]
        assert (part.n_rows, part.dim) == expected.shape
        assert_array_equal(read_rows(part), expected)
        rows = list(range(0, part.n_rows, 2))
        assert_array_equal(take_rows(part, rows), expected[rows])


def test_narrow_of_a_narrow_is_a_slice_of_a_slice(made: Made) -> None:
    part = made.source.narrow(2, made.n - 1).narrow(3, 11)
    assert_array_equal(read_rows(part), made.expected[5:13])
    assert_array_equal(read_rows(part, 2, 4), made.expected[7:9])


def test_narrowed_pickles_small_and_reads_the_same(made: Made) -> None:
    for start, stop in ((0, made.n), (6, 8), (7, made.n - 1), (3, 3)):
        arrived, n_bytes = pickled(made.source.narrow(start, stop))
        assert n_bytes < TASK_BYTES or not made.source.files
        assert_array_equal(read_rows(arrived), made.expected[start:stop])


def test_pickle_round_trip(made: Made) -> None:
    read_rows(made.source)  # whatever a read leaves behind must not travel or hinder
    arrived, _ = pickled(made.source)
    assert type(arrived) is type(made.source)
    assert arrived.fingerprint == made.source.fingerprint
    assert arrived.files == made.source.files
    assert (arrived.dtype, arrived.scratch_bytes) == (made.source.dtype, made.source.scratch_bytes)
    assert_array_equal(arrived.edges, made.source.edges)
    assert_array_equal(read_rows(arrived), made.expected)


def test_eight_threads_read_at_once(made: Made) -> None:
    barrier = threading.Barrier(8)
    wrong: list[str] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        barrier.wait()
        for _ in range(4):
            start, stop = sorted(rng.integers(0, made.n, 2).tolist())
            rows = np.sort(rng.integers(0, made.n, 9))
            try:
                assert_array_equal(read_rows(made.source, start, stop), made.expected[start:stop])
                assert_array_equal(take_rows(made.source, rows), made.expected[rows])
            except Exception as error:  # told by the main thread
                wrong.append(f"{start}:{stop}, {rows}: {error}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def out(n: int, dim: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.empty((n, dim), np.float32)


def rows_of(*numbers: int) -> I64:
    return np.array(numbers, np.int64)


# Each is called with a source of n rows of dimension d.
BAD_CALLS: dict[str, Callable[[VectorSource, int, int], object]] = {
    "read before the first row": lambda s, n, d: s.read_into(-1, out(2, d)),
    "read past the last row": lambda s, n, d: s.read_into(n - 1, out(2, d)),
    "read nothing past the end": lambda s, n, d: s.read_into(n + 1, out(0, d)),
    "read too many rows": lambda s, n, d: s.read_into(0, out(n + 1, d)),
    "read too many dimensions": lambda s, n, d: s.read_into(0, out(2, d + 1)),
    "read no dimensions": lambda s, n, d: s.read_into(0, out(2, 0)),
    "read into float64": lambda s, n, d: s.read_into(0, np.empty((2, d))),  # type: ignore[arg-type]
    "read into one dimension": lambda s, n, d: s.read_into(0, np.empty(d, np.float32)),
    "read into columns": lambda s, n, d: s.read_into(0, np.empty((d, 2), np.float32).T),
    "read into a slice of columns": lambda s, n, d: s.read_into(0, out(2, d + 1)[:, :d]),
    "take a negative row": lambda s, n, d: s.take_into(rows_of(-1, 0), out(2, d)),
    "take a row past the end": lambda s, n, d: s.take_into(rows_of(0, n), out(2, d)),
    "take descending rows": lambda s, n, d: s.take_into(rows_of(0, 2, 1), out(3, d)),
    "take into too few places": lambda s, n, d: s.take_into(rows_of(0, 1), out(1, d)),
    "take into too many places": lambda s, n, d: s.take_into(rows_of(0, 1), out(3, d)),
    "take a table of rows": lambda s, n, d: s.take_into(rows_of(0, 1)[:, None], out(2, d)),
    "take too many dimensions": lambda s, n, d: s.take_into(rows_of(0), out(1, d + 1)),
    "narrow from before the start": lambda s, n, d: s.narrow(-1, 2),
    "narrow past the end": lambda s, n, d: s.narrow(0, n + 1),
    "narrow backwards": lambda s, n, d: s.narrow(3, 2),
}


def test_refuses_calls_out_of_bounds(made: Made) -> None:
    messages = {name: refusal(call, made) for name, call in BAD_CALLS.items()}
    unclear = {
        name: message
        for name, message in messages.items()
        if message is None or not any(word in message for word in ("rows", "buffer", "order"))
    }
    assert unclear == {}


def refusal(call: Callable[[VectorSource, int, int], object], made: Made) -> str | None:
    """Message of the UsageError that `call` raises; None if it is let through."""
    try:
        call(made.source, made.n, made.source.dim)
    except UsageError as error:
        return str(error)
    return None


def test_edges_ascend_from_0_to_the_number_of_rows(made: Made) -> None:
    edges = made.source.edges
    assert edges.dtype == np.int64
    assert edges[0] == 0
    assert edges[-1] == made.n
    assert np.all(np.diff(edges) > 0)


def test_edges_of_a_narrowed_source_are_those_inside(made: Made) -> None:
    edges = made.source.edges
    for start, stop in made.some_ranges():
        inside = edges[(edges > start) & (edges < stop)] - start
        expected = np.unique(np.concatenate(([0], inside, [stop - start])))
        assert_array_equal(np.unique(made.source.narrow(start, stop).edges), expected)


def test_partitions_of_it_make_the_whole(made: Made) -> None:
    row_bytes = 4 * made.source.dim
    for budget_rows in (4, 10, made.n):
        parts = plan_partitions(made.source.edges, row_bytes, row_bytes * budget_rows)
        read = [read_rows(made.source.narrow(a, b)) for a, b in parts]
        assert_array_equal(np.concatenate(read), made.expected)


def test_fingerprint_is_the_content_s(made: Made) -> None:
    again = made.reopen()
    assert made.source.fingerprint == again.fingerprint
    assert made.source.narrow(2, 8).fingerprint == again.narrow(2, 8).fingerprint
    different = {made.source.narrow(a, b).fingerprint for a, b in ((0, 8), (1, 8), (0, 9), (8, 16))}
    assert len(different) == 4


def test_leaves_no_file_open(made: Made) -> None:
    before = n_open_files()
    source = made.reopen()
    read_rows(source)
    read_rows(source.narrow(3, 11), 2, 4)
    take_rows(source, [0, 7, made.n - 1])
    with pytest.raises(UsageError):
        source.read_into(made.n, out(1, source.dim))
    assert n_open_files() == before


def test_stored_rows_say_where_rows_lie(made: Made) -> None:
    assert_array_equal(made.source.stored_rows(np.arange(made.n)), made.stored)
    # Any order, and repeats: ids of neighbours are asked for as they come.
    some = np.array([made.n - 1, 0, 5, 5, 2])
    assert_array_equal(made.source.stored_rows(some), made.stored[some])


def test_tells_what_it_takes(made: Made) -> None:
    source = made.source
    assert source.scratch_bytes >= 0
    part = source.narrow(0, 8)
    assert 0 <= part.stored_bytes <= source.stored_bytes
    assert set(part.files) <= set(source.files)
    assert (source.stored_bytes > 0) or isinstance(source, SyntheticSource)
    assert all(Path(path).is_absolute() for path in source.files)


def test_a_repeated_read_is_the_same(made: Made) -> None:
    assert read_rows(made.source, 3, 11).tobytes() == read_rows(made.source, 3, 11).tobytes()


def test_a_narrowed_concatenation_carries_only_what_it_touches(tmp_path: Path) -> None:
    # Rows 0:10, 10:30, none and 30:45: the empty shard lies at row 30.
    source = KINDS["concat"](tmp_path).source

    def files(start: int, stop: int) -> list[str]:
        return [Path(path).name for path in source.narrow(start, stop).files]

    assert files(2, 8) == ["a.npy"]
    assert files(8, 12) == ["a.npy", "b.parquet"]
    assert files(10, 30) == ["b.parquet"]
    assert files(29, 31) == ["b.parquet", "d.fbin"]
    assert files(30, 45) == ["d.fbin"]


def test_an_empty_array_has_edges_and_reads_nothing() -> None:
    source = ArraySource(np.empty((0, 3), np.float32))
    assert read_rows(source).shape == (0, 3)
    assert_array_equal(np.unique(source.edges), [0])
