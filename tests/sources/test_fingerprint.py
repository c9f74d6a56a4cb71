"""A fingerprint changes when what would be read changes, and not otherwise."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from haag_vq.sources import (
    ArraySource,
    ConcatSource,
    PrefixSource,
    SyntheticSource,
    TakeSource,
    VectorSource,
    WithoutSource,
    open_source,
)
from tests.support.files import list_array, vectors, write_bigann, write_npy, write_parquet


def write(path: Path, n: int = 24, dim: int = 6) -> None:
    array = vectors(n, dim)
    if path.suffix == ".npy":
        write_npy(path, array)
    elif path.suffix == ".fbin":
        write_bigann(path, array)
    else:
        write_parquet(path, array, row_group_size=7)


def set_time(path: Path, mtime_ns: int) -> None:
    os.utime(path, ns=(mtime_ns, mtime_ns))


@pytest.fixture(params=["x.npy", "x.fbin", "x.parquet"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name: str = request.param
    write(tmp_path / name)
    set_time(tmp_path / name, 10**18)
    return tmp_path / name


def test_is_the_same_on_opening_again(path: Path) -> None:
    assert open_source(path).fingerprint == open_source(path).fingerprint


def test_does_not_depend_on_where_the_file_lies(path: Path, tmp_path: Path) -> None:
    before = open_source(path).fingerprint
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / path.name)
    assert open_source(moved).fingerprint == before


def test_changes_with_the_modification_time(path: Path) -> None:
    before = open_source(path).fingerprint
    set_time(path, 10**18 + 1)
    assert open_source(path).fingerprint != before


def test_changes_with_the_size(path: Path) -> None:
    before = open_source(path).fingerprint
    write(path, n=25)
    set_time(path, 10**18)
    assert open_source(path).fingerprint != before


@pytest.mark.parametrize("suffix", [".npy", ".fbin"])
def test_changes_with_the_header_alone(suffix: str, tmp_path: Path) -> None:
    # 6 × 24 where 24 × 6 was: the same bytes and size, modified at the same time.
    path = tmp_path / f"x{suffix}"
    prints = []
    for n, dim in ((24, 6), (6, 24)):
        array = np.zeros((n, dim), np.float32)
        if suffix == ".npy":
            write_npy(path, array)
        else:
            path.write_bytes(struct.pack("<II", n, dim) + array.tobytes())
        set_time(path, 10**18)
        prints.append((path.stat().st_size, open_source(path).fingerprint))
    assert prints[0][0] == prints[1][0]
    assert prints[0][1] != prints[1][1]


def test_depends_on_the_column_that_is_read(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    array = vectors(9, 3)
    table = pa.table({"a": list_array(array), "b": list_array(array[::-1])})
    pq.write_table(table, tmp_path / "x.parquet")
    a, b = (open_source(tmp_path / "x.parquet", column) for column in ("a", "b"))
    assert a.fingerprint != b.fingerprint


def test_tells_selections_apart() -> None:
    array = ArraySource(vectors(20, 4))
    other = ArraySource(vectors(20, 4, seed=1))
    made: list[VectorSource] = [
        array,
        other,
        array.narrow(0, 5),
        ConcatSource([array, other]),
        ConcatSource([other, array]),
        TakeSource(array, np.array([1, 2])),
        TakeSource(array, np.array([2, 1])),
        TakeSource(other, np.array([2, 1])),
        WithoutSource(array, np.array([1, 2])),
        WithoutSource(array, np.array([1, 3])),
        PrefixSource(array, 2),
        PrefixSource(array, 3),
        PrefixSource(array, 2, renormalize=True),
        SyntheticSource(20, 4, seed=0),
        SyntheticSource(20, 4, seed=1),
        SyntheticSource(20, 5, seed=0),
        SyntheticSource(21, 4, seed=0),
    ]
    prints = [source.fingerprint for source in made]
    assert len(set(prints)) == len(prints)
    again = [array.fingerprint, TakeSource(array, np.array([2, 1])).fingerprint]
    assert again == [prints[0], prints[6]]
