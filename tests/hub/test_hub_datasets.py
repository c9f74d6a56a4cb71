"""The loaders, `open_dataset` and the command line on the loopback Hub, as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq import (
    VectorDataset,
    load_cohere_msmarco_passages,
    load_cohere_msmarco_queries,
    load_dbpedia_openai_1536,
    load_dbpedia_openai_1536_100k,
    load_dbpedia_openai_3072,
    open_dataset,
)
from haag_vq.errors import DataError, SourceNotFoundError
from tests.hub.repos import (
    DBPEDIA_100K,
    DBPEDIA_1536,
    DBPEDIA_3072,
    MSMARCO,
    write_dbpedia,
    write_msmarco,
    write_sparse_msmarco,
)
from tests.hub.server import Hub
from tests.support.files import write_hdf5

Loader = Callable[..., VectorDataset]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with Hub(tmp_path / "hub").running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def files_below(path: Path) -> list[Path]:
    return [p for p in path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("load", "repo"),
    [
        (load_dbpedia_openai_1536, DBPEDIA_1536),
        (load_dbpedia_openai_1536_100k, DBPEDIA_100K),
        (load_dbpedia_openai_3072, DBPEDIA_3072),
    ],
)
def test_dbpedia(hub: Hub, tmp_path: Path, load: Loader, repo: str, streaming: bool) -> None:
    vectors = write_dbpedia(hub.root, repo)
    cache = tmp_path / "cache"
    dataset = load(limit=100, cache_dir=cache, streaming=streaming, num_queries=5)
    assert_array_equal(dataset.compute(), vectors[:100])
    assert_array_equal(dataset.vectors[40:60].compute(), vectors[40:60])
    assert_array_equal(dataset.queries, vectors[:5])
    assert bool(files_below(cache)) is not streaming


@pytest.mark.parametrize("streaming", [True, False])
def test_msmarco(hub: Hub, tmp_path: Path, streaming: bool) -> None:
    passages, queries = write_msmarco(hub.root)
    cache = tmp_path / "cache"
    dataset = load_cohere_msmarco_passages(limit=None, cache_dir=cache, streaming=streaming)
    assert_array_equal(dataset.compute(), passages)
    found = load_cohere_msmarco_queries(cache_dir=cache, streaming=streaming)
    assert_array_equal(found, queries)
    assert hub.file_requests("passages_parquet") == []
    assert bool(files_below(cache)) is not streaming


@pytest.mark.parametrize("streaming", [True, False])
def test_files_of_ann_benchmarks(hub: Hub, tmp_path: Path, streaming: bool) -> None:
    rows = [np.arange(i, i + 80, dtype=np.float32).reshape(20, 4) for i in (0, 100, 200)]
    (hub.root / "some/set").mkdir(parents=True)
    for i, array in enumerate(rows):
        arrays = {"train": np.repeat(array, 9, axis=0), "test": array}
        write_hdf5(hub.root / f"some/set/x-{i}.hdf5", arrays, "angular")
    words = {"streaming": streaming, "cache_dir": tmp_path / "cache"}
    one = open_dataset("hf://datasets/some/set/x-1.hdf5", **words)  # type: ignore[arg-type]
    assert (one.n_rows, one.metric) == (180, "cosine")
    assert_array_equal(one.queries, rows[1])
    # So many rows of the array that is meant, whatever the others have.
    some = open_dataset("hf://datasets/some/set/*.hdf5", "test", limit=50, **words)  # type: ignore[arg-type]
    assert_array_equal(some.compute(), np.concatenate(rows)[:50])


def test_a_local_copy_is_used_and_nothing_is_asked(hub: Hub) -> None:
    vectors = write_dbpedia(hub.root, DBPEDIA_100K)
    dataset = load_dbpedia_openai_1536_100k(cache_dir=hub.root, streaming=True)
    assert_array_equal(dataset.compute(), vectors)
    assert hub.log == []


def test_a_staged_set_is_there_offline(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = write_dbpedia(hub.root, DBPEDIA_100K)
    load_dbpedia_openai_1536_100k(cache_dir=tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.log.clear()
    dataset = load_dbpedia_openai_1536_100k(cache_dir=tmp_path / "cache")
    assert_array_equal(dataset.compute(), vectors)
    with pytest.raises(SourceNotFoundError, match="hf download Qdrant/dbpedia-entities"):
        load_dbpedia_openai_1536_100k(cache_dir=tmp_path / "cold")
    assert hub.log == []


def test_a_pattern_names_files_and_a_revision_pins_them(hub: Hub) -> None:
    passages, _ = write_msmarco(hub.root)
    dataset = open_dataset(f"hf://datasets/{MSMARCO}@main/passages_npy/*_0[12].npy")
    # A branch that moves takes nothing from a dataset that is open.
    held, hub.commits[MSMARCO] = hub.commit(MSMARCO), "f" * 40
    with pytest.raises(SourceNotFoundError, match=r"HTTP 404"):
        dataset.compute()
    hub.commits[MSMARCO] = held
    assert_array_equal(dataset.compute(), passages[53:159])


def test_several_candidate_columns_are_named(hub: Hub) -> None:
    write_dbpedia(hub.root, DBPEDIA_3072)
    with pytest.raises(DataError, match=r"'text-embedding-3-large-3072-embedding', 'text-emb.*ada"):
        open_dataset(f"hf://datasets/{DBPEDIA_3072}/data/*.parquet")


@pytest.mark.parametrize(
    ("where", "revision", "message"),
    [
        ("some/nothing", None, "no dataset some/nothing on .*, or it is private"),
        (f"hf://datasets/{MSMARCO}/x/*.npy", None, r"no file that matches x/\*\.npy"),
        (f"hf://datasets/{MSMARCO}/*.npy", "v9", "has no revision 'v9'"),
    ],
)
def test_what_is_not_there_is_told(
    hub: Hub, where: str, revision: str | None, message: str
) -> None:
    write_msmarco(hub.root)
    with pytest.raises(SourceNotFoundError, match=message):
        open_dataset(where, revision=revision)


def test_ten_rows_of_113_million_cost_headers_and_one_range(hub: Hub) -> None:
    # The rows that the set has in all, over its 60 shards.
    write_sparse_msmarco(hub.root, [1_892_012] * 59 + [113_520_750 - 59 * 1_892_012])
    dataset = open_dataset(f"hf://datasets/{MSMARCO}/passages_npy/*.npy")
    assert dataset.n_rows == 113_520_750
    headers = hub.file_requests()
    assert len(headers) == 60
    assert sum(request.n_bytes for request in headers) <= 60 * 4096
    hub.log.clear()
    rows: NDArray[np.float32] = dataset[10:20].compute()
    assert_array_equal(rows, np.zeros((10, 1024), np.float32))
    assert [request.n_bytes for request in hub.log] == [10 * 1024 * 2]


def command(hub: Hub, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # `datasets` reads its settings when it is imported: a process of its own.
    return subprocess.run(
        [sys.executable, "-m", "haag_vq.cli", *words],
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_command_line_takes_config_and_split(hub: Hub, tmp_path: Path) -> None:
    _, queries = write_msmarco(hub.root)
    base = ("info", MSMARCO, "--json")
    done = command(hub, tmp_path / "home", *base, "--config", "queries", "--split", "test")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_rows"] == len(queries)
    for words, choice in (
        ((), "passages"),
        (("--config", "queries", "--split", "dev"), "there are test"),
        (("--config", "querys"), "passages"),
    ):
        done = command(hub, tmp_path / "home", *base, *words)
        assert done.returncode == 2, done.stderr
        assert choice in done.stderr
        assert "Traceback" not in done.stderr


def test_fetch_then_everything_without_a_file_request(hub: Hub, tmp_path: Path) -> None:
    write_dbpedia(hub.root, DBPEDIA_100K)
    words = (DBPEDIA_100K, "--cache-dir", str(tmp_path / "cache"), "--json")
    done = command(hub, tmp_path / "home", "fetch", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"] == 3
    hub.log.clear()
    done = command(hub, tmp_path / "home", "info", *words, "--no-streaming")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_rows"] == 120
    assert [r for r in hub.file_requests() if r.path.endswith(".parquet")] == []
