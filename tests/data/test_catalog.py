"""The sets that have a name: copies laid out as the repositories are found, whole and in order."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import haag_vq
from haag_vq import (
    VectorDataset,
    load_cohere_msmarco_passages,
    load_cohere_msmarco_queries,
    load_dbpedia_openai_1536,
    load_dbpedia_openai_1536_100k,
    load_dbpedia_openai_3072,
    open_dataset,
)
from haag_vq.data import CATALOG
from haag_vq.data.catalog import CatalogEntry, find_local_copy, look_up
from haag_vq.errors import DataError, SourceNotFoundError, UsageError
from tests.support.files import list_array, vectors, write_npy, write_parquet

DIM = 8
Loader = Callable[..., VectorDataset]

LOADERS: dict[str, Loader] = {
    "dbpedia-100k": load_dbpedia_openai_1536_100k,
    "dbpedia-1536": load_dbpedia_openai_1536,
    "dbpedia-3072": load_dbpedia_openai_3072,
    "msmarco": load_cohere_msmarco_passages,
}


def shard_names(entry: CatalogEntry, n: int | None = None) -> list[str]:
    """Names of the shards in the repository, as published."""
    count = n or entry.n_files
    if entry.name == "msmarco":
        return [f"passages_parquet/msmarco_v2.1_doc_segmented_{i:02}.parquet" for i in range(count)]
    if entry.name == "msmarco-queries":
        return ["queries_parquet/queries.parquet"]
    return [f"data/train-{i:05}-of-{entry.n_files:05}.parquet" for i in range(count)]


def write_copy(
    home: Path, name: str, rows_per_shard: int = 3, n_files: int | None = None, seed: int = 0
) -> NDArray[np.float32]:
    """Write a tiny copy in the repository's layout; returns its rows as float32."""
    entry = CATALOG[name]
    parts = []
    for i, shard in enumerate(shard_names(entry, n_files)):
        path = home / shard
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = "float32" if name.startswith("msmarco") else "float64"
        parts.append(vectors(rows_per_shard, DIM, stored, seed=1000 * seed + i))
        write_parquet(path, parts[-1], column=entry.column)
    return np.concatenate(parts).astype(np.float32)


def write_npy_shards(home: Path, n_files: int = 60) -> NDArray[np.float32]:
    """Write float16 .npy shards of MS MARCO; returns their rows as float32."""
    (home / "passages_npy").mkdir(parents=True, exist_ok=True)
    parts = [vectors(3, DIM, "float16", seed=500 + i) for i in range(n_files)]
    for i, part in enumerate(parts):
        write_npy(home / f"passages_npy/msmarco_v2.1_doc_segmented_{i:02}.npy", part)
    return np.concatenate(parts).astype(np.float32)


@pytest.fixture(autouse=True)
def no_copies_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty-hf-home"))


# --- the loaders ---------------------------------------------------------------------------


def test_signatures_are_the_originals() -> None:
    path = "str | os.PathLike[str] | None"
    passages = f"cache_dir: {path} = None, streaming: bool = True, num_queries: int = 100"
    others = passages.replace("True", "False")
    expected = {
        "load_dbpedia_openai_1536": f"(limit: int | None = 100_000, {others}) -> VectorDataset",
        "load_dbpedia_openai_1536_100k": f"(limit: int | None = None, {others}) -> VectorDataset",
        "load_dbpedia_openai_3072": f"(limit: int | None = 100_000, {others}) -> VectorDataset",
        "load_cohere_msmarco_passages": (
            f"(limit: int | None = 100_000, {passages}) -> VectorDataset"
        ),
        "load_cohere_msmarco_queries": (
            f"(limit: int | None = None, cache_dir: {path} = None, streaming: bool = False)"
            " -> NDArray[np.float32]"
        ),
    }
    for name, text in expected.items():
        found = str(inspect.signature(getattr(haag_vq, name))).replace("'", "")
        assert found == text.replace("100_000", "100000"), name


@pytest.mark.parametrize("name", list(LOADERS))
def test_a_loader_stacks_the_shards_in_order(name: str, tmp_path: Path) -> None:
    rows = write_copy(tmp_path, name)
    for streaming in (True, False):
        found = LOADERS[name](cache_dir=tmp_path, streaming=streaming)
        assert isinstance(found, VectorDataset)
        assert found.shape == rows.shape
        assert found.metric == "cosine"
        assert found.name == name
        np.testing.assert_array_equal(found.compute(), rows)
        np.testing.assert_array_equal(found.queries, rows[:100])
        np.testing.assert_array_equal(found.query_rows, np.arange(min(100, len(rows))))


