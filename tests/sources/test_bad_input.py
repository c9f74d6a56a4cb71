"""Bad input is refused, with what, where, how much of it, and what to do."""

from __future__ import annotations

import functools
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from haag_vq.errors import DataError, FileChangedError, HaagVQError, SourceNotFoundError
from haag_vq.sources import (
    ArraySource,
    ConcatSource,
    PrefixSource,
    TakeSource,
    VectorSource,
    WithoutSource,
    open_source,
)
from haag_vq.sources import parquet as parquet_module
from haag_vq.sources.fileio import FileStamp, pread_exactly
from haag_vq.sources.hdf5 import open_hdf5
from haag_vq.sources.npy import open_npy
from haag_vq.sources.open import natural_key
from tests.support.files import (
    list_array,
    n_open_files,
    read_rows,
    take_rows,
    vectors,
    write_bigann,
    write_hdf5,
    write_npy,
    write_parquet,
    write_texmex,
)

N, DIM = 60, 4


def message(error: type[Exception], action: Callable[[], object]) -> str:
    """Message of the error that `action` must raise; it must leave no file open."""
    before = n_open_files()
    with pytest.raises(error) as caught:
        action()
    assert n_open_files() == before
    # Finished text, that survives the way home from a worker process.
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return str(caught.value)


def names(text: str, *parts: object) -> bool:
    missing = [part for part in parts if str(part) not in text]
    assert not missing, f"{missing} not in: {text}"
    return True


def write(path: Path, array: Any, group: int = 7) -> Path:
    if path.suffix == ".npy":
        return write_npy(path, array)
    if path.suffix == ".parquet":
        return write_parquet(path, array, row_group_size=group)
    if path.suffix == ".hdf5":
        return write_hdf5(path, {"train": array})
    return write_texmex(path, array) if path.suffix == ".fvecs" else write_bigann(path, array)


# --- vectors that are not finite -------------------------------------------------------------

FILES = [
    ("x.npy", "float32"),
    ("x.npy", "float64"),
    ("x.npy", "float16"),
    ("x.fbin", "float32"),
    ("x.f16bin", "float16"),
    ("x.fvecs", "float32"),
    ("x.hdf5", "float64"),
    ("x.parquet", "float64"),
    ("x.parquet", "float32"),
    ("x.parquet", "float16"),
]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "dtype"), FILES)
def test_not_finite_rows_are_counted_and_the_first_is_named(
    name: str, dtype: str, bad: float, tmp_path: Path
) -> None:
    array = vectors(N, DIM, dtype)
    array[[17, 23, 41], [0, 3, 1]] = bad
    source = open_source(write(tmp_path / name, array))
    text = message(DataError, lambda: read_rows(source))
    assert names(text, tmp_path / name, "NaN or infinity", "3 of the 60 rows", "0:60", "row 17")
    # In rows of the file, also from a part that numbers its own.
    text = message(DataError, lambda: read_rows(source.narrow(20, 30), 1, 9))
    assert names(text, "1 of the 8 rows", "21:29", "row 23")
    # And a read that does not touch them is fine.
    assert_array_equal(read_rows(source, 24, 41), array[24:41].astype(np.float32))


@pytest.mark.parametrize(("name", "dtype"), [*FILES, ("array", "float32"), ("array", "float64")])
def test_a_take_names_the_row_that_is_not_finite(name: str, dtype: str, tmp_path: Path) -> None:
    array = vectors(N, DIM, dtype)
    array[[17, 23, 41]] = np.nan
    source: VectorSource = (
        ArraySource(array) if name == "array" else open_source(write(tmp_path / name, array))
    )
    text = message(DataError, lambda: take_rows(source, [0, 5, 23, 24, 41, 41, 59]))
    assert names(text, "3 of the 7 rows", "0:60", "row 23")
    text = message(DataError, lambda: take_rows(source.narrow(10, N), [0, 5, 13, 31]))
    assert names(text, "2 of the 4 rows", "10:42", "row 23")
    # Queries held out make every read of the base a take.
    text = message(DataError, lambda: read_rows(WithoutSource(source, np.array([2, 8, 17]))))
    assert names(text, "2 of the 57 rows", "row 23")
    text = message(DataError, lambda: read_rows(TakeSource(source, np.array([50, 41, 3]))))
    assert names(text, "1 of the 3 rows", "row 41")


