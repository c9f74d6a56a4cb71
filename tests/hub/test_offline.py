"""What is staged opens without the Hub, whole or not at all; streamed and staged are one set."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal

from haag_vq import ground_truth, load_dbpedia_openai_1536_100k, open_dataset
from haag_vq.errors import ReadError, SourceNotFoundError, UsageError
from haag_vq.hub import moved_since, resolve
from tests.hub.conftest import Run
from tests.hub.repos import DBPEDIA_100K, MSMARCO, write_dbpedia, write_msmarco
from tests.hub.server import Fault, Hub


@pytest.mark.parametrize(
    "where", ["dbpedia-100k", DBPEDIA_100K, f"hf://datasets/{DBPEDIA_100K}/data/*.parquet"]
)
def test_every_form_opens_what_was_staged(
    live: Hub, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    vectors = write_dbpedia(live.root, DBPEDIA_100K)
    open_dataset(where, streaming=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    live.log.clear()
    for streaming in (True, False):
        assert_array_equal(open_dataset(where, streaming=streaming).compute(), vectors)
    assert live.log == []


def test_a_config_opens_offline_by_its_card(live: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    _, queries = write_msmarco(live.root)
    open_dataset(MSMARCO, "emb", streaming=False, config="queries", split="test")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_array_equal(
        open_dataset(MSMARCO, "emb", config="queries", split="test").compute(), queries
    )
    with pytest.raises(SourceNotFoundError, match=r"4 of 4 files .* --config passages"):
        open_dataset(MSMARCO, config="passages")
    with pytest.raises(UsageError, match="there are passages, queries"):
        open_dataset(MSMARCO)


@pytest.mark.parametrize("lost", ["link", "blob", "cut"])
def test_a_file_that_is_not_whole_is_told(
    live: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    vectors = write_dbpedia(live.root, DBPEDIA_100K)
    open_dataset(DBPEDIA_100K, streaming=False)
    (link,) = (tmp_path / "home").rglob("train-00001-*.parquet")
    if lost == "link":
        link.unlink()
    elif lost == "blob":
        link.resolve().unlink()
    else:
        link.resolve().write_bytes(link.read_bytes()[:-1])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    remedy = f"1 of 3 files .*/train-00001.*haag-vq fetch {DBPEDIA_100K}"
    with pytest.raises(SourceNotFoundError, match=remedy):
        open_dataset(DBPEDIA_100K)
    with pytest.raises(SourceNotFoundError, match="haag-vq fetch dbpedia-100k"):
        load_dbpedia_openai_1536_100k()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    live.log.clear()
    assert_array_equal(open_dataset(DBPEDIA_100K, streaming=False).compute(), vectors)
    assert {r.path[-22:-8] for r in live.file_requests("parquet")} <= {"00001-of-00003"}


def test_a_prefix_stages_and_needs_its_own_files_only(
    live: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = write_dbpedia(live.root, DBPEDIA_100K)
    load_dbpedia_openai_1536_100k(limit=46)
    staged = {path.name[:11] for path in (tmp_path / "home").rglob("train-*.parquet")}
    assert staged == {"train-00000", "train-00001"}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    dataset = load_dbpedia_openai_1536_100k(limit=90)
    assert_array_equal(dataset.compute(), vectors[:90])
    with pytest.raises(SourceNotFoundError):
        load_dbpedia_openai_1536_100k(limit=91)


def test_a_hub_that_is_away_is_not_missed(live: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = write_dbpedia(live.root, DBPEDIA_100K)
    first = open_dataset(DBPEDIA_100K, streaming=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.warns(UserWarning, match="cannot be reached .* commit " + first.pin.sha):  # type: ignore[union-attr]
        again = open_dataset(DBPEDIA_100K)
    assert_array_equal(again.compute(), vectors)
    with pytest.raises(ReadError, match="cannot be reached"):
        open_dataset(MSMARCO, config="passages")


@pytest.mark.filterwarnings("ignore:the copy of msmarco")
def test_downloads_of_other_tools_open_offline(
    live: Hub, program: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages, queries = write_msmarco(live.root)
    streamed = open_dataset(f"hf://datasets/{MSMARCO}/passages_npy/*.npy").fingerprint
    words = f"""