@pytest.mark.parametrize("name", list(LOADERS))
def test_limits_and_numbers_of_queries(name: str, tmp_path: Path) -> None:
    rows = write_copy(tmp_path, name)
    load = LOADERS[name]
    found = load(limit=7, cache_dir=str(tmp_path), num_queries=3)
    np.testing.assert_array_equal(found.compute(), rows[:7])
    np.testing.assert_array_equal(found.queries, rows[:3])
    # The default of 100 queries must not forbid a smaller limit.
    small = load(limit=5, cache_dir=tmp_path)
    np.testing.assert_array_equal(small.queries, rows[:5])
    everything = load(limit=None, cache_dir=tmp_path, num_queries=1)
    assert everything.n_rows == len(rows)


def test_the_default_limit_is_the_originals(tmp_path: Path) -> None:
    for name, n_rows in (("dbpedia-100k", 100_002), ("dbpedia-1536", 100_000)):
        entry = CATALOG[name]
        write_copy(tmp_path / name, name, rows_per_shard=0)
        # 100,002 rows, of which the 100K set gives all.
        lists = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(200_004, np.float32)), 2)
        table = pa.table({entry.column: lists})
        pq.write_table(table, tmp_path / name / shard_names(entry)[0])
        assert LOADERS[name](cache_dir=tmp_path / name).n_rows == n_rows


def test_no_queries_of_a_loader(tmp_path: Path) -> None:
    write_copy(tmp_path, "dbpedia-100k")
    assert load_dbpedia_openai_1536_100k(cache_dir=tmp_path, num_queries=0).query_source is None
    with pytest.raises(UsageError, match="first:-5"):
        load_dbpedia_openai_1536_100k(cache_dir=tmp_path, num_queries=-5)


def test_queries_of_msmarco(tmp_path: Path) -> None:
    rows = write_copy(tmp_path, "msmarco-queries", 9)
    for streaming in (True, False):
        found = load_cohere_msmarco_queries(cache_dir=tmp_path, streaming=streaming)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, rows)
    np.testing.assert_array_equal(load_cohere_msmarco_queries(4, tmp_path), rows[:4])


def test_msmarco_takes_the_npy_shards_where_they_are(tmp_path: Path) -> None:
    write_copy(tmp_path, "msmarco")
    halves = write_npy_shards(tmp_path)
    found = load_cohere_msmarco_passages(cache_dir=tmp_path)
    assert found.source.dtype == np.float16
    np.testing.assert_array_equal(found.compute(), halves)


def test_msmarco_by_name_has_its_own_queries(tmp_path: Path) -> None:
    rows = write_npy_shards(tmp_path)
    asked = write_copy(tmp_path, "msmarco-queries", 9)
    for where, cache in (("msmarco", tmp_path), (tmp_path, None)):
        found = open_dataset(where, cache_dir=cache)
        np.testing.assert_array_equal(found.compute(), rows)
        np.testing.assert_array_equal(found.queries, asked)
        assert found.query_rows is None
    # The loader's queries stay the first passages, as in the original.
    np.testing.assert_array_equal(
        load_cohere_msmarco_passages(cache_dir=tmp_path, num_queries=2).queries, rows[:2]
    )


def test_the_column_of_a_sets_own_queries_is_known(tmp_path: Path) -> None:
    write_npy_shards(tmp_path)
    asked = vectors(4, DIM, seed=7)
    (tmp_path / "queries_parquet").mkdir()
    lists = {"emb": list_array(asked), "embedding": list_array(vectors(4, DIM, seed=8))}
    pq.write_table(pa.table(lists), tmp_path / "queries_parquet/queries.parquet")
    found = open_dataset("msmarco", cache_dir=tmp_path)
    np.testing.assert_array_equal(found.queries, asked)
    np.testing.assert_array_equal(load_cohere_msmarco_queries(cache_dir=tmp_path), asked)


def test_a_directory_of_that_shape_need_not_be_that_set(tmp_path: Path) -> None:
    write_npy_shards(tmp_path, n_files=4)
    found = open_dataset(tmp_path)
    assert found.n_rows == 12
    assert found.metric is None, "nothing says that these are Cohere's"
    assert found.query_source is None


def test_dims_shorten_the_queries_of_a_set_too(tmp_path: Path) -> None:
    rows = write_npy_shards(tmp_path)
    asked = write_copy(tmp_path, "msmarco-queries", 9)
    found = open_dataset("msmarco", cache_dir=tmp_path, dims=3, limit=10)
    np.testing.assert_array_equal(found.compute(), rows[:10, :3])
    np.testing.assert_array_equal(found.queries, asked[:, :3])


# --- where copies are looked for -----------------------------------------------------------

SHA = "0123456789abcdef0123456789abcdef01234567"
ORGANISATION, NAME = CATALOG["dbpedia-100k"].repository.split("/")
CACHED = f"datasets--{ORGANISATION}--{NAME}"