@pytest.mark.parametrize("piece_rows", [1, 3, 60])
def test_the_first_bad_row_is_found_in_whatever_piece(
    piece_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = vectors(N, DIM, "float16")
    array[[17, 23, 41]] = np.inf
    monkeypatch.setattr("haag_vq.sources.fixed.PIECE_BYTES", piece_rows * DIM * 2)
    monkeypatch.setattr("haag_vq.sources.fixed._idle", [])
    source = open_source(write(tmp_path / "x.npy", array))
    text = message(DataError, lambda: read_rows(source, 10, 50))
    assert names(text, "3 of the 40 rows", "10:50", "row 17")
    text = message(DataError, lambda: take_rows(source, [18, 19, 23, 30, 41]))
    assert names(text, "2 of the 5 rows", "18:42", "row 23")


@pytest.mark.parametrize("name", ["x.npy", "x.parquet", "array"])
def test_a_float64_beyond_float32_is_not_finite(name: str, tmp_path: Path) -> None:
    array = vectors(N, DIM, "float64")
    array[30, 2] = 1e39
    source: VectorSource = (
        ArraySource(array) if name == "array" else open_source(write(tmp_path / name, array))
    )
    text = message(DataError, lambda: read_rows(source))
    assert names(text, "as float32", "1 of the 60 rows", "row 30")
    # A sum that overflows is no sign of it: the largest float32 are vectors like others.
    array[30] = np.finfo(np.float32).max
    source = ArraySource(array) if name == "array" else open_source(write(tmp_path / name, array))
    assert_array_equal(read_rows(source), array.astype(np.float32))


def test_dimensions_that_are_not_asked_for_may_be_anything(tmp_path: Path) -> None:
    array = vectors(N, DIM)
    array[:, 3] = np.nan
    source = open_source(write(tmp_path / "x.npy", array))
    assert_array_equal(read_rows(PrefixSource(source, 3)), array[:, :3])


def test_a_shard_names_its_own_file_and_row(tmp_path: Path) -> None:
    for i in range(3):
        array = vectors(20, DIM, seed=i)
        if i == 1:
            array[4] = np.nan
        write(tmp_path / f"part-{i}.npy", array)
    text = message(DataError, lambda: read_rows(open_source(tmp_path)))
    assert names(text, "part-1.npy", "row 4")


def test_a_zero_vector_cannot_be_renormalized(tmp_path: Path) -> None:
    array = vectors(N, DIM)
    array[31, :2] = 0
    source = PrefixSource(open_source(write(tmp_path / "x.npy", array)), 2, renormalize=True)
    for action in (lambda: read_rows(source), lambda: take_rows(source, [0, 30, 31])):
        assert names(message(DataError, action), "x.npy", "first 2 dimensions", "row 31")
    assert len(read_rows(source, 32, 60)) == 28


# --- Parquet columns --------------------------------------------------------------------------


def lists(kind: str, rows: list[list[float | None] | None], size: int = 3) -> pa.Array:
    value = pa.float32()
    types = {
        "list": pa.list_(value),
        "large_list": pa.large_list(value),
        "fixed_size_list": pa.list_(value, size),
    }
    return pa.array(rows, types[kind])


KINDS = ["list", "large_list", "fixed_size_list"]


@pytest.mark.parametrize("kind", KINDS)
def test_null_embeddings_name_the_first_row(kind: str, tmp_path: Path) -> None:
    rows: list[list[float | None] | None] = [[1.0, 2.0, 3.0]] * 20
    rows[11] = rows[13] = None
    path = write_parquet(tmp_path / "x.parquet", lists(kind, rows), row_group_size=8)
    source = open_source(path)
    assert source.dim == 3
    for action in (lambda: read_rows(source), lambda: take_rows(source, [2, 11])):
        assert names(message(DataError, action), path, "null embedding", "'emb'", "row 11", "2 in")
    assert len(read_rows(source, 0, 8)) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_nulls_inside_an_embedding_name_the_row(kind: str, tmp_path: Path) -> None:
    rows: list[list[float | None] | None] = [[1.0, 2.0, 3.0]] * 20
    rows[9] = [1.0, None, None]
    path = write_parquet(tmp_path / "x.parquet", lists(kind, rows), row_group_size=8)
    text = message(DataError, lambda: read_rows(open_source(path)))
    assert names(text, path, "null value inside", "'emb'", "row 9", "1 such row")


@pytest.mark.parametrize("kind", ["list", "large_list"])
@pytest.mark.parametrize(("odd", "length"), [([1.0, 2.0], 2), ([1.0] * 5, 5), ([], 0)])
def test_ragged_lists_name_the_row_and_both_lengths(
    kind: str, odd: list[float | None], length: int, tmp_path: Path
) -> None:
    rows: list[list[float | None] | None] = [[1.0, 2.0, 3.0]] * 20
    rows[4] = odd
    path = write_parquet(tmp_path / "x.parquet", lists(kind, rows), row_group_size=8)
    source = open_source(path)
    text = message(DataError, lambda: read_rows(source))
    assert names(text, path, "ragged", "'emb'", "row 4", f"{length} values", "others have 3")
    assert len(read_rows(source, 8, 20)) == 12


def test_lengths_that_only_average_to_the_dimension_are_ragged(tmp_path: Path) -> None:
    rows: list[list[float | None] | None] = [[1.0, 2.0], [1.0, 2.0, 3.0, 4.0]] * 10
    path = write_parquet(tmp_path / "x.parquet", lists("list", rows))
    text = message(DataError, lambda: read_rows(open_source(path)))
    assert names(text, "ragged", "row 0", "2 values", "20 such rows")


def test_a_column_of_nulls_alone_is_refused_on_reading(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", lists("list", [None] * 5))
    text = message(DataError, lambda: read_rows(open_source(path)))
    assert names(text, "null embedding", "row 0", "5 in")


def test_a_missing_column_lists_those_there(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", vectors(5, 3))
    text = message(DataError, lambda: open_source(path, column="vec"))
    assert names(text, path, "'vec'", "'id' (int64)", "'title' (string)", "'emb'", "'text'")


def test_a_column_that_holds_no_vectors_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", vectors(5, 3))
    text = message(DataError, lambda: open_source(path, column="title"))
    assert names(text, path, "'title' is string", "float32")
    pq.write_table(pa.table({"ids": pa.array([[1, 2]], pa.list_(pa.int64()))}), path)
    text = message(DataError, lambda: open_source(path, column="ids"))
    assert names(text, "'ids' is list", "int64")


def test_a_file_without_lists_of_numbers_lists_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1, 2], "b": [["x"], ["y"]]}), path)
    text = message(DataError, lambda: open_source(path))
    assert names(text, path, "no column of lists of numbers", "column=", "'a' (int64)", "'b'")


