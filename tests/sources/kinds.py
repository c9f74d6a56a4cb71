"""Every kind of source, made in a directory, with the rows that it must deliver."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haag_vq.sources import (
    ArraySource,
    ConcatSource,
    PrefixSource,
    RangeSource,
    SyntheticSource,
    TakeSource,
    VectorSource,
    WithoutSource,
    open_source,
)
from haag_vq.sources.codec import Codec, save_codec
from haag_vq.sources.fileio import FileStamp
from haag_vq.sources.npy import open_npy
from haag_vq.sources.protocol import F32, I64
from haag_vq.sources.quantized import CODEC_NAME, CODES_NAME
from tests.support.codecs import product_codec, scalar_codec
from tests.support.counting import CountingSource
from tests.support.files import (
    vectors,
    write_bigann,
    write_hdf5,
    write_npy,
    write_parquet,
    write_texmex,
)

N, DIM = 45, 6


@dataclass(frozen=True, slots=True)
class Made:
    """A source and what is known of it."""

    source: VectorSource
    expected: F32
    """(n_rows, dim) float32: what reading all of it must give."""
    dtype: np.dtype[Any]
    """Element type as stored."""
    stored: I64
    """(n_rows,) int64: where each row lies in the files."""
    reopen: Callable[[], VectorSource]
    """Open the same content again."""

    @property
    def n(self) -> int:
        return len(self.expected)

    def some_ranges(self) -> list[tuple[int, int]]:
        """Ranges that start and stop at, before and after likely edges."""
        marks = sorted({m for m in (0, 1, 6, 7, 8, self.n // 2, self.n - 1, self.n) if m <= self.n})
        return [(a, b) for a in marks for b in marks if a <= b]


Make = Callable[[Path], Made]


def _made(reopen: Callable[[], VectorSource], array: Any, stored: I64 | None = None) -> Made:
    with np.errstate(over="ignore"):
        expected = np.ascontiguousarray(array.astype(np.float32))
    rows = np.arange(len(array)) if stored is None else stored
    return Made(reopen(), expected, array.dtype, rows, reopen)


def _npy(dtype: str, version: tuple[int, int], path: Path) -> Made:
    array = vectors(N, DIM, dtype)
    write_npy(path / "x.npy", array, version)
    return _made(lambda: open_source(path / "x.npy"), array)


def _bigann(suffix: str, dtype: str, path: Path) -> Made:
    array = vectors(N, DIM, dtype)
    write_bigann(path / f"x{suffix}", array)
    return _made(lambda: open_source(path / f"x{suffix}"), array)


def _texmex(suffix: str, dtype: str, path: Path) -> Made:
    array = vectors(N, DIM, dtype)
    write_texmex(path / f"x{suffix}", array)
    return _made(lambda: open_source(path / f"x{suffix}"), array)


def _hdf5(dtype: str, userblock: int, path: Path) -> Made:
    array = vectors(N, DIM, dtype)
    others = {"neighbors": np.zeros((3, 2), np.int32), "test": vectors(3, DIM, "float64", 1)}
    write_hdf5(path / "x.hdf5", others | {"train": array}, "euclidean", userblock)
    return _made(lambda: open_source(path / "x.hdf5"), array)


def _quantized(codec: Codec, path: Path) -> Made:
    codes = np.random.default_rng(5).integers(0, 256, (N, codec.code_bytes), np.uint8)
    array = np.empty((N, codec.dim), np.float32)
    for row in range(N):  # one by one: the other end of what the tests ask
        codec.decode(codes[row : row + 1], array[row : row + 1])
    np.save(path / CODES_NAME, codes)
    save_codec(path / CODEC_NAME, codec, {})
    return _made(lambda: open_source(path), array)


def _parquet(kind: str, dtype: str, group: int | None, path: Path) -> Made:
    # Some rows more than a row group of 1,000 has.
    array = vectors(1_040 if group == 1_000 else N, DIM, dtype)
    write_parquet(path / "x.parquet", array, kind, row_group_size=group)
    return _made(lambda: open_source(path / "x.parquet"), array)


def _array(dtype: str, order: str, path: Path) -> Made:
    array = vectors(N, DIM, dtype)
    if order == "F":
        array = np.asfortranarray(array)
    elif order == "strided":
        array = np.repeat(array, 2, axis=1)[:, ::2]
    return _made(lambda: ArraySource(array), array)


def _synthetic(path: Path) -> Made:
    whole = SyntheticSource(600, DIM, seed=3)
    array = np.empty((600, DIM), np.float32)
    for row in range(600):  # one by one: the other end of what the tests ask
        whole.read_into(row, array[row : row + 1])
    return _made(lambda: SyntheticSource(600, DIM, seed=3), array)


def _shards(path: Path) -> tuple[ConcatSource, F32]:
    """Three shards of different formats and row groups, and an empty one among them."""
    npy, parquet, empty, fbin = (path / n for n in ("a.npy", "b.parquet", "c.npy", "d.fbin"))
    parts = [vectors(10, DIM, "float16", 1), vectors(20, DIM, "float64", 2), vectors(15, DIM)]
    if not npy.exists():
        write_npy(npy, parts[0])
        write_parquet(parquet, parts[1], row_group_size=7)
        write_npy(empty, np.empty((0, DIM), np.float32))
        write_bigann(fbin, parts[2])
    # Not by open_source, which refuses a set without rows, as the empty shard alone is.
    opened = [
        open_source(npy),
        open_source(parquet),
        open_npy(FileStamp.of(empty)),
        open_source(fbin),
    ]
    source = ConcatSource(opened)
    return source, np.concatenate([p.astype(np.float32) for p in parts])


def _concat(path: Path) -> Made:
    _, array = _shards(path)
    made = _made(lambda: _shards(path)[0], array)
    return Made(made.source, made.expected, np.dtype(np.float64), made.stored, made.reopen)


def _over_shards(wrap: Callable[[VectorSource], VectorSource], rows: I64, path: Path) -> Made:
    _, array = _shards(path)
    return Made(
        wrap(_shards(path)[0]),
        array[rows],
        np.dtype(np.float64),
        rows,
        lambda: wrap(_shards(path)[0]),
    )


_UNORDERED = np.array([44, 3, 3, 12, 9, 10, 11, 29, 30, 31, 0, 44, 17, 16, 15, 3], np.int64)
_ORDERED = np.sort(_UNORDERED)
_REMOVED = np.array([0, 1, 9, 10, 16, 28, 44], np.int64)
_KEPT = np.setdiff1d(np.arange(N), _REMOVED)


def _prefix(dims: int, renormalize: bool, path: Path) -> Made:
    _, array = _shards(path)
    wide = array[:, :dims].astype(np.float64)
    if renormalize:
        wide /= np.sqrt(np.square(wide).sum(axis=1, keepdims=True))

    def wrap() -> VectorSource:
        return PrefixSource(_shards(path)[0], dims, renormalize)

    expected = np.ascontiguousarray(wide.astype(np.float32))
    return Made(wrap(), expected, np.dtype(np.float64), np.arange(N), wrap)


def _counting(path: Path) -> Made:
    return _over_shards(lambda s: CountingSource(s, path / "log"), np.arange(N), path)


def _partial(function: Callable[..., Made], *args: object) -> Make:
    return functools.partial(function, *args)


KINDS: dict[str, Make] = {
    f"npy-{dtype}": _partial(_npy, dtype, (1, 0))
    for dtype in ("float32", "float64", "float16", "int8", "uint8", ">f4", ">f8", ">f2")
}
KINDS |= {
    "npy-version-2": _partial(_npy, "float32", (2, 0)),
    "npy-version-3": _partial(_npy, "float16", (3, 0)),
    "fbin": _partial(_bigann, ".fbin", "float32"),
    "f16bin": _partial(_bigann, ".f16bin", "float16"),
    "u8bin": _partial(_bigann, ".u8bin", "uint8"),
    "i8bin": _partial(_bigann, ".i8bin", "int8"),
    "fvecs": _partial(_texmex, ".fvecs", "float32"),
    "bvecs": _partial(_texmex, ".bvecs", "uint8"),
    "hdf5-float32": _partial(_hdf5, "float32", 0),
    "hdf5->f8": _partial(_hdf5, ">f8", 0),
    "hdf5-userblock": _partial(_hdf5, "float16", 512),
}
KINDS |= {
    "quantized-PQ": _partial(_quantized, product_codec(3, 2)),
    "quantized-SQ8": _partial(_quantized, scalar_codec(DIM, 8)),
    "quantized-SQ4": _partial(_quantized, scalar_codec(DIM + 1, 4)),
}
KINDS |= {
    f"parquet-{kind}-{dtype}-{group or 'all'}": _partial(_parquet, kind, dtype, group)
    for kind in ("list", "large_list", "fixed_size_list")
    for dtype in ("float64", "float32", "float16")
    for group in (1, 7, 1_000, None)
    # Row groups are dealt with before values are: the longest file needs one type of them.
    if group != 1_000 or dtype == "float32"
}
KINDS |= {
    f"parquet-list-{dtype}-7": _partial(_parquet, "list", dtype, 7) for dtype in ("int8", "uint8")
}
KINDS |= {
    f"array-{dtype}-{order}": _partial(_array, dtype, order)
    for dtype, order in (
        *((dtype, "C") for dtype in ("float32", "float64", "float16", "int8", "uint8", ">f4")),
        *((dtype, order) for dtype in ("float32", "float16") for order in ("F", "strided")),
    )
}
KINDS |= {
    "synthetic": _synthetic,
    "concat": _concat,
    "range": _partial(_over_shards, lambda s: RangeSource(s, 5, 37), np.arange(5, 37)),
    "take-ordered": _partial(_over_shards, lambda s: TakeSource(s, _ORDERED), _ORDERED),
    "take-unordered": _partial(_over_shards, lambda s: TakeSource(s, _UNORDERED), _UNORDERED),
    "without": _partial(_over_shards, lambda s: WithoutSource(s, _REMOVED), _KEPT),
    "prefix": _partial(_prefix, 4, False),
    "prefix-renormalized": _partial(_prefix, 4, True),
    "counting": _counting,
}


def pickled(source: VectorSource) -> tuple[VectorSource, int]:
    """Send `source` through a pickle; return what arrives and the size of the pickle in bytes."""
    data = pickle.dumps(source)
    return pickle.loads(data), len(data)
