"""Exports: what comes back is what went in, or nothing that looks whole is there."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from haag_vq import open_dataset
from haag_vq.atomic import written_whole
from haag_vq.errors import (
    DataError,
    FileChangedError,
    InsufficientMemoryError,
    UsageError,
    WriteError,
)
from haag_vq.export import ExportReport, export_vectors, output_bytes
from haag_vq.memory import Allowance
from haag_vq.sources import ArraySource, VectorSource, open_source
from haag_vq.sources.protocol import F32
from haag_vq.sources.write import FixedRowWriter, ParquetWriter, stored_dtype
from tests.data.forbidden import ForbiddenSource
from tests.support.counting import CountingSource
from tests.support.files import read_rows, vectors, write_npy, write_parquet

N, DIM = 230, 7
WHOLE = vectors(N, DIM, "uint8").astype(np.float32)
REAL = vectors(N, DIM)

# Suffix, dtype asked for, dtype that is stored.
FORMATS = [
    (".npy", None, "float32"),
    (".npy", "float32", "float32"),
    (".npy", "float16", "float16"),
    (".npy", "float64", "float64"),
    (".npy", "uint8", "uint8"),
    (".parquet", None, "float32"),
    (".parquet", "float16", "float16"),
    (".parquet", "float64", "float64"),
    (".parquet", "uint8", "uint8"),
    (".fbin", None, "float32"),
    (".fbin", "float32", "float32"),
    (".f16bin", None, "float16"),
    (".u8bin", None, "uint8"),
    (".i8bin", "int8", "int8"),
    (".fvecs", None, "float32"),
    (".bvecs", None, "uint8"),
    (".NPY", None, "float32"),
]


def rows_for(dtype: str) -> NDArray[np.float32]:
    """Rows that the stored type holds, but for float16's rounding."""
    if dtype == "int8":
        return WHOLE - 128
    return WHOLE if dtype == "uint8" else REAL


def left_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


# --- round trips -----------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "asked", "stored"), FORMATS)
@pytest.mark.parametrize("chunk_rows", [1, 37, 10_000])
def test_round_trip(
    suffix: str, asked: str | None, stored: str, chunk_rows: int, tmp_path: Path
) -> None:
    rows = rows_for(stored)
    out = tmp_path / f"out{suffix}"
    report = export_vectors(ArraySource(rows), out, asked, chunk_bytes=chunk_rows * DIM * 4)
    assert left_in(tmp_path) == [out.name]
    found = open_source(out)
    assert found.dtype == np.dtype(stored)
    np.testing.assert_array_equal(read_rows(found), rows.astype(stored).astype(np.float32))
    assert report == ExportReport(str(out), N, DIM, stored, out.stat().st_size, report.projection)


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".fbin"])
def test_no_rows_make_an_empty_file(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"out{suffix}"
    export_vectors(ArraySource(REAL[:0]), out)
    with pytest.raises(DataError, match="0 rows"):
        open_source(out)


def test_npy_is_what_numpy_reads(tmp_path: Path) -> None:
    export_vectors(ArraySource(REAL), tmp_path / "out.npy", "float64", chunk_bytes=1_000)
    found = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, REAL.astype(np.float64))


def test_fbin_is_what_big_ann_reads(tmp_path: Path) -> None:
    export_vectors(ArraySource(REAL), tmp_path / "out.fbin", chunk_bytes=1_000)
    raw = (tmp_path / "out.fbin").read_bytes()
    assert raw == struct.pack("<II", N, DIM) + REAL.astype("<f4").tobytes()


def test_fvecs_is_what_texmex_reads(tmp_path: Path) -> None:
    export_vectors(ArraySource(REAL), tmp_path / "out.fvecs", chunk_bytes=1_000)
    raw = np.fromfile(tmp_path / "out.fvecs", "<i4").reshape(N, 1 + DIM)
    assert (raw[:, 0] == DIM).all()
    assert output_bytes(ArraySource(REAL), tmp_path / "o.FVECS", np.dtype("<f4")) == raw.nbytes
    np.testing.assert_array_equal(raw[:, 1:].view("<f4"), REAL)