def test_several_candidates_are_named_and_one_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    left, right = vectors(9, 3), vectors(9, 5)
    table = pa.table({"left": list_array(left), "n": range(9), "right": list_array(right)})
    pq.write_table(table, path)
    text = message(DataError, lambda: open_source(path))
    assert names(text, path, "several columns", "'left', 'right'", "column=", "'n' (int64)")
    assert_array_equal(read_rows(open_source(path, column="left")), left)
    assert_array_equal(read_rows(open_source(path, column="right")), right)


def test_a_usual_name_decides_between_candidates(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    embeddings = vectors(9, 3)
    pq.write_table(
        pa.table({"aux": list_array(vectors(9, 2)), "emb": list_array(embeddings)}), path
    )
    assert_array_equal(read_rows(open_source(path)), embeddings)


def test_a_name_with_dots_is_not_taken_for_a_part_of_another(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    small, large = vectors(9, 2), vectors(9, 5)
    columns = {"emb.small": list_array(small), "emb": list_array(large), "emb.n": range(9)}
    pq.write_table(pa.table(columns), path)
    assert_array_equal(read_rows(open_source(path, column="emb")), large)
    assert_array_equal(read_rows(open_source(path, column="emb.small")), small)


def test_columns_of_columns_before_the_vectors_do_not_shift_them(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    array = vectors(9, 3)
    nested = pa.struct({"a": pa.int64(), "b": pa.struct({"c": pa.string(), "d": pa.int8()})})
    columns = {
        "nested": pa.array([{"a": 1, "b": {"c": "x", "d": 2}}] * 9, nested),
        "pairs": pa.array([[("k", 1)]] * 9, pa.map_(pa.string(), pa.int64())),
        "words": pa.array([["a", "b"]] * 9),
        "kind": pa.array(["x"] * 9).dictionary_encode(),
        "nothing": pa.nulls(9),
        "vector": list_array(array),
        "after": pa.array([[1, 2]] * 9, pa.list_(pa.int64())),
    }
    pq.write_table(pa.table(columns), path)
    source = open_source(path)
    assert_array_equal(read_rows(source), array)
    chunk = pq.read_metadata(path).row_group(0).column(8)
    assert chunk.path_in_schema.startswith("vector.")
    assert source.stored_bytes == chunk.total_compressed_size


def test_a_tensor_column_is_a_list_column(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    array = vectors(9, 3)
    pq.write_table(pa.table({"t": pa.FixedShapeTensorArray.from_numpy_ndarray(array)}), path)
    assert_array_equal(read_rows(open_source(path)), array)


# --- truncated and damaged files -------------------------------------------------------------


def cut(path: Path, start: int, stop: int | None = None) -> Path:
    """Remove bytes ``start:stop`` of a file."""
    data = path.read_bytes()
    path.write_bytes(data[:start] + (b"" if stop is None else data[stop:]))
    return path


def put(path: Path, at: int, data: bytes) -> Path:
    """Overwrite bytes of a file."""
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)
    return path


@pytest.mark.parametrize("name", ["x.npy", "x.fbin"])
@pytest.mark.parametrize("where", ["tail", "last byte", "middle"])
def test_a_truncated_row_file_tells_both_sizes(name: str, where: str, tmp_path: Path) -> None:
    array = vectors(N, DIM)
    path = write(tmp_path / name, array)
    size = path.stat().st_size
    spans = {"tail": (size - 100, None), "last byte": (size - 1, None), "middle": (200, 300)}
    cut(path, *spans[where])
    now = path.stat().st_size
    held = (now - (size - array.nbytes)) // (4 * DIM)
    text = message(DataError, lambda: open_source(path))
    assert names(text, path, "truncated", "60 rows × 4 float32", f"{size:,}", f"{now:,}")
    assert names(text, f"enough for {held} rows")


@pytest.mark.parametrize("name", ["x.npy", "x.fbin"])
def test_a_header_that_promises_more_rows_is_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, vectors(N, DIM))
    if name == "x.npy":
        data = path.read_bytes()
        path.write_bytes(data.replace(b"(60, 4)", b"(99, 4)"))
    else:
        put(path, 0, struct.pack("<I", 99))
    assert names(message(DataError, lambda: open_source(path)), "promises 99 rows", "60 rows")


@pytest.mark.parametrize("name", ["x.npy", "x.fbin"])
def test_a_header_that_promises_fewer_rows_is_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, vectors(N, DIM))
    with open(path, "ab") as file:
        file.write(bytes(16))
    assert names(message(DataError, lambda: open_source(path)), "longer", "60 rows", "61 rows")


@pytest.mark.parametrize("name", ["x.npy", "x.fbin", "x.parquet"])
@pytest.mark.parametrize("n_bytes", [0, 1, 7, 20])
def test_a_file_cut_in_its_header_is_refused(name: str, n_bytes: int, tmp_path: Path) -> None:
    path = cut(write(tmp_path / name, vectors(N, DIM)), n_bytes)
    assert names(message(DataError, lambda: open_source(path)), path)


@pytest.mark.parametrize("lost", [1, 8, 100, 2_000])
def test_a_parquet_file_without_its_tail_is_refused(lost: int, tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", vectors(N, DIM))
    cut(path, path.stat().st_size - lost)
    text = message(DataError, lambda: open_source(path))
    assert names(text, path, "Parquet", "footer", "truncated", "fetch or write it again")


@pytest.mark.parametrize("lost", [1, 50, 500])
@pytest.mark.parametrize("how", ["cut out", "zeroed", "garbled"])
def test_a_parquet_file_damaged_in_the_middle_names_the_rows(
    how: str, lost: int, tmp_path: Path
) -> None:
    path = write_parquet(tmp_path / "x.parquet", vectors(400, DIM), row_group_size=100)
    chunk = pq.read_metadata(path).row_group(1).column(2)
    # A page header, where a single byte suffices; zeroed data would decode to zeros.
    at = chunk.dictionary_page_offset or chunk.data_page_offset
    if how == "cut out":
        cut(path, at, at + lost)
    else:
        put(path, at, bytes(lost) if how == "zeroed" else b"\xff" * lost)
    text = message(DataError, lambda: read_rows(open_source(path)))
    assert names(text, path, "Parquet", "rows 0:400 of column 'emb'", "damaged")
    text = message(DataError, lambda: take_rows(open_source(path), [3, 150]))
    assert names(text, path, "of column 'emb'")


def test_a_footer_that_promises_more_rows_is_refused_by_reads_and_takes(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    array = vectors(100, 3)
    pq.write_table(pa.table({"emb": list_array(array)}), path, store_schema=False)
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    # 100 and 101 as the footer's zigzag varints.
    path.write_bytes(data[:start] + data[start:].replace(b"\xc8\x01", b"\xca\x01"))
    source = open_source(path)
    assert source.n_rows == 101
    for action in (lambda: read_rows(source), lambda: take_rows(source, [5, 100])):
        text = message(DataError, action)
        assert names(text, path, "promises", ":101", "end at row 100")
    assert_array_equal(take_rows(source, [5, 99]), array[[5, 99]])


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(10))
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(
            DataError, match=r"x\.bin is truncated: 8 bytes .* offset 6, .* after 4"
        ):
            pread_exactly(fd, memoryview(bytearray(8)), 6, str(path))
    finally:
        os.close(fd)


# --- .npy headers ----------------------------------------------------------------------------


class Bomb:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_an_object_array_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    objects = np.empty((1, 1), object)
    objects[0, 0] = Bomb(tmp_path / "ran")
    np.save(path, objects, allow_pickle=True)
    for action in (lambda: open_source(path), lambda: open_source(tmp_path)):
        assert names(message(DataError, action), path, "object", "refused", "float32")
    assert not (tmp_path / "ran").exists()
    # The file is what it is taken for.
    np.load(path, allow_pickle=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.asfortranarray(vectors(N, DIM)), ["column by column", "fortran_order"]),
        (np.zeros(12, np.float32), ["shape (12,)", "two-dimensional"]),
        (np.zeros((2, 3, 4), np.float32), ["shape (2, 3, 4)", "two-dimensional"]),
        (np.float32(1), ["shape ()"]),
        (np.zeros((4, 3), np.int64), ["int64", "float32, float64, float16, int8, uint8"]),
        (np.zeros((4, 3), np.complex64), ["complex64"]),
        (np.zeros((4, 3), bool), ["bool"]),
        (np.zeros((4, 3), "U2"), ["str"]),
        (np.zeros((4, 3), [("a", "f4"), ("b", "f4")]), ["void"]),
        (np.zeros((4, 0), np.float32), ["(4, 0)", "without dimensions"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else f"{value.dtype}{value.shape}",
)
def test_an_npy_file_of_something_else_says_what_it_holds(
    array: Any, words: list[str], tmp_path: Path
) -> None:
    path = write_npy(tmp_path / "x.npy", np.asanyarray(array))
    assert names(message(DataError, lambda: open_source(path)), path, *words)


@pytest.mark.parametrize("shape", [(N, 1), (1, DIM)])
def test_fortran_order_does_not_matter_to_one_row_or_column(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    array = vectors(*shape)
    path = tmp_path / "x.npy"
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": True, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.tobytes())
    assert_array_equal(read_rows(open_source(path)), array)


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 127), st.sampled_from(b"(){}[]'\",:-OVi<> \n\x00\x01\xff09")),
        min_size=1,
        max_size=4,
    )
)
# An unclosed bracket, which NumPy's second look at the header reports in its own way.
@example(changes=[(60, ord("(")), (61, ord("{"))])
@example(changes=[(22, ord(","))])
def test_a_damaged_npy_header_is_a_data_error_or_harmless(
    changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    array = vectors(12, DIM)
    path = write_npy(tmp_path_factory.getbasetemp() / "damaged.npy", array)
    for at, byte in changes:
        put(path, at, bytes([byte]))
    told = str(path)
    try:
        read_rows(open_npy(FileStamp.of(path)))
    except DataError as error:
        told = str(error)
    assert str(path) in told


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (4, 0)])
def test_an_array_that_is_no_set_of_vectors_is_refused(shape: tuple[int, ...]) -> None:
    text = message(DataError, lambda: ArraySource(np.zeros(shape, np.float32)))
    assert names(text, shape)