@pytest.mark.parametrize(
    "below",
    [
        ".",
        f"{ORGANISATION}/{NAME}",
        NAME,
        f"{CACHED}/snapshots/{SHA}",
        f"hub/{CACHED}/snapshots/{SHA}",
    ],
)
def test_layouts_of_copies(below: str, tmp_path: Path) -> None:
    rows = write_copy(tmp_path / below, "dbpedia-100k")
    found = load_dbpedia_openai_1536_100k(cache_dir=tmp_path)
    np.testing.assert_array_equal(found.compute(), rows)


def test_the_snapshot_that_main_names_is_taken(tmp_path: Path) -> None:
    home = tmp_path / CACHED
    rows = {}
    for age, sha in enumerate(("newest", "named", "oldest")):
        rows[sha] = write_copy(home / "snapshots" / sha, "dbpedia-100k", seed=age)
        os.utime(home / "snapshots" / sha, (10**9 - age, 10**9 - age))
    load = load_dbpedia_openai_1536_100k
    np.testing.assert_array_equal(load(cache_dir=tmp_path).compute(), rows["newest"])
    (home / "refs").mkdir()
    (home / "refs/main").write_text("named\n")
    np.testing.assert_array_equal(load(cache_dir=tmp_path).compute(), rows["named"])
    # A name whose snapshot was deleted does not hide the others.
    (home / "refs/main").write_text("deleted")
    np.testing.assert_array_equal(load(cache_dir=tmp_path).compute(), rows["newest"])


