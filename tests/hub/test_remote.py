"""Sources over the Hub: the generating rows, by the bytes that hold them and no others."""

from __future__ import annotations

import gc
import hashlib
import pickle
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq import inflight
from haag_vq.errors import DataError, SourceNotFoundError
from haag_vq.hub import transport
from haag_vq.hub.files import HubFile
from haag_vq.hub.remote import RemoteFile
from haag_vq.sources import ahead, fixed, ranged
from haag_vq.sources.open import open_stored
from tests.hub.repos import DBPEDIA_1536, DIM, MSMARCO, write_dbpedia, write_msmarco
from tests.hub.server import PIECE_BYTES, Fault, Hub
from tests.support.files import read_rows, take_rows, write_bigann, write_hdf5, write_texmex

COLUMN = "text-embedding-3-large-1536-embedding"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "hub").running() as hub:
        yield hub


def remote(hub: Hub, repo: str, pattern: str) -> list[RemoteFile]:
    found = []
    for path in sorted((hub.root / repo).glob(pattern)):
        name = str(path.relative_to(hub.root / repo))
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        size = path.stat().st_size
        found.append(RemoteFile(HubFile(hub.url, repo, hub.commit(repo), name, size, sha, sha)))
    return found


def spans(hub: Hub) -> list[tuple[str, int, int]]:
    """Ranges asked for, as (path, first, end)."""
    found = []
    for request in hub.file_requests():
        first, last = (request.range or "").removeprefix("bytes=").split("-")
        found.append((request.path, int(first), int(last) + 1))
    return found


def test_npy_shards_cost_a_header_each_and_their_rows(hub: Hub) -> None:
    passages, _ = write_msmarco(hub.root)
    source = open_stored(remote(hub, MSMARCO, "passages_npy/*"), "the shards")
    assert [request.n_bytes <= 4096 for request in hub.file_requests()] == [True] * 4
    hub.log.clear()
    assert source.n_rows == len(passages)
    assert source.fingerprint
    assert hub.log == []
    assert_array_equal(read_rows(source.narrow(50, 60)), passages[50:60])
    assert [end - first for _, first, end in spans(hub)] == [3 * DIM * 2, 7 * DIM * 2]
    copy = pickle.loads(pickle.dumps(source))
    rows = np.array([0, 1, 77, len(passages) - 1])
    assert_array_equal(take_rows(copy, rows), passages[rows])


@pytest.mark.parametrize("faulty", [False, True])
def test_parquet_of_any_row_groups_is_its_rows(hub: Hub, faulty: bool) -> None:
    vectors = write_dbpedia(hub.root, DBPEDIA_1536, n_shards=4)
    if faulty:
        hub.faults += [Fault("cut", "train-00001", 2), Fault("reset", "train-00002", 1)]
    source = open_stored(remote(hub, DBPEDIA_1536, "data/*"), "the shards", COLUMN)
    assert_array_equal(read_rows(source), vectors)
    assert_array_equal(read_rows(source.narrow(33, 101)), vectors[33:101])
    rows = np.array([3, 44, 45, 46, 120])
    assert_array_equal(take_rows(source, rows), vectors[rows])