@pytest.mark.parametrize("dtype", ["int64", "int32", "object", "U3", "bool", "complex64"])
def test_an_array_of_another_type_is_refused(dtype: str) -> None:
    text = message(DataError, lambda: ArraySource(np.zeros((2, 2), dtype)))
    assert names(text, np.dtype(dtype), "float32, float64, float16, int8, uint8")


def test_a_bigann_header_without_dimensions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.fbin"
    path.write_bytes(struct.pack("<II", 5, 0))
    assert names(message(DataError, lambda: open_source(path)), path, "dimension 0", ".fbin")


# --- TEXMEX's files and HDF5 -----------------------------------------------------------------


def test_rows_of_unlike_dimensions_are_told_by_row_and_both(tmp_path: Path) -> None:
    path = write_texmex(tmp_path / "x.fvecs", vectors(N, DIM))
    for row in (17, 41):
        put(path, row * (4 + 4 * DIM), struct.pack("<i", 5))
    source = open_source(path)
    text = message(DataError, lambda: read_rows(source, 10, 50))
    assert names(text, path, "row 17", "5 dimensions", "row 0 says 4", "2 such rows among 40")
    text = message(DataError, lambda: take_rows(source.narrow(20, N), [0, 21, 22]))
    assert names(text, "row 41", "1 such rows among 3")
    assert len(read_rows(source, 18, 41)) == 23