def test_a_snapshot_of_links_is_followed(tmp_path: Path) -> None:
    # The Hub's client keeps files as blobs, and links to them in snapshots.
    rows = write_copy(tmp_path / "blobs", "dbpedia-100k")
    data = tmp_path / CACHED / "snapshots" / SHA / "data"
    data.mkdir(parents=True)
    for blob in (tmp_path / "blobs/data").iterdir():
        (data / blob.name).symlink_to(os.path.relpath(blob, data))
    np.testing.assert_array_equal(load_dbpedia_openai_1536_100k(cache_dir=tmp_path).compute(), rows)


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME"])
def test_the_hub_clients_cache_is_looked_at_by_default(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "cache" / ("hub" if variable == "HF_HOME" else "")
    rows = write_copy(hub / CACHED / "snapshots" / SHA, "dbpedia-100k")
    monkeypatch.setenv(variable, str(tmp_path / "cache"))
    np.testing.assert_array_equal(load_dbpedia_openai_1536_100k().compute(), rows)


def test_the_hub_clients_own_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = write_copy(
        tmp_path / ".cache/huggingface/hub" / CACHED / "snapshots" / SHA, "dbpedia-100k"
    )
    np.testing.assert_array_equal(load_dbpedia_openai_1536_100k().compute(), rows)
    monkeypatch.setenv("HF_HOME", "~/.cache/huggingface")
    np.testing.assert_array_equal(load_dbpedia_openai_1536_100k().compute(), rows)


def test_a_name_wins_over_nothing_but_a_path_of_that_name_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_copy(tmp_path / "cache", "dbpedia-100k")
    monkeypatch.chdir(tmp_path)
    assert open_dataset("dbpedia-100k", cache_dir="cache").metric == "cosine"
    (tmp_path / "dbpedia-100k").mkdir()
    write_npy(tmp_path / "dbpedia-100k/own.npy", vectors(4, 3))
    assert open_dataset("dbpedia-100k", cache_dir="cache").shape == (4, 3)


@pytest.mark.parametrize("name", list(CATALOG))
def test_no_copy_says_where_it_was_looked_for_and_how_to_get_one(name: str, tmp_path: Path) -> None:
    entry = CATALOG[name]
    with pytest.raises(SourceNotFoundError) as caught:
        open_dataset(name, cache_dir=tmp_path)
    message = str(caught.value)
    organisation, repository = entry.repository.split("/")
    for part in (
        str(tmp_path / organisation / repository),
        f"hf download {entry.repository} --repo-type dataset --include '{entry.patterns[0]}'",
        f"--local-dir {tmp_path / repository}",
    ):
        assert part in message
    assert "\n" not in message


def test_the_command_fetches_to_where_it_is_found(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError) as caught:
        load_dbpedia_openai_1536_100k(cache_dir=tmp_path)
    fetched_to = Path(str(caught.value).rsplit("--local-dir ", 1)[1])
    rows = write_copy(fetched_to, "dbpedia-100k")
    assert load_dbpedia_openai_1536_100k(cache_dir=tmp_path).n_rows == len(rows)


# --- whole and in order --------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_shard_is_refused(missing: int, tmp_path: Path) -> None:
    write_copy(tmp_path, "dbpedia-100k")
    (tmp_path / shard_names(CATALOG["dbpedia-100k"])[missing]).unlink()
    with pytest.raises(
        DataError, match=f"lacks 1 of 3 shards, the first is number {missing}.*Fetch"
    ):
        load_dbpedia_openai_1536_100k(cache_dir=tmp_path)


def test_a_missing_last_shard_is_refused_where_the_names_say_how_many(tmp_path: Path) -> None:
    write_copy(tmp_path, "dbpedia-100k", n_files=1)
    with pytest.raises(DataError, match="lacks 2 of 3 shards, the first is number 1"):
        load_dbpedia_openai_1536_100k(cache_dir=tmp_path)


def test_a_hole_among_the_npy_shards_is_refused(tmp_path: Path) -> None:
    write_npy_shards(tmp_path)
    for i in (17, 30):
        (tmp_path / f"passages_npy/msmarco_v2.1_doc_segmented_{i}.npy").unlink()
    with pytest.raises(DataError, match="lacks 2 of 60 shards, the first is number 17"):
        load_cohere_msmarco_passages(cache_dir=tmp_path)


def test_a_copy_that_ends_early_is_noted(tmp_path: Path) -> None:
    write_npy_shards(tmp_path, n_files=5)
    with pytest.warns(UserWarning, match="has 5 of 60 shards"):
        found = load_cohere_msmarco_passages(cache_dir=tmp_path)
    assert found.n_rows == 15


def test_a_whole_copy_is_not_noted(tmp_path: Path) -> None:
    write_npy_shards(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_local_copy(CATALOG["msmarco"], tmp_path)


def test_shards_with_a_hash_in_their_names(tmp_path: Path) -> None:
    # As `datasets` wrote them for years; the hash may end in digits.
    rows = write_copy(tmp_path, "dbpedia-100k")
    for i, hash_ in enumerate(("3c7b99d1c7eda36e", "0123456789abcd99", "77")):
        old = tmp_path / f"data/train-{i:05}-of-00003.parquet"
        old.rename(old.with_name(f"{old.stem}-{hash_}.parquet"))
    found = load_dbpedia_openai_1536_100k(cache_dir=tmp_path)
    np.testing.assert_array_equal(found.compute(), rows)
    (tmp_path / "data/train-00001-of-00003-0123456789abcd99.parquet").unlink()
    with pytest.raises(DataError, match="lacks 1 of 3 shards, the first is number 1"):
        load_dbpedia_openai_1536_100k(cache_dir=tmp_path)


def test_a_shard_under_two_names_is_refused(tmp_path: Path) -> None:
    write_copy(tmp_path, "dbpedia-100k")
    shard = tmp_path / "data/train-00001-of-00003.parquet"
    shard.with_name("train-00001-of-00003-77aa.parquet").write_bytes(shard.read_bytes())
    with pytest.raises(DataError, match="shard number 1 more than once"):
        load_dbpedia_openai_1536_100k(cache_dir=tmp_path)


def test_another_column_can_be_chosen(tmp_path: Path) -> None:
    for i in range(3):
        path = tmp_path / f"data/train-{i:05}-of-00003.parquet"
        path.parent.mkdir(exist_ok=True)
        write_parquet(path, vectors(2, 4, seed=i), column="ada-002")
    found = open_dataset("dbpedia-100k", "ada-002", cache_dir=tmp_path)
    assert found.shape == (6, 4)
    with pytest.raises(DataError, match=r"no column 'text-embedding-3-large-1536.*'ada-002'"):
        open_dataset("dbpedia-100k", cache_dir=tmp_path)


def test_names() -> None:
    assert look_up("msmarco").listed_rows == 113_520_750
    with pytest.raises(UsageError, match="no dataset is called 'mnist'.*dbpedia-100k.*msmarco"):
        look_up("mnist")


@pytest.mark.parametrize(
    ("where", "shape"), [("synthetic:10x4", (10, 4)), ("synthetic:300x2:9", (300, 2))]
)
def test_synthetic_sets_by_name(where: str, shape: tuple[int, int]) -> None:
    assert open_dataset(where).shape == shape


def test_a_seed_makes_another_synthetic_set() -> None:
    def rows(where: str) -> Any:
        return open_dataset(where).compute()

    np.testing.assert_array_equal(rows("synthetic:9x4"), rows("synthetic:9x4:0"))
    assert np.any(rows("synthetic:9x4:1") != rows("synthetic:9x4"))


@pytest.mark.parametrize("where", ["synthetic:0x4", "synthetic:10x0"])
def test_empty_synthetic_sets_are_refused(where: str) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        open_dataset(where)