from huggingface_hub import snapshot_download
snapshot_download({MSMARCO!r}, repo_type="dataset")
"""
    done = program("-c", words)
    assert done.returncode == 0, done.stderr
    live.log.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for where in ("msmarco", f"hf://datasets/{MSMARCO}/passages_npy/*.npy"):
        dataset = open_dataset(where)
        assert_array_equal(dataset.compute(), passages)
        assert dataset.fingerprint == streamed
    assert_array_equal(
        open_dataset(MSMARCO, "emb", config="queries", split="test").compute(), queries
    )
    assert live.log == []


def test_datasets_reads_what_we_staged(live: Hub, program: Run) -> None:
    vectors = write_dbpedia(live.root, DBPEDIA_100K)
    open_dataset(DBPEDIA_100K, streaming=False)
    live.log.clear()
    words = f"""
from huggingface_hub import snapshot_download
print(snapshot_download({DBPEDIA_100K!r}, repo_type="dataset"))
from datasets import load_dataset
print(load_dataset({DBPEDIA_100K!r}, split="train").num_rows)
"""
    done = program("-c", words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(len(vectors))
    assert [r for r in live.file_requests("parquet") if r.method == "GET" and r.n_bytes > 100] == []


def test_streamed_and_staged_share_a_checkpoint(live: Hub, tmp_path: Path) -> None:
    write_dbpedia(live.root, DBPEDIA_100K)
    streamed, staged = (
        open_dataset("dbpedia-100k", queries="first:5", limit=100, streaming=streaming)
        for streaming in (True, False)
    )
    assert streamed.source.files != staged.source.files
    assert streamed.fingerprint == staged.fingerprint
    one = ground_truth(streamed, k=3, checkpoint=tmp_path / "run")
    other = ground_truth(staged, k=3, checkpoint=tmp_path / "run")
    assert other.run is not None
    assert other.run.n_reused_rows == 100
    assert one.base_fingerprint == other.base_fingerprint
    assert one.commit == other.commit == f"{DBPEDIA_100K}@{live.commit(DBPEDIA_100K)}"


@pytest.mark.parametrize("n_rows", [100, 120])
def test_a_revision_that_moved_is_told_with_both_commits(
    live: Hub, tmp_path: Path, n_rows: int
) -> None:
    write_dbpedia(live.root, DBPEDIA_100K)
    opened = open_dataset(DBPEDIA_100K, queries="first:5", limit=100)
    ground_truth(opened, k=3, checkpoint=tmp_path / "run")
    old, new = live.commit(DBPEDIA_100K), "e" * 40
    assert opened.pin is not None
    assert moved_since(opened.pin) == ""
    live.commits[DBPEDIA_100K] = new
    note = f"has moved to commit {new} since it was opened; this run kept commit {old}"
    assert note in moved_since(opened.pin)
    # The same rows in a commit of another name are the same rows.
    same = open_dataset(DBPEDIA_100K, queries="first:5", limit=100)
    ground_truth(same, k=3, checkpoint=tmp_path / "run")
    shard = next((live.root / DBPEDIA_100K / "data").glob("train-00001*"))
    shard.write_bytes(shard.read_bytes().replace(b"an entity", b"an Entity"))
    queries = same[:5].compute()
    moved = open_dataset(DBPEDIA_100K, limit=n_rows)
    with pytest.raises(UsageError, match=f"commit .*@{old}, now .*@{new}: .*--revision {old}"):
        ground_truth(moved, queries, k=3, checkpoint=tmp_path / "run")


def test_a_pinned_commit_that_is_staged_asks_for_no_file(live: Hub) -> None:
    write_dbpedia(live.root, DBPEDIA_100K)
    sha = live.commit(DBPEDIA_100K)
    open_dataset(DBPEDIA_100K, streaming=False, revision=sha)
    live.log.clear()
    assert open_dataset(DBPEDIA_100K, revision=sha).n_rows == 120
    assert live.file_requests() == []


@pytest.mark.parametrize("name", ["../../x.npy", "a//x.npy"])
def test_a_name_that_leaves_the_repository_is_refused(
    live: Hub, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_dbpedia(live.root, DBPEDIA_100K)
    from tests.hub import server

    real = server._Handler._item
    monkeypatch.setattr(server._Handler, "_item", lambda *a: {**real(*a), "path": name})
    with pytest.raises(ValueError, match="no path or digest of a repository"):
        resolve(DBPEDIA_100K, patterns=("*",))


def test_no_warning_where_all_is_well(live: Hub) -> None:
    write_dbpedia(live.root, DBPEDIA_100K)
    live.faults.append(Fault("status", "train-00000", 1, 503))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_dataset(DBPEDIA_100K, streaming=False)
