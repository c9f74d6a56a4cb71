"""Writes the files that sources are tested on, and reads sources back."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from haag_vq.sources.protocol import F32, I64, VectorSource

AnyArray = NDArray[Any]

# What `out` holds before a read: finite, and in no test's data.
UNWRITTEN = np.float32(-7.5e30)

_ARROW_TYPES = {
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int8": pa.int8(),
    "uint8": pa.uint8(),
}


def vectors(n: int, dim: int, dtype: str = "float32", seed: int = 0) -> AnyArray:
    """(n, dim) values of which no two rows are equal and that float16 rounds.

    float64 ones have bits that float32 lacks, so that a wrong rounding shows.
    """
    rng = np.random.default_rng([seed, n, dim])
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        return rng.integers(info.min, info.max, (n, dim), endpoint=True).astype(kind)
    return rng.standard_normal((n, dim)).astype(kind)


def write_npy(path: Path, array: AnyArray, version: tuple[int, int] = (1, 0)) -> Path:
    with open(path, "wb") as file:
        np.lib.format.write_array(file, array, version=version, allow_pickle=False)
    return path


def write_bigann(path: Path, array: AnyArray) -> Path:
    """Write `array` (n, dim), whose element type must be the one that the suffix means."""
    kinds = {".fbin": "<f4", ".f16bin": "<f2", ".u8bin": "|u1", ".i8bin": "|i1"}
    if array.dtype != np.dtype(kinds[path.suffix]):
        raise ValueError(f"{path.suffix} does not hold {array.dtype}")
    path.write_bytes(struct.pack("<II", *array.shape) + array.tobytes())
    return path


def write_texmex(path: Path, array: AnyArray) -> Path:
    """Write `array` (n, dim) as .fvecs or .bvecs: each row after its dimension."""
    kinds = {".fvecs": "<f4", ".bvecs": "|u1"}
    if array.dtype != np.dtype(kinds[path.suffix]):
        raise ValueError(f"{path.suffix} does not hold {array.dtype}")
    path.write_bytes(b"".join(struct.pack("<i", len(row)) + row.tobytes() for row in array))
    return path


def write_ivecs(path: Path, ids: AnyArray) -> Path:
    """Write ids (nq, k) as .ivecs."""
    path.write_bytes(b"".join(struct.pack(f"<{1 + len(row)}i", len(row), *row) for row in ids))
    return path


def write_hdf5(
    path: Path, arrays: Mapping[str, AnyArray], distance: str = "", userblock: int = 0
) -> Path:
    """Write arrays as ann-benchmarks does, each in one piece."""
    with h5py.File(path, "w", userblock_size=userblock) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        if distance:
            file.attrs["distance"] = distance
    return path


def list_array(array: AnyArray, kind: str = "list", value_type: str | None = None) -> pa.Array:
    """Rows of `array` as Arrow lists: kind is list, large_list or fixed_size_list."""
    value = _ARROW_TYPES[value_type or array.dtype.name]
    flat = pa.array(np.ascontiguousarray(array).ravel()).cast(value)
    n, dim = array.shape
    if kind == "fixed_size_list":
        return pa.FixedSizeListArray.from_arrays(flat, dim)
    offsets = np.arange(n + 1) * dim
    if kind == "large_list":
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)


def write_parquet(
    path: Path,
    embeddings: AnyArray | pa.Array,
    kind: str = "list",
    *,
    row_group_size: int | None = None,
    column: str = "emb",
    text_bytes: int = 20,
) -> Path:
    """Write an embedding column between an id, a title and a text column.

    Parameters
    ----------
    embeddings : (n, dim) array, or an Arrow array as it is
    row_group_size : int, optional
        Rows of a row group; all by default.
    text_bytes : int
        Length of each text, in bytes; they do not compress.
    """
    lists = embeddings if isinstance(embeddings, pa.Array) else list_array(embeddings, kind)
    n = len(lists)
    rng = np.random.default_rng(1)
    texts = [rng.bytes((text_bytes + 1) // 2).hex()[:text_bytes] for _ in range(n)]
    table = pa.table(
        {
            "id": pa.array(range(n), pa.int64()),
            "title": pa.array([f"title {i}" for i in range(n)], pa.string()),
            column: lists,
            "text": pa.array(texts, pa.string()),
        }
    )
    pq.write_table(table, path, row_group_size=row_group_size or max(1, n))
    return path


def read_rows(
    source: VectorSource, start: int = 0, stop: int | None = None, dims: int | None = None
) -> F32:
    """Read rows ``start:stop`` of `source`; every element must be written, and none outside."""
    n = (source.n_rows if stop is None else stop) - start
    guarded = np.full((n + 2, dims or source.dim), UNWRITTEN, np.float32)
    source.read_into(start, guarded[1:-1])
    return _checked(guarded)


def take_rows(source: VectorSource, rows: Sequence[int] | I64, dims: int | None = None) -> F32:
    """Take ascending `rows` of `source`; every element must be written, and none outside."""
    guarded = np.full((len(rows) + 2, dims or source.dim), UNWRITTEN, np.float32)
    source.take_into(np.asarray(rows, dtype=np.int64), guarded[1:-1])
    return _checked(guarded)


def _checked(guarded: F32) -> F32:
    inside = guarded[1:-1]
    if np.any(guarded[[0, -1]] != UNWRITTEN):
        raise AssertionError("the read wrote outside its buffer")
    if np.any(inside == UNWRITTEN):
        raise AssertionError("the read left part of its buffer unwritten")
    return inside


def n_open_files() -> int:
    """File descriptors that this process has open."""
    return len(os.listdir("/proc/self/fd"))