def test_of_parquet_only_the_chunks_of_the_column_are_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranged, "GAP_BYTES", 0)
    monkeypatch.setattr(ranged, "WINDOW_BYTES", 500)
    vectors = write_dbpedia(hub.root, DBPEDIA_1536, n_shards=2)
    file = remote(hub, DBPEDIA_1536, "data/*")[1]
    source = open_stored([file], "the shard", COLUMN)
    hub.log.clear()
    assert_array_equal(read_rows(source.narrow(8, 20)), vectors[53:65])
    metadata = pq.read_metadata(hub.root / DBPEDIA_1536 / file.file.name)
    chunks = [metadata.row_group(g).column(2) for g in (1, 2)]
    asked = spans(hub)
    assert sum(end - first for _, first, end in asked) == sum(
        chunk.total_compressed_size for chunk in chunks
    )
    assert all(end - first <= 500 for _, first, end in asked)
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("name", ["base.fbin", "base.fvecs", "base.hdf5"])
def test_other_files_of_rows_are_read_from_the_hub_too(hub: Hub, name: str) -> None:
    array = np.arange(60, dtype=np.float32).reshape(12, 5)
    path = hub.root / "some/set" / name
    path.parent.mkdir(parents=True)
    if name == "base.hdf5":
        write_hdf5(path, {"train": array})
    else:
        (write_bigann if name == "base.fbin" else write_texmex)(path, array)
    source = open_stored(remote(hub, "some/set", "*"), "the set")
    assert_array_equal(read_rows(source), array)
    assert_array_equal(take_rows(source, [0, 3, 4, 11]), array[[0, 3, 4, 11]])


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_rows_come_in_large_requests_several_at_once(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(fixed, "WINDOW_BYTES", 64 << 10)
    array = np.random.default_rng(3).integers(0, 200, (9_000, 40)).astype(dtype)
    file = save_npy(hub, array)
    source = open_stored([file], "the set")
    hub.log.clear()
    hub.latency_seconds = 0.1
    assert_array_equal(read_rows(source.narrow(7, 8_990)), array[7:8_990])
    asked = sorted((first, end) for _, first, end in spans(hub))
    row = array[0].nbytes
    assert (asked[0][0] - 128, asked[-1][1] - 128) == (7 * row, 8_990 * row)
    assert [a for a, _ in asked[1:]] == [b for _, b in asked[:-1]]
    assert {b - a for a, b in asked[:-1]} == {(64 << 10) // row * row}
    assert 1 < hub.most_at_once <= ahead.N_PIECES


def test_scattered_rows_are_a_request_each_several_at_once(hub: Hub) -> None:
    array = np.arange(400, dtype=np.float16).reshape(100, 4)
    source = open_stored([save_npy(hub, array)], "the set")
    hub.log.clear()
    hub.latency_seconds = 0.05
    rows = np.array([1, 2, 9, 11, 12, 40, 60, 80, 81, 82, 84, 99])
    assert_array_equal(take_rows(source, rows), array[rows])
    runs = [(1, 3), (9, 10), (11, 13), (40, 41), (60, 61), (80, 83), (84, 85), (99, 100)]
    asked = sorted(((a - 128) // 8, (b - 128) // 8) for _, a, b in spans(hub))
    assert asked == runs
    assert 1 < hub.most_at_once <= ahead.N_JOBS


def test_the_process_bound_holds_over_reads(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_gate", transport._Gate())
    monkeypatch.setenv(inflight.VARIABLE, "2")
    monkeypatch.setattr(fixed, "WINDOW_BYTES", 16 << 10)
    array = np.arange(80_000, dtype=np.float32).reshape(-1, 8)
    source = open_stored([save_npy(hub, array)], "the set")
    hub.latency_seconds = 0.02
    assert_array_equal(read_rows(source), array)
    assert hub.most_at_once == 2


def test_what_reads_ahead_stays_within_its_scratch(hub: Hub) -> None:
    array = np.ones((60_000, 512), np.float16)
    source = open_stored([save_npy(hub, array)], "the set")
    read_rows(source.narrow(0, 1))  # what is imported is no scratch
    out = np.empty(array.shape, np.float32)
    gc.collect()
    tracemalloc.start()
    try:
        source.read_into(0, out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The server is in this process: a piece for each request that it answers.
    assert peak <= source.scratch_bytes + ahead.N_PIECES * 2 * PIECE_BYTES
    assert source.scratch_bytes < out.nbytes / 3
    assert_array_equal(out, array)


def test_a_failure_waits_for_what_still_writes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed, "WINDOW_BYTES", 4 << 10)
    array = np.ones((4_096, 8), np.float32)
    source = open_stored([save_npy(hub, array)], "the set")
    hub.latency_seconds = 0.05
    hub.faults.append(Fault("status", "set.npy", 1, 404))
    out = np.zeros_like(array)
    with pytest.raises(SourceNotFoundError, match="HTTP 404"):
        source.read_into(0, out)
    held = out.copy()
    time.sleep(0.3)
    assert_array_equal(out, held)


def test_a_second_opening_asks_for_nothing(hub: Hub) -> None:
    write_dbpedia(hub.root, DBPEDIA_1536)
    write_msmarco(hub.root)
    for repo, pattern, column in (
        (DBPEDIA_1536, "data/*", COLUMN),
        (MSMARCO, "passages_npy/*", None),
    ):
        first = open_stored(remote(hub, repo, pattern), "the shards", column)
        hub.log.clear()
        again = open_stored(remote(hub, repo, pattern), "the shards", column)
        assert again.fingerprint == first.fingerprint
        assert hub.log == []


def test_a_byte_flipped_in_a_page_with_a_checksum_is_seen(hub: Hub) -> None:
    array = np.random.default_rng(4).standard_normal((500, 8)).astype(np.float32)
    path = hub.root / "some/set/base.parquet"
    path.parent.mkdir(parents=True)
    column = pa.FixedSizeListArray.from_arrays(array.ravel(), 8)
    pq.write_table(
        pa.table({"emb": column}),
        path,
        write_page_checksum=True,
        use_dictionary=False,
        compression="none",
    )
    source = open_stored(remote(hub, "some/set", "*"), "the set")
    assert_array_equal(read_rows(source), array)
    hub.faults.append(Fault("flip", "base.parquet", 1))
    with pytest.raises(DataError, match=r"base\.parquet cannot be read as Parquet .*CRC"):
        read_rows(source)


def save_npy(hub: Hub, array: NDArray[Any]) -> RemoteFile:
    path = hub.root / "some/set/set.npy"
    path.parent.mkdir(parents=True)
    np.save(path, array)
    return remote(hub, "some/set", "*")[0]


def test_windows_cut_what_is_long_and_join_what_is_near() -> None:
    size, gap = ranged.WINDOW_BYTES, ranged.GAP_BYTES
    assert ranged.windows_of([]) == []
    assert ranged.windows_of([(4, 9), (9 + gap, 20 + gap)]) == [(4, 20 + gap)]
    assert ranged.windows_of([(4, 9), (10 + gap, 20 + gap)]) == [(4, 9), (10 + gap, 20 + gap)]
    assert ranged.windows_of([(5, 5 + 2 * size + 1)]) == [
        (5, 5 + size),
        (5 + size, 5 + 2 * size),
        (5 + 2 * size, 6 + 2 * size),
    ]
    assert ranged.windows_of([(0, 10), (10, 10 + size)]) == [(0, size), (size, size + 10)]
