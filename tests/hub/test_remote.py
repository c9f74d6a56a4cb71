"""Sources over the Hub: the generating rows, by the bytes that hold them and no others."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal

from haag_vq.hub.files import HubFile
from haag_vq.hub.remote import RemoteFile
from haag_vq.sources import ranged
from haag_vq.sources.open import open_source, open_stored
from tests.hub.repos import DBPEDIA_1536, DIM, MSMARCO, write_dbpedia, write_msmarco
from tests.hub.server import Fault, Hub
from tests.support.files import read_rows, take_rows, write_bigann

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


def test_big_ann_files_are_read_from_the_hub_too(hub: Hub) -> None:
    array = np.arange(60, dtype=np.float32).reshape(12, 5)
    path = hub.root / "some/set/base.fbin"
    path.parent.mkdir(parents=True)
    write_bigann(path, array)
    source = open_stored(remote(hub, "some/set", "*"), "the set")
    assert_array_equal(read_rows(source), open_source(path).dtype.type(1) * array)


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