def test_parquet_has_row_groups_of_a_thousand(tmp_path: Path) -> None:
    rows = vectors(2_500, 3)
    export_vectors(ArraySource(rows), tmp_path / "out.parquet")
    file = pq.ParquetFile(tmp_path / "out.parquet")
    sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
    assert sizes == [1_000, 1_000, 500]
    assert file.schema_arrow.names == ["emb"]
    file.close()
    np.testing.assert_array_equal(read_rows(open_source(tmp_path / "out.parquet")), rows)


@given(
    st.integers(1, 60),
    st.integers(1, 9),
    st.sampled_from([".npy", ".parquet", ".fbin"]),
    st.integers(1, 5_000),
)
def test_round_trips_of_any_shape_and_chunk(
    n: int, dim: int, suffix: str, chunk_bytes: int
) -> None:
    rows = vectors(n, dim)
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / f"out{suffix}"
        export_vectors(ArraySource(rows), out, chunk_bytes=max(chunk_bytes, 4 * dim))
        np.testing.assert_array_equal(read_rows(open_source(out)), rows)


def test_shards_become_one_file(tmp_path: Path) -> None:
    for i in range(12):
        write_npy(tmp_path / f"part-{i}.npy", REAL[20 * i : 20 * i + 20].astype(np.float16))
    export_vectors(open_source(tmp_path / "part-*.npy"), tmp_path / "out.npy", "float16", 3_000)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), REAL.astype(np.float16))


def test_dimensions_samples_and_chosen_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in.parquet", REAL, row_group_size=50)
    dataset = open_dataset(tmp_path / "in.parquet", dims=4, renormalize=True)
    asked = {
        "sample": dataset.sample(60, seed=2),
        "take": dataset.take([5, 200, 5, -1]),
        "limit": dataset.limit(3),
        "slice": dataset[200:10:-7],
    }
    for name, subset in asked.items():
        out = tmp_path / f"{name}.fbin"
        export_vectors(subset.source, out, chunk_bytes=500)
        found = read_rows(open_source(out))
        wide = REAL[subset.stored_rows(np.arange(subset.n_rows)), :4].astype(np.float64)
        wide /= np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(found, wide, rtol=1e-6, err_msg=name)


