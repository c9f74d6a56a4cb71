"""What is not asked for is not read: bytes of row files, row groups and columns of Parquet."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal

from haag_vq.errors import DataError
from haag_vq.sources import (
    PrefixSource,
    RangeSource,
    TakeSource,
    VectorSource,
    WithoutSource,
    open_source,
)
from tests.support.counting import CountingSource
from tests.support.files import (
    read_rows,
    take_rows,
    vectors,
    write_bigann,
    write_hdf5,
    write_npy,
    write_parquet,
    write_texmex,
)

N, DIM = 500, 16

# --- row files: every positioned read is written down ------------------------------------


@dataclass
class Bytes:
    """Positioned reads, as (offset, n_bytes)."""

    reads: list[tuple[int, int]] = field(default_factory=list)

    def rows(self, header_bytes: int, row_bytes: int) -> list[int]:
        """The rows that these bytes are, in order; fails if they are not whole rows."""
        found: list[int] = []
        for offset, n_bytes in self.reads:
            row, part = divmod(offset - header_bytes, row_bytes)
            assert (part, n_bytes % row_bytes) == (0, 0)
            found += range(row, row + n_bytes // row_bytes)
        return found


@pytest.fixture
def pread(monkeypatch: pytest.MonkeyPatch) -> Bytes:
    noted = Bytes()
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        n = real(fd, buffers, offset)
        noted.reads.append((offset, n))
        return n

    monkeypatch.setattr("haag_vq.sources.fileio.os.preadv", preadv)
    return noted


ASKED: dict[str, tuple[Callable[[VectorSource], object], list[int]]] = {
    "a range": (lambda s: read_rows(s, 100, 140), list(range(100, 140))),
    "one row": (lambda s: read_rows(s, 499, 500), [499]),
    "nothing": (lambda s: read_rows(s, 250, 250), []),
    "first dimensions": (lambda s: read_rows(s, 7, 9, dims=2), [7, 8]),
    "scattered rows": (lambda s: take_rows(s, [0, 7, 8, 9, 400]), [0, 7, 8, 9, 400]),
    "no rows": (lambda s: take_rows(s, []), []),
    "a narrowed source": (lambda s: read_rows(s.narrow(40, 60), 5, 8), [45, 46, 47]),
    "a range of a range": (lambda s: read_rows(RangeSource(s, 40, 60), 5, 8), [45, 46, 47]),
    "a prefix": (lambda s: read_rows(PrefixSource(s, 3, True), 5, 8), [5, 6, 7]),
    # Read in stored order, and put into the order asked for in memory.
    "a take out of order": (lambda s: read_rows(TakeSource(s, np.array([9, 3, 4]))), [3, 4, 9]),
    "around holes": (
        lambda s: read_rows(WithoutSource(s, np.array([2, 5, 300])), 0, 6),
        [0, 1, 3, 4, 6, 7],
    ),
}


@pytest.mark.parametrize("asked", list(ASKED))
@pytest.mark.parametrize("name", ["x.npy", "x.f16bin", "x.fbin", "x.fvecs", "x.hdf5"])
def test_row_files_read_only_the_rows_asked_for(
    name: str, asked: str, tmp_path: Path, pread: Bytes
) -> None:
    array = vectors(N, DIM, "float32" if name in ("x.fbin", "x.fvecs") else "float16")
    path = tmp_path / name
    write = {"x.npy": write_npy, "x.fvecs": write_texmex}.get(name, write_bigann)
    write_hdf5(path, {"train": array}) if name == "x.hdf5" else write(path, array)
    source = open_source(path)
    assert pread.reads == []
    read, rows = ASKED[asked]
    read(source)
    row_bytes = DIM * array.itemsize + 4 * (name == "x.fvecs")
    assert pread.rows(path.stat().st_size - N * row_bytes, row_bytes) == rows


def test_neighbouring_rows_of_a_take_are_one_read(tmp_path: Path, pread: Bytes) -> None:
    source = open_source(write_npy(tmp_path / "x.npy", vectors(N, DIM)))
    take_rows(source, [3, 4, 5, 6, 100, 101, 102])
    assert [n for _, n in pread.reads] == [4 * DIM * 4, 3 * DIM * 4]


def test_a_large_file_is_opened_by_its_header_and_read_by_its_rows(
    tmp_path: Path, pread: Bytes
) -> None:
    # 10⁹ rows that take no room on the disk: nothing in between is touched, or could be.
    path = tmp_path / "x.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f2", "fortran_order": False, "shape": (10**9, 4)}
        )
        header_bytes = file.tell()
        file.truncate(header_bytes + 8 * 10**9)
    source = open_source(path)
    assert source.n_rows == 10**9
    assert_array_equal(read_rows(source, 10**9 - 100, 10**9), np.zeros((100, 4)))
    assert pread.reads == [(header_bytes + 8 * (10**9 - 100), 800)]


def test_reads_cut_short_by_the_system_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = vectors(20, DIM)
    source = open_source(write_npy(tmp_path / "x.npy", array))
    real = os.preadv
    monkeypatch.setattr(
        "haag_vq.sources.fileio.os.preadv",
        lambda fd, buffers, offset: real(fd, [buffers[0][:7]], offset),
    )
    assert_array_equal(read_rows(source), array)


# --- Parquet: what must not be read is destroyed on the disk --------------------------------


@pytest.fixture
def array() -> Any:
    return vectors(60, DIM)


def destroy(path: Path, keep: Callable[[int, str], bool]) -> None:
    """Overwrite every column chunk but those for which ``keep(row group, column)``."""
    metadata = pq.read_metadata(path)
    with open(path, "r+b") as file:
        for g in range(metadata.num_row_groups):
            for j in range(metadata.num_columns):
                chunk = metadata.row_group(g).column(j)
                if not keep(g, chunk.path_in_schema.split(".")[0]):
                    pages = chunk.dictionary_page_offset or chunk.data_page_offset
                    file.seek(min(pages, chunk.data_page_offset))
                    file.write(b"\xff" * chunk.total_compressed_size)


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed_size_list"])
@pytest.mark.parametrize("group", [7, 60])
def test_parquet_never_reads_the_other_columns(
    kind: str, group: int, array: Any, tmp_path: Path
) -> None:
    path = write_parquet(tmp_path / "x.parquet", array, kind, row_group_size=group)
    destroy(path, lambda g, column: column == "emb")
    with pytest.raises((pa.ArrowException, OSError)):
        pq.read_table(path, columns=["text"])
    source = open_source(path)
    assert_array_equal(read_rows(source), array)
    assert_array_equal(take_rows(source, [0, 8, 59]), array[[0, 8, 59]])


GROUPS_ASKED: dict[str, tuple[Callable[[VectorSource], object], set[int]]] = {
    "a range inside one": (lambda s: read_rows(s, 21, 24), {2}),
    "exactly one": (lambda s: read_rows(s, 20, 30), {2}),
    "the end of one and the start of the next": (lambda s: read_rows(s, 29, 31), {2, 3}),
    "a take": (lambda s: take_rows(s, [3, 3, 51, 52]), {0, 5}),
    "a take of its last row": (lambda s: take_rows(s, [59]), {5}),
    "a narrowed source": (lambda s: read_rows(s.narrow(20, 40), 10, 12), {3}),
    "a take of a narrowed source": (lambda s: take_rows(s.narrow(25, 55), [0, 29]), {2, 5}),
    "a range of a range": (lambda s: read_rows(RangeSource(s, 20, 60), 30, 40), {5}),
    "a take out of order": (lambda s: read_rows(TakeSource(s, np.array([55, 1]))), {0, 5}),
    "around holes": (lambda s: read_rows(WithoutSource(s, np.arange(10, 20)), 9, 11), {0, 2}),
}


@pytest.mark.parametrize("asked", list(GROUPS_ASKED))
def test_parquet_decodes_only_the_row_groups_that_hold_the_rows(
    asked: str, array: Any, tmp_path: Path
) -> None:
    read, groups = GROUPS_ASKED[asked]
    path = write_parquet(tmp_path / "x.parquet", array, row_group_size=10)
    expected = read(open_source(path))
    destroy(path, lambda g, column: column == "emb" and g in groups)
    assert_array_equal(np.asarray(read(open_source(path))), np.asarray(expected))
    # And the others are indeed unreadable, each of them.
    for g in set(range(6)) - groups:
        with pytest.raises(DataError, match=r"x\.parquet"):
            read_rows(open_source(path), 10 * g, 10 * g + 1)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Row groups in the order in which readers were set on them."""
    groups: list[int] = []
    real = pq.ParquetFile.iter_batches

    def iter_batches(self: Any, *args: Any, **kwargs: Any) -> Any:
        groups.extend(kwargs["row_groups"])
        assert kwargs["columns"] == ["emb"]
        return real(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    return groups


def test_a_row_group_is_decoded_once_however_many_pieces_are_taken_of_it(
    array: Any, tmp_path: Path, decoded: list[int]
) -> None:
    source = open_source(write_parquet(tmp_path / "x.parquet", array, row_group_size=10))
    removed = np.array([1, 3, 5, 11, 12, 19, 20, 41, 59])
    kept = np.setdiff1d(np.arange(60), removed)
    assert_array_equal(read_rows(WithoutSource(source, removed)), array[kept])
    assert decoded == [0, 1, 2, 3, 4, 5]

    decoded.clear()
    order = np.random.default_rng(0).permutation(60)
    assert_array_equal(read_rows(TakeSource(source, order)), array[order])
    assert decoded == [0, 1, 2, 3, 4, 5]


def test_partitions_decode_each_row_group_once(
    array: Any, tmp_path: Path, decoded: list[int]
) -> None:
    from haag_vq.partition import plan_partitions

    source = open_source(write_parquet(tmp_path / "x.parquet", array, row_group_size=10))
    # Room for 25 rows: aligned to row groups, so that two fit and none is cut.
    for start, stop in plan_partitions(source.edges, 4 * DIM, 25 * 4 * DIM):
        read_rows(source.narrow(start, stop))
    assert decoded == [0, 1, 2, 3, 4, 5]


def test_decoding_stops_after_the_last_row_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_decoded = 0
    real = pq.ParquetFile.iter_batches

    def iter_batches(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal n_decoded
        for batch in real(self, *args, **kwargs):
            n_decoded += len(batch)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    monkeypatch.setattr("haag_vq.sources.parquet.BATCH_BYTES", 10 * DIM * 4)
    array = vectors(200, DIM)
    source = open_source(write_parquet(tmp_path / "x.parquet", array, row_group_size=200))
    assert_array_equal(read_rows(source, 0, 25), array[:25])
    assert n_decoded == 30
    # A row group is the smallest unit: what lies before the rows is decoded as well.
    n_decoded = 0
    assert_array_equal(take_rows(source, [35, 52]), array[[35, 52]])
    assert n_decoded == 60


def test_opening_reads_no_vectors(array: Any, tmp_path: Path, decoded: list[int]) -> None:
    path = write_parquet(tmp_path / "x.parquet", array, row_group_size=10)
    destroy(path, lambda g, column: False)
    source = open_source(path)
    assert (source.n_rows, source.dim, len(source.edges)) == (60, DIM, 7)
    assert source.stored_bytes > 0
    assert source.narrow(5, 15).fingerprint
    assert decoded == []


# --- the counting source that other tests rely on -------------------------------------------


def test_counting_source_notes_reads_in_the_wrapped_source_s_numbers(
    array: Any, tmp_path: Path
) -> None:
    source = CountingSource(open_source(write_npy(tmp_path / "x.npy", array)), tmp_path / "log")
    assert source.reads() == []
    read_rows(source, 2, 5)
    take_rows(source.narrow(10, 20), [1, 1, 4])
    read_rows(RangeSource(source, 30, 40).narrow(2, 4))
    noted = [(read.start, read.stop, read.rows, read.pid) for read in source.reads()]
    pid = os.getpid()
    assert noted == [(2, 5, None, pid), (11, 15, (11, 11, 14), pid), (32, 34, None, pid)]
    counts = source.times_read()
    assert {row: n for row, n in enumerate(counts.tolist()) if n} == {
        2: 1, 3: 1, 4: 1, 11: 2, 14: 1, 32: 1, 33: 1,
    }  # fmt: skip


def test_counting_source_counts_across_processes(array: Any, tmp_path: Path) -> None:
    import multiprocessing

    source = CountingSource(open_source(write_npy(tmp_path / "x.npy", array)), tmp_path / "log")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=read_rows, args=(source, a, a + 30)) for a in (0, 30)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len({read.pid for read in source.reads()} | {os.getpid()}) == 3
    assert source.times_read().tolist() == [1] * 60
