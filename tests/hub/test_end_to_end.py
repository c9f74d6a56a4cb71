"""Loaders and commands on worker processes: right, closed where they must be, quiet at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from haag_vq import (
    connect,
    ground_truth,
    load_cohere_msmarco_passages,
    load_cohere_msmarco_queries,
    load_dbpedia_openai_1536,
    load_dbpedia_openai_1536_100k,
    load_dbpedia_openai_3072,
    load_dummy_dataset,
    open_dataset,
)
from haag_vq.commands import compare, evaluate
from haag_vq.errors import DataError, SourceNotFoundError, UsageError
from haag_vq.export import export_vectors
from tests.commands.running import run
from tests.groundtruth import oracle
from tests.hub.conftest import Run
from tests.hub.repos import (
    DBPEDIA_100K,
    DBPEDIA_1536,
    DBPEDIA_3072,
    MSMARCO,
    write_dbpedia,
    write_msmarco,
)
from tests.hub.server import Hub

CLI = ("-m", "haag_vq.cli")


def test_the_five_loaders_on_worker_processes(live: Hub, tmp_path: Path) -> None:
    loaders: list[tuple[Any, Any]] = [
        (load, write_dbpedia(live.root, repo))
        for load, repo in (
            (load_dbpedia_openai_1536, DBPEDIA_1536),
            (load_dbpedia_openai_1536_100k, DBPEDIA_100K),
            (load_dbpedia_openai_3072, DBPEDIA_3072),
        )
    ]
    passages, queries = write_msmarco(live.root)
    loaders.append((load_cohere_msmarco_passages, passages))
    with connect("local", jobs=2):
        for streaming in (True, False):
            words = {"cache_dir": tmp_path / "cache", "streaming": streaming}
            for load, vectors in loaders:
                dataset = load(limit=None, num_queries=3, **words)
                assert_array_equal(dataset.vectors.compute(), vectors)
            xq = load_cohere_msmarco_queries(**words)  # type: ignore[arg-type]
            assert_array_equal(xq, queries)
            truth = ground_truth(dataset, xq, k=5, metric="cosine")
            assert_array_equal(truth.ids, oracle.neighbours(passages, queries, 5, "cosine")[1])


@pytest.mark.parametrize(
    ("where", "how"),
    [
        ("msmarco", "--no-streaming"),
        ("msmarco", "--streaming"),
        (f"hf://datasets/{MSMARCO}/passages_npy/*.npy", "--streaming"),
    ],
)
def test_ground_truth_from_the_command_line(
    live: Hub, program: Run, tmp_path: Path, where: str, how: str
) -> None:
    passages, _ = write_msmarco(live.root)
    out = tmp_path / "gt.npz"
    words = ["--queries", "first:6", "--k", "4", "--metric", "l2", "--workers", "2"]
    words += ["--json", "--quiet"]
    done = program(*CLI, "ground-truth", where, how, *words, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["commit"] == f"{MSMARCO}@{live.commit(MSMARCO)}"
    with np.load(out) as found:
        expected = oracle.neighbours(passages, passages[:6], 4, "l2")[1]
        assert_array_equal(found["ids"], expected)


@pytest.mark.parametrize("how", ["--streaming", "--no-streaming"])
def test_the_publishers_truth_is_compared_and_scored_with(
    live: Hub, tmp_path: Path, how: str
) -> None:
    write_msmarco(live.root)
    streaming = how == "--streaming"
    for limit, heads_only in ((None, False), (100, True)):
        dataset = open_dataset("msmarco", limit=limit, streaming=streaming)
        truth = ground_truth(dataset, k=5, metric="cosine")
        truth.save(tmp_path / "gt.npz")
        facts, _ = run(compare, tmp_path / "gt.npz", "published:msmarco", how)
        assert (facts["agree"], facts["heads_only"]) == (True, heads_only)
        np.save(tmp_path / "result.npy", truth.ids)
        words = (tmp_path / "result.npy", "published:msmarco", how, "--base", "msmarco")
        if limit is None:
            facts, _ = run(evaluate, *words, "--k", "5")
            assert facts["recall"]["5"]["mean"] == 1.0
        else:
            with pytest.raises(UsageError, match="whole base"):
                run(evaluate, *words, "--limit", str(limit))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.npy", "x.parquet"])
def test_a_worker_that_reads_from_the_hub_keeps_to_its_projection(
    live: Hub, program: Run, tmp_path: Path, name: str
) -> None:
    path = live.root / "some" / "set" / name
    path.parent.mkdir(parents=True)
    base = load_dummy_dataset(60_000, 512).source
    export_vectors(base, path, "float16" if name.endswith(".npy") else "float32")
    words = ("--queries", "first:50", "--k", "10", "--workers", "1", "--chunk-size", "64MiB")
    out = ("--out", str(tmp_path / "gt.npz"), "--json", "--quiet")
    where = f"hf://datasets/some/set/{name}"
    done = program(*CLI, "ground-truth", where, "--streaming", *words, *out)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(f"{name}: {found['peak_rss_bytes']:,} of {found['projected_bytes']:,} projected")
    assert 0 < found["peak_rss_bytes"] <= found["projected_bytes"]


def test_the_requests_of_a_run_are_divided_over_its_workers(
    live: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages, _ = write_msmarco(live.root)
    monkeypatch.setenv("HAAG_VQ_HUB_REQUESTS", "3")
    rows = np.arange(0, len(passages), 3)
    with connect("local", jobs=3):
        where = f"hf://datasets/{MSMARCO}/passages_npy/*.npy"
        dataset = open_dataset(where, chunk_size=passages.shape[1] * 4 * 20)
        live.latency_seconds, live.most_at_once = 0.03, 0
        found = dataset.take(rows).vectors.compute()
    assert_array_equal(found, passages[rows])
    assert 1 < live.most_at_once <= 3


def test_a_token_opens_and_is_nowhere_else(
    live: Hub, program: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = write_dbpedia(live.root, DBPEDIA_100K)
    live.private.add(DBPEDIA_100K)
    with pytest.raises(SourceNotFoundError, match="or it is private"):
        open_dataset(DBPEDIA_100K)
    monkeypatch.setenv("HF_TOKEN", "hf_a_wrong_token_of_somebody")
    with pytest.raises(SourceNotFoundError, match="no longer valid") as told:
        open_dataset(DBPEDIA_100K)
    assert "hf_a_wrong" not in str(told.value)
    monkeypatch.setenv("HF_TOKEN", live.token)
    dataset = open_dataset(DBPEDIA_100K, queries="first:3")
    assert_array_equal(dataset.vectors.compute(), vectors)
    tasks = cloudpickle.dumps((dataset, dict(dataset.vectors.__dask_graph__())))
    assert live.token.encode() not in tasks
    out = tmp_path / "gt.npz"
    words = (DBPEDIA_100K, "--queries", "first:3", "--k", "2", "--out", str(out), "--debug")
    run = str(tmp_path / "run")
    done = program(*CLI, "ground-truth", *words, "--checkpoint", run, "--no-streaming")
    assert done.returncode == 0, done.stderr
    assert live.token not in done.stdout + done.stderr
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) > 5
    assert [path for path in kept if live.token.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("token", [None, "right"])
def test_a_gate_is_told_with_what_to_do(
    live: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    write_msmarco(live.root)
    live.gated.add(MSMARCO)
    if token:
        monkeypatch.setenv("HF_TOKEN", live.token)
    for where in (MSMARCO, f"hf://datasets/{MSMARCO}/passages_npy/*.npy", "msmarco"):
        for streaming in (True, False):
            with pytest.raises(SourceNotFoundError, match="is gated or private.*Ask for access"):
                open_dataset(where, streaming=streaming)


def test_choices_are_named(live: Hub) -> None:
    write_msmarco(live.root)
    write_dbpedia(live.root, DBPEDIA_3072)
    for words, choices in (
        ({}, "needs a configuration: there are passages, queries"),
        ({"config": "pasages"}, "no configuration 'pasages': there are passages, queries"),
        ({"config": "queries", "split": "dev"}, "no split 'dev': there are test"),
    ):
        with pytest.raises(UsageError, match=choices):
            open_dataset(MSMARCO, **words)  # type: ignore[arg-type]
    # Queries have similarities as lists too: the usual name decides.
    assert open_dataset(MSMARCO, config="queries").n_rows == 17
    for streaming in (True, False):
        with pytest.raises(DataError, match=r"'text-.*-3072-embedding', 'text-.*ada"):
            open_dataset(DBPEDIA_3072, streaming=streaming)
        with pytest.raises(DataError, match="no column 'embd'. It has: '_id'"):
            open_dataset(DBPEDIA_3072, "embd", streaming=streaming)


def test_a_repository_without_data_files_says_how_to_name_them(live: Hub) -> None:
    path = live.root / "some/set/base.npy"
    path.parent.mkdir(parents=True)
    np.save(path, np.ones((3, 4), np.float32))
    with pytest.raises(UsageError, match=r"Name the files: hf://datasets/some/set/PATTERN"):
        open_dataset("some/set")


def test_the_interpreter_ends_cleanly_after_partial_reads(live: Hub, program: Run) -> None:
    write_dbpedia(live.root, DBPEDIA_100K)
    write_msmarco(live.root)
    words = f"""
from haag_vq import open_dataset
for where in ({DBPEDIA_100K!r}, "hf://datasets/{MSMARCO}/passages_npy/*.npy"):
    dataset = open_dataset(where)
    dataset[3:9].compute()
    part = dataset.vectors[:10].compute()
    blocks = iter(dataset.vectors.blocks)
    next(blocks)
print(len(part))
"""
    done = program("-W", "error", "-c", words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")
