"""A fingerprint changes when what would be read changes, and not otherwise."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haag_vq.errors import FileChangedError
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
from haag_vq.sources.fileio import N_SAMPLES, SAMPLE_BYTES, FileStamp, sample_offsets
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


def test_is_kept_by_a_copy_and_by_a_touch(path: Path, tmp_path: Path) -> None:
    before = open_source(path).fingerprint
    copied = shutil.copy(path, tmp_path / f"copy{path.suffix}")
    set_time(path, 10**18 + 1)
    assert open_source(copied).fingerprint == before
    assert open_source(path).fingerprint == before


def test_changes_with_any_byte_of_a_small_file(tmp_path: Path) -> None:
    original = tmp_path / "x.fbin"
    write_bigann(original, vectors(3, 2))
    prints = {open_source(original).fingerprint}
    content = original.read_bytes()
    for at in range(8, len(content)):
        other = tmp_path / f"{at}.fbin"
        other.write_bytes(flipped(content, at))
        prints.add(open_source(other).fingerprint)
    assert len(prints) == 1 + 3 * 2 * 4


def test_sees_the_sampled_bytes_of_a_large_file_and_no_others(tmp_path: Path) -> None:
    original = tmp_path / "x.u8bin"
    size = 8 + 1000 * 1000
    write_bigann(original, vectors(1000, 1000, "uint8"))
    before = open_source(original).fingerprint
    content = original.read_bytes()
    offsets = sample_offsets(size)
    seen = [at + i for at in offsets for i in (0, SAMPLE_BYTES - 1)][1:]  # byte 0 is the header's
    unseen = [at + SAMPLE_BYTES for at in offsets[:-1]]
    assert offsets[-1] + SAMPLE_BYTES == size
    for at in (*seen, *unseen):
        other = tmp_path / f"{at}.u8bin"
        other.write_bytes(flipped(content, at))
        assert (open_source(other).fingerprint != before) == (at in seen), at
        other.unlink()


def test_changes_with_the_size_where_all_samples_are_alike(tmp_path: Path) -> None:
    prints = set()
    for size in (100_000, 100_001, 1_000_000):
        (tmp_path / f"{size}").write_bytes(bytes(size))
        prints.add(FileStamp.of(tmp_path / f"{size}").fingerprint("any"))
    assert len(prints) == 3


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@given(st.integers(0, 1 << 50) | st.integers(0, 2 * N_SAMPLES * SAMPLE_BYTES))
def test_samples_lie_in_the_file_with_its_first_and_last_bytes(size: int) -> None:
    offsets = sample_offsets(size)
    assert len(offsets) <= N_SAMPLES
    if not size:
        assert offsets == []
        return
    assert offsets[0] == 0
    assert offsets[-1] < size <= offsets[-1] + SAMPLE_BYTES
    steps = np.diff(offsets)
    assert (steps >= SAMPLE_BYTES).all() or size <= N_SAMPLES * SAMPLE_BYTES
    if size <= N_SAMPLES * SAMPLE_BYTES:
        assert (steps == SAMPLE_BYTES).all()


@pytest.fixture
def n_reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many positioned reads there were since it was asked last."""
    preadv, reads = os.preadv, []

    def counted(fd: int, buffers: list[memoryview], offset: int) -> int:
        reads.append(offset)
        return preadv(fd, buffers, offset)

    def since() -> int:
        n = len(reads)
        reads.clear()
        return n

    monkeypatch.setattr(os, "preadv", counted)
    return since


def test_is_read_when_asked_and_once(path: Path, n_reads: Callable[[], int]) -> None:
    source = open_source(path)
    source.narrow(1, 3)
    travelled = pickle.loads(pickle.dumps(source))
    assert n_reads() == 0
    whole = source.fingerprint
    assert n_reads() == len(sample_offsets(path.stat().st_size))
    assert travelled.fingerprint == whole
    assert source.narrow(1, 3).fingerprint != whole
    assert open_source(path).fingerprint == whole
    assert n_reads() == 0


def test_of_a_file_changed_since_it_was_opened_is_refused(path: Path) -> None:
    source = open_source(path)
    set_time(path, 10**18 + 1)
    with pytest.raises(FileChangedError, match=r"changed between planning and reading"):
        _ = source.fingerprint
    path.unlink()
    with pytest.raises(FileChangedError, match="cannot be opened now"):
        _ = source.fingerprint


def test_of_some_rows_stays_when_shards_are_appended_or_the_limit_moves(tmp_path: Path) -> None:
    shards = []
    for i, suffix in enumerate((".npy", ".parquet", ".fbin", ".npy")):
        write(tmp_path / f"{i}{suffix}", n=10 + i)
        shards.append(open_source(tmp_path / f"{i}{suffix}"))
    held_out = np.array([3, 9, 10, 22])

    def bases(n_shards: int) -> list[VectorSource]:
        whole = ConcatSource(shards[:n_shards])
        return [whole, WithoutSource(whole, held_out), PrefixSource(whole, 4)]

    for start, stop in ((0, 5), (0, 23), (8, 12), (10, 21), (22, 23), (0, 29)):
        for small, large in zip(bases(3), bases(4), strict=True):
            expected = small.narrow(start, stop).fingerprint
            assert large.narrow(start, stop).fingerprint == expected
            assert RangeSource(large, 0, 29).narrow(start, stop).fingerprint == expected
            assert RangeSource(large, 0, 30).narrow(start, stop).fingerprint == expected


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