@pytest.mark.parametrize("suffix", [".fvecs", ".bvecs"])
@pytest.mark.parametrize("lost", [1, 4, 30])
def test_a_texmex_file_of_no_whole_number_of_rows_is_refused(
    suffix: str, lost: int, tmp_path: Path
) -> None:
    dtype = "float32" if suffix == ".fvecs" else "uint8"
    path = write_texmex(tmp_path / f"x{suffix}", vectors(N, 32, dtype))
    cut(path, path.stat().st_size - lost)
    row_bytes = 4 + 32 * np.dtype(dtype).itemsize
    text = message(DataError, lambda: open_source(path))
    assert names(text, path, "truncated", "dimension 32", f"{row_bytes} bytes each", "59 rows")
    assert names(text, f"{path.stat().st_size:,} bytes", f"{row_bytes - lost} bytes more")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no vectors"),
        (b"\1\0", "no vectors"),
        (bytes(20), "dimension 0"),
        (struct.pack("<i", -4) + bytes(16), "dimension -4"),
        # Big-endian, or something else altogether.
        (struct.pack(">i", 128) + bytes(512), "dimension -2,147,483,648"),
        (struct.pack(">i", 1536) + bytes(512), "dimension 393,216, so that rows take 1,572,868 b"),
    ],
)
def test_a_texmex_file_without_a_dimension_is_refused(
    data: bytes, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.fvecs"
    path.write_bytes(data)
    assert names(message(DataError, lambda: open_source(path)), path, told)


def test_an_hdf5_file_without_the_array_lists_those_there(tmp_path: Path) -> None:
    arrays = {"neighbors": np.zeros((3, 2), np.int32), "distances": np.zeros((3, 2), np.float32)}
    path = write_hdf5(tmp_path / "x.hdf5", arrays)
    text = message(DataError, lambda: open_source(path))
    assert names(text, path, "no array 'train'", "'neighbors' (3, 2)", "'distances' (3, 2)")
    assert names(text, "column=", "--column")
    assert open_source(path, column="distances").n_rows == 3


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(12, np.float32), ["shape (12,)", "two dimensions"]),
        (np.zeros((4, 0), np.float32), ["shape (4, 0)"]),
        (np.float32(1), ["shape ()"]),
        (np.zeros((4, 3), np.int64), ["int64", "float32, float64, float16, int8, uint8"]),
        (np.zeros((4, 3), bool), ["bool"]),
        (np.array([["a", "b"]], "S2"), ["S2"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else f"{value.dtype}{value.shape}",
)
def test_an_hdf5_array_of_something_else_says_what_it_holds(
    array: Any, words: list[str], tmp_path: Path
) -> None:
    path = write_hdf5(tmp_path / "x.hdf5", {"train": array})
    assert names(message(DataError, lambda: open_source(path)), path, "'train'", *words)


def chunked(file: Any) -> None:
    file.create_dataset("train", data=vectors(N, DIM), chunks=(7, DIM), compression="gzip")


def compact(file: Any) -> None:
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((N, DIM))
    h5py.h5d.create(file.id, b"train", h5py.h5t.IEEE_F32LE, space, layout)


def unwritten(file: Any) -> None:
    file.create_dataset("train", (N, DIM), np.float32)


def external(file: Any) -> None:
    file.create_dataset("train", (N, DIM), np.float32, external=[("x.raw", 0, 4 * N * DIM)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((N, DIM), np.float32)
    layout[:] = h5py.VirtualSource("other.hdf5", "train", (N, DIM))
    file.create_virtual_dataset("train", layout)


STORED: dict[Callable[[Any], None], str] = {
    chunked: "in chunks",
    compact: "in its own description",
    unwritten: "nothing was ever written",
    external: "in another file",
    virtual: "pieces of other files",
}


@pytest.mark.parametrize("store", list(STORED))
def test_an_hdf5_array_that_is_not_in_one_piece_is_refused(
    store: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        store(file)
    text = message(DataError, lambda: open_source(path))
    assert names(text, path, "'train'", STORED[store], "h5repack -l CONTI -f NONE")


@pytest.mark.parametrize("way", ["train", "group/rows", "soft"])
def test_an_hdf5_array_in_another_file_is_not_looked_for_in_this_one(
    way: str, tmp_path: Path
) -> None:
    other = write_hdf5(tmp_path / "other.hdf5", {"rows": vectors(N, DIM)})
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file["rows"] = vectors(N, DIM, seed=1)
        file["train"] = h5py.ExternalLink(str(other), "/rows")
        file["group"] = h5py.ExternalLink(str(other), "/")
        file["soft"] = h5py.SoftLink("/train")
    text = message(DataError, lambda: open_source(path, column=way))
    assert names(text, path, f"{way!r} is a link to ", other)


def test_hdf5_arrays_are_found_in_groups_and_by_links(tmp_path: Path) -> None:
    array = vectors(N, DIM)
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file["deep/er/rows"] = array
        file["deep/up"] = h5py.SoftLink("er/rows")
        file["train"] = h5py.SoftLink("/deep/up")
        file["circle"] = h5py.SoftLink("circle")
    for name in (None, "deep/er/rows", "/deep/up", "deep//er/rows"):
        assert_array_equal(read_rows(open_source(path, column=name)), array)
    for name in ("circle", "deep", "deep/er/rows/x", "no", "deep/no"):
        text = message(DataError, functools.partial(open_source, path, name))
        assert names(text, f"no array {name!r}", "'deep/er/rows' (60, 4)", "--query-column")


def test_floats_that_are_not_numpys_are_refused(tmp_path: Path) -> None:
    """The library would hand bfloat16 out as float32: two bytes are stored, not four."""
    kind = h5py.h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((N, DIM))
        made = h5py.h5d.create(file.id, b"train", kind, space)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, vectors(N, DIM))
        file["test"] = vectors(100 * N, DIM)  # bytes enough behind it
    text = message(DataError, lambda: open_source(path))
    assert names(text, path, "2-byte values of a type that NumPy lacks", "float32")


@pytest.mark.parametrize("lost", [1, 100, 900])
def test_a_truncated_hdf5_file_is_refused(lost: int, tmp_path: Path) -> None:
    path = write(tmp_path / "x.hdf5", vectors(N, DIM))
    cut(path, path.stat().st_size - lost)
    assert names(message(DataError, lambda: open_source(path)), path, "HDF5", "truncated")


@settings(max_examples=200, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 2_047), st.integers(0, 255)), max_size=4))
def test_a_damaged_hdf5_file_is_a_data_error_or_harmless(
    changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "damaged.hdf5", vectors(12, DIM))
    for at, byte in changes:
        put(path, at, bytes([byte]))
    told = str(path)
    try:
        read_rows(open_hdf5(FileStamp.of(path)))
    except DataError as error:
        told = str(error)
    assert str(path) in told