def test_an_export_replaces_an_older_file(tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    out.write_bytes(b"older")
    export_vectors(ArraySource(REAL), out)
    np.testing.assert_array_equal(np.load(out), REAL)


def test_an_output_has_the_permissions_of_any_other_file(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        export_vectors(ArraySource(REAL), tmp_path / "out.npy")
    finally:
        os.umask(mask)
    assert (tmp_path / "out.npy").stat().st_mode & 0o777 == 0o640


# --- in order, by partitions, once -------------------------------------------------------------


def test_rows_are_read_once_and_one_partition_ahead(tmp_path: Path) -> None:
    source = CountingSource(ArraySource(REAL), tmp_path / "reads")
    told: list[tuple[int, int]] = []
    n_reads: list[int] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        n_reads.append(len(source.reads()))

    export_vectors(source, tmp_path / "out.npy", None, 50 * DIM * 4, progress)
    assert [(read.start, read.stop) for read in source.reads()] == [
        (0, 50),
        (50, 100),
        (100, 150),
        (150, 200),
        (200, 230),
    ]
    assert told == [(50, 230), (100, 230), (150, 230), (200, 230), (230, 230)]
    # The reader is never more than one partition ahead of the writer.
    assert all(n <= i + 2 for i, n in enumerate(n_reads))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("out.npy", None),
        ("out.npy", "float64"),
        ("out.npy", "int8"),
        ("out.u8bin", None),
        ("out.parquet", "float64"),
    ],
)
def test_memory_is_bounded_by_partitions(name: str, dtype: str | None, tmp_path: Path) -> None:
    n, dim, chunk_bytes = 120_000, 64, 8 << 20
    rows = np.random.default_rng(0).integers(0, 100, (n, dim)).astype(np.float32)
    write_npy(tmp_path / "in.npy", rows)
    source = open_source(tmp_path / "in.npy")
    export_vectors(source.narrow(0, 10), tmp_path / name, dtype)  # imports are not the export's
    del rows
    tracemalloc.start()
    try:
        report = export_vectors(source, tmp_path / name, dtype, chunk_bytes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    projected = report.projection.total_bytes - report.projection.process_bytes
    assert projected == 3 * chunk_bytes + source.scratch_bytes
    # Two partitions, and what converting a piece and reading take.
    assert 2 * chunk_bytes <= peak <= projected
    assert read_rows(open_source(tmp_path / name)).shape == (n, dim)


def test_too_large_partitions_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("haag_vq.export.process_allowance", lambda: Allowance(500 << 20, "a test"))
    with pytest.raises(InsufficientMemoryError, match=r"exporting needs .*chunk_size='32 MiB'"):
        export_vectors(ForbiddenSource(10**6, 4), tmp_path / "out.npy", None, 128 << 20)
    assert left_in(tmp_path) == []


# --- values and types that do not suit ----------------------------------------------------------


@pytest.mark.parametrize("name", ["out.npy", "out.f16bin", "out.parquet"])
def test_an_overflow_of_float16_is_named(name: str, tmp_path: Path) -> None:
    rows = REAL.copy()
    rows[123, 4] = -70_000
    rows[150, 0] = 1e30
    with pytest.raises(DataError, match="row 123 holds -70000, which float16 cannot store"):
        export_vectors(ArraySource(rows), tmp_path / name, "float16", 100 * DIM * 4)
    assert left_in(tmp_path) == []


def test_the_largest_float16_is_no_overflow(tmp_path: Path) -> None:
    rows = np.full((3, 2), 65504, np.float32)
    export_vectors(ArraySource(rows), tmp_path / "out.f16bin")
    np.testing.assert_array_equal(read_rows(open_source(tmp_path / "out.f16bin")), rows)


@pytest.mark.parametrize(
    ("value", "name", "told"),
    [
        (0.5, "out.u8bin", "row 77 holds 0.5, which uint8"),
        (-1, "out.u8bin", "row 77 holds -1, which uint8"),
        (256, "out.u8bin", "row 77 holds 256, which uint8"),
        (128, "out.i8bin", "row 77 holds 128, which int8"),
        (-129, "out.i8bin", "row 77 holds -129, which int8"),
    ],
)
def test_integers_hold_neither_fractions_nor_more(
    value: float, name: str, told: str, tmp_path: Path
) -> None:
    rows = np.clip(WHOLE, 0, 127)
    rows[77, 3] = value
    with pytest.raises(DataError, match=told):
        export_vectors(ArraySource(rows), tmp_path / name, None, 10 * DIM * 4)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "dtype", "told"),
    [
        ("out.fbin", "float16", r"a \.fbin file holds float32, not float16; name it \.f16bin"),
        ("out.f16bin", "float32", r"holds float16, not float32; name it \.fbin"),
        ("out.u8bin", "int8", r"name it \.i8bin"),
        ("out.i8bin", "float64", r"use \.npy or \.parquet"),
        ("out.bvecs", "float32", r"a \.bvecs file holds uint8, not float32; name it \.fvecs"),
        ("out.npy", "int32", "'int32' is none of float32"),
        ("out.npy", "complex64", "is none of"),
        ("out.bin", None, r"out.bin: vectors are written as \.npy"),
        ("out", None, "choose by suffix"),
        ("out.hdf5", "float32", "choose by suffix"),
    ],
)
def test_suffix_and_type_must_suit_each_other(
    name: str, dtype: str | None, told: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=told):
        export_vectors(ForbiddenSource(10, 4), tmp_path / name, dtype)
    assert left_in(tmp_path) == []


def test_every_type_is_little_endian() -> None:
    for suffix, asked, stored in FORMATS:
        found = stored_dtype(f"x{suffix}", asked)
        assert found == np.dtype(stored).newbyteorder("<"), suffix


def test_more_rows_than_a_big_ann_header_counts(tmp_path: Path) -> None:
    with pytest.raises((UsageError, WriteError), match=r"uint32|free"):
        export_vectors(ForbiddenSource(2**32, 1), tmp_path / "out.u8bin")
    assert left_in(tmp_path) == []


# --- what goes wrong while writing ---------------------------------------------------------------

WRITERS = {"out.npy": FixedRowWriter, "out.fbin": FixedRowWriter, "out.parquet": ParquetWriter}