# --- what a path stands for ------------------------------------------------------------------


def test_no_such_file_names_the_path_and_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = message(SourceNotFoundError, lambda: open_source("missing.npy"))
    assert names(text, "missing.npy", tmp_path, "quotes")
    text = message(SourceNotFoundError, lambda: open_source([tmp_path / "missing.npy"]))
    assert names(text, tmp_path / "missing.npy", "No such file")
    # Also what Python's own callers would catch.
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / "missing.npy")


def test_a_pattern_without_matches_is_named(tmp_path: Path) -> None:
    write(tmp_path / "x.fbin", vectors(5, 3))
    text = message(SourceNotFoundError, lambda: open_source(tmp_path / "*.npy"))
    assert names(text, tmp_path / "*.npy", "no file matches")


def test_an_empty_directory_and_an_empty_list_are_refused(tmp_path: Path) -> None:
    text = message(SourceNotFoundError, lambda: open_source(tmp_path))
    assert names(text, tmp_path, "no vector files", ".npy", ".parquet", ".fbin")
    assert names(message(SourceNotFoundError, lambda: open_source([])), "empty list")


def test_an_unknown_format_names_those_known(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2,3\n")
    text = message(DataError, lambda: open_source(tmp_path / "x.csv"))
    assert names(text, tmp_path / "x.csv", "no known format", ".npy", ".parquet", ".u8bin")


def test_content_decides_before_the_suffix(tmp_path: Path) -> None:
    array = vectors(9, 3)
    for suffix in (".npy", ".parquet"):
        path = write(tmp_path / f"x{suffix}", array).rename(tmp_path / f"{suffix[1:]}.data")
        assert_array_equal(read_rows(open_source(path)), array)


def test_a_directory_of_mixed_formats_is_refused(tmp_path: Path) -> None:
    array = vectors(9, 3)
    for name in ("a.npy", "b.npy", "c.parquet"):
        write(tmp_path / name, array)
    text = message(DataError, lambda: open_source(tmp_path))
    assert names(text, tmp_path, "mixes formats", "a.npy", "c.parquet", "*.npy")
    assert open_source(tmp_path / "*.npy").n_rows == 18


@pytest.mark.parametrize(
    "other",
    ["sift_query.fvecs", "sift_LEARN.fvecs", "queries.fvecs", "testQuery10K.fvecs", "test.fvecs"],
)
def test_queries_beside_a_base_are_not_stacked_with_it(other: str, tmp_path: Path) -> None:
    write(tmp_path / "sift_base.fvecs", vectors(9, 3))
    write(tmp_path / other, vectors(5, 3))
    for where in (tmp_path, tmp_path / "*.fvecs"):
        text = message(DataError, functools.partial(open_source, where))
        assert names(text, where, "unlike parts", other, tmp_path / "sift_base.fvecs")
    assert open_source(tmp_path / "sift_base.fvecs").n_rows == 9
    # Who names them means them.
    assert open_source([tmp_path / "sift_base.fvecs", tmp_path / other]).n_rows == 14
    (tmp_path / "sift_base.fvecs").unlink()
    # A directory of queries alone is what it is.
    assert open_source(tmp_path).n_rows == 5


def test_queries_and_training_rows_without_a_base_are_not_stacked(tmp_path: Path) -> None:
    for name in ("x_query.bvecs", "x_learn.bvecs"):
        write_texmex(tmp_path / name, vectors(9, 3, "uint8"))
    (tmp_path / "x_base.bvecs.gz").write_bytes(b"")
    text = message(DataError, lambda: open_source(tmp_path))
    assert names(text, "x_learn.bvecs, x_query.bvecs")


def test_a_crop_of_big_ann_is_a_file_of_its_set(tmp_path: Path) -> None:
    array = vectors(9, 3, "uint8")
    path = write_bigann(tmp_path / "base.u8bin", array).rename(
        tmp_path / "base.u8bin.crop_nb_10000000"
    )
    assert_array_equal(read_rows(open_source(path)), array)
    write_bigann(tmp_path / "query.u8bin", array)
    assert names(message(DataError, lambda: open_source(tmp_path)), "unlike parts")


def test_words_that_only_contain_such_a_name_are_none(tmp_path: Path) -> None:
    for name in ("learned-0.npy", "subquery.npy", "x-1.npy", "latest.npy", "testing.npy"):
        write(tmp_path / name, vectors(9, 3))
    assert open_source(tmp_path).n_rows == 45


def test_ground_truth_beside_vectors_is_none_of_them(tmp_path: Path) -> None:
    write(tmp_path / "x.npy", vectors(9, 3))
    write(tmp_path / "gt.hdf5", vectors(5, 3))
    assert open_source(tmp_path).n_rows == 9


def test_several_sub_directories_are_listed(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "x.npy", vectors(9, 3))
    text = message(DataError, lambda: open_source(tmp_path))
    assert names(text, tmp_path / "train", tmp_path / "test", "several sub-directories")
    (tmp_path / "test" / "x.npy").unlink()
    (tmp_path / ".hidden.npy").write_bytes(b"")
    (tmp_path / "train" / "README.md").write_text("about the vectors")
    assert open_source(tmp_path).n_rows == 9


def test_shards_are_stacked_in_natural_order(tmp_path: Path) -> None:
    order = ["part-1.npy", "part-2.npy", "part-02.npy", "part-10.npy", "part-100.npy"]
    order.sort(key=natural_key)
    assert order == ["part-1.npy", "part-02.npy", "part-2.npy", "part-10.npy", "part-100.npy"]
    for i in (10, 9, 100, 1):
        write(tmp_path / f"s{i}.npy", np.full((2, 3), i, np.float32))
    for where in (tmp_path, tmp_path / "*.npy"):
        assert read_rows(open_source(where))[::2, 0].tolist() == [1, 9, 10, 100]
    # A list is taken as it comes.
    listed = [tmp_path / "s9.npy", tmp_path / "s1.npy", tmp_path / "s9.npy"]
    assert read_rows(open_source(listed))[::2, 0].tolist() == [9, 1, 9]
    # A superscript is a digit to Python, and no number.
    assert sorted(["x1²2", "x1²10"], key=natural_key) == ["x1²2", "x1²10"]


def test_names_in_any_order_are_stacked_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    # Equal as numbers: what a directory lists first must not decide.
    names_ = ["a/1/01", "a/01/1", "a/1/1", "a/01/01"]
    assert len({tuple(sorted(order, key=natural_key)) for order in (names_, names_[::-1])}) == 1


@pytest.mark.parametrize("suffix", [".npy", ".fbin", ".parquet"])
def test_an_empty_shard_among_good_ones_is_fine(suffix: str, tmp_path: Path) -> None:
    arrays = [vectors(n, DIM, seed=n) for n in (9, 0, 5)]
    for i, array in enumerate(arrays):
        write(tmp_path / f"part-{i}{suffix}", array)
    source = open_source(tmp_path)
    assert_array_equal(read_rows(source), np.concatenate(arrays))
    assert source.edges.tolist()[-1] == 14


@pytest.mark.parametrize("suffix", [".npy", ".fbin", ".parquet"])
def test_a_dataset_without_rows_is_refused(suffix: str, tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / f"part-{i}{suffix}", vectors(0, DIM))
    for where in (tmp_path, tmp_path / f"part-0{suffix}"):
        text = message(DataError, lambda where=where: open_source(where))  # type: ignore[misc]
        assert names(text, where, "no vectors", "0 rows")


@pytest.mark.parametrize("suffix", [".npy", ".fbin", ".parquet"])
def test_shards_of_different_dimension_name_both(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"part-0{suffix}", vectors(5, 3))
    write(tmp_path / f"part-1{suffix}", vectors(5, 3))
    write(tmp_path / f"part-2{suffix}", vectors(5, 4))
    text = message(DataError, lambda: open_source(tmp_path))
    assert names(text, f"part-0{suffix} has 3", f"part-2{suffix} has 4")


def test_no_shards_at_all_are_refused() -> None:
    message(DataError, lambda: ConcatSource([]))


# --- files that change between planning and reading -----------------------------------------


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def grown(path: Path) -> None:
    mtime = path.stat().st_mtime_ns
    with open(path, "ab") as file:
        file.write(bytes(100))
    os.utime(path, ns=(mtime, mtime))


def deleted(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    write(path, vectors(N, DIM, seed=9))
    os.utime(path, ns=(1, 1))


CHANGES = {change.__name__: change for change in (touched, grown, deleted, replaced)}


@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize("name", ["x.npy", "x.fbin", "x.parquet"])
def test_a_file_changed_after_planning_is_not_read(name: str, change: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, vectors(N, DIM))
    source = open_source(path)
    task = pickle.dumps(source.narrow(10, 20))
    CHANGES[change](path)
    actions = (
        lambda: read_rows(source),
        lambda: take_rows(source, [3, 30]),
        lambda: read_rows(pickle.loads(task)),
    )
    for action in actions:
        text = message(FileChangedError, action)
        assert names(text, path, "planned" if change == "deleted" else "between planning and")
        assert isinstance(FileChangedError(text), OSError)


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_worker_that_has_not_seen_the_footer_notices_as_well(change: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", vectors(N, DIM))
    task = pickle.dumps(open_source(path).narrow(10, 20))
    CHANGES[change](path)
    for kept in vars(parquet_module).values():
        if hasattr(kept, "cache_clear"):
            kept.cache_clear()
    message(FileChangedError, lambda: read_rows(pickle.loads(task)))
    message(FileChangedError, lambda: pickle.loads(task).edges)


def test_opening_again_reads_the_new_content(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", vectors(N, DIM))
    read_rows(open_source(path))
    replaced(path)
    assert_array_equal(read_rows(open_source(path)), vectors(N, DIM, seed=9))


def test_every_error_is_the_package_s_own() -> None:
    assert all(issubclass(e, HaagVQError) for e in (DataError, FileChangedError))
    assert issubclass(DataError, ValueError)