class FailingSource(VectorSource):
    """A source whose rows beyond the first hundred cannot be had."""

    def __init__(self, error: BaseException) -> None:
        self.n_rows, self.dim, self.dtype = N, DIM, np.dtype(np.float32)
        self._error = error
        self._whole = ArraySource(REAL)

    edges = property(lambda self: self._whole.edges)
    fingerprint = property(lambda self: "failing")
    scratch_bytes = property(lambda self: 0)
    stored_bytes = property(lambda self: 0)

    def read_into(self, start: int, out: F32) -> None:
        if start >= 100:
            raise self._error
        self._whole.read_into(start, out)

    def take_into(self, rows: Any, out: F32) -> None:
        raise NotImplementedError

    def narrow(self, start: int, stop: int) -> VectorSource:
        raise NotImplementedError


@pytest.fixture(params=list(WRITERS))
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path at which an older file lies."""
    path = tmp_path / str(request.param)
    path.write_bytes(b"older")
    return path


def assert_untouched(out: Path) -> None:
    assert left_in(out.parent) == [out.name], "nothing that looks whole, and nothing else"
    assert out.read_bytes() == b"older"


def test_a_full_disk_keeps_the_older_file(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer: Any = WRITERS[out.name]
    real: Callable[..., None] = writer._append
    n_calls = 0

    def append(self: Any, rows: Any) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, rows)

    monkeypatch.setattr(writer, "_append", append)
    with pytest.raises(WriteError, match="No space left on device.*Nothing was left"):
        export_vectors(ArraySource(REAL), out, None, 50 * DIM * 4)
    assert n_calls == 3
    assert_untouched(out)


LIMITED = """
import resource, sys
import numpy as np
from haag_vq.errors import WriteError
from haag_vq.export import export_vectors
from haag_vq.sources import SyntheticSource

out, limit = sys.argv[1], int(sys.argv[2])
# Python ignores SIGXFSZ: a write beyond the limit fails with EFBIG, as a quota would.
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    export_vectors(SyntheticSource(3000, 32), out, None, 64 << 10)
except WriteError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 100_000, 383_000])
def test_a_file_that_really_cannot_grow_keeps_the_older_one(out: Path, limit: int) -> None:
    """The rows take 384,000 bytes: nothing, some and nearly all of them can be written."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIMITED, str(out), str(limit)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "File too large" in done.stdout
    assert str(out) in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert done.returncode == 0
    assert_untouched(out)


def test_more_than_the_disk_has_free_is_refused_first(out: Path) -> None:
    with pytest.raises(WriteError, match=r"would take 64 TiB, .* has .* free"):
        export_vectors(ForbiddenSource(2**31, 2**13), out.with_suffix(".npy"))
    assert out.read_bytes() == b"older"


@pytest.mark.parametrize(
    "error",
    [
        DataError("ragged"),
        FileChangedError("shard-7.npy changed between planning and reading"),
        KeyboardInterrupt(),
    ],
)
def test_an_error_of_reading_is_no_error_of_writing(out: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        export_vectors(FailingSource(error), out, None, 50 * DIM * 4)
    assert caught.value is error
    assert_untouched(out)


def test_a_source_of_fewer_rows_than_promised_leaves_nothing(tmp_path: Path) -> None:
    writer = FixedRowWriter(tmp_path / "part", 10, DIM, np.dtype("<f4"), ".npy")
    writer.write(REAL[:9])
    with pytest.raises(DataError, match="9 rows written of 10 promised"):
        writer.finish()
    writer.close()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="no-such-directory.*No such file"):
        export_vectors(ForbiddenSource(10, 4), tmp_path / "no-such-directory/out.npy")


def test_a_directory_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "out.npy").mkdir()
    with pytest.raises(WriteError, match="it is a directory"):
        export_vectors(ForbiddenSource(10, 4), tmp_path / "out.npy")
    assert left_in(tmp_path) == ["out.npy"]


def test_an_error_about_another_file_is_passed_on(tmp_path: Path) -> None:
    def write() -> None:
        with written_whole(tmp_path / "out") as part:
            part.write_bytes(b"some")
            (tmp_path / "other").read_bytes()

    with pytest.raises(FileNotFoundError, match="other"):
        write()
    assert left_in(tmp_path) == []
