"""`haag-vq fetch`: the files of the rows asked for, by one process or many, through kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal

from haag_vq import connect, open_dataset
from haag_vq.hub import resolve
from tests.hub.conftest import Run
from tests.hub.repos import DBPEDIA_100K, MSMARCO, write_dbpedia, write_msmarco
from tests.hub.server import Hub

FETCH = ("-m", "haag_vq.cli", "fetch")


def assert_none_twice(hub: Hub) -> None:
    """No byte of a whole piece was asked for by two requests."""
    counts = Counter((r.path, r.range) for r in hub.file_requests())
    assert {request: n for request, n in counts.items() if n > 1} == {}


@pytest.mark.parametrize(("limit", "n_files"), [("45", 1), ("46", 2), ("1000", 3)])
def test_limit_counts_rows(live: Hub, program: Run, limit: str, n_files: int) -> None:
    write_dbpedia(live.root, DBPEDIA_100K)
    done = program(*FETCH, DBPEDIA_100K, "--limit", limit, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["files"], facts["fetched_files"]) == (n_files, n_files)
    assert f"{facts['bytes']:,}/{facts['bytes']:,} bytes, {n_files}/{n_files} files" in done.stderr
    done = program(*FETCH, DBPEDIA_100K, "--limit", limit)
    assert f"{n_files} files" in done.stdout
    assert "0 files, 0 B, now" in done.stdout


def test_a_catalogued_set_comes_with_its_queries(
    live: Hub, program: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages, queries = write_msmarco(live.root)
    done = program(*FETCH, "msmarco", "--limit", "60", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["files"] == 3
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    dataset = open_dataset("msmarco", limit=60)
    assert_array_equal(dataset.compute(), passages[:60])
    assert_array_equal(dataset.queries, queries)


def test_workers_bring_a_file_each(
    live: Hub, program: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_msmarco(live.root)
    where = f"hf://datasets/{MSMARCO}/passages_npy/*.npy"
    done = program(*FETCH, where, "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fetched_files"] == 4
    assert_none_twice(live)
    # The same under a client that is connected already.
    live.log.clear()
    # Not by the threads of this process.
    monkeypatch.delattr(sys.modules["haag_vq.hub.stage"], "_stage_in_threads")
    with connect("local", jobs=2):
        dataset = open_dataset(where, streaming=False, cache_dir=tmp_path / "other")
        assert dataset.n_rows == 201
    assert len(live.file_requests("npy")) == 4
    assert_none_twice(live)


def test_a_kill_loses_no_whole_piece(live: Hub, program: Run, tmp_path: Path) -> None:
    write_msmarco(live.root, n_shards=2, shard_rows=4_000)
    live.latency_seconds = 0.02
    words = f"""
import sys
from haag_vq.hub import resolve, stage
sys.modules["haag_vq.hub.stage"].PIECE_BYTES = 4_000
stage(resolve({MSMARCO!r}, patterns=("passages_npy/*",)), {str(tmp_path / "cache")!r})
"""
    killed = subprocess.Popen([sys.executable, "-c", words], env=dict(os.environ))
    end = time.monotonic() + 60
    while len(live.file_requests("npy")) < 12 and time.monotonic() < end:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(30) == -signal.SIGKILL
    time.sleep(0.1)
    n_before = len(live.file_requests("npy"))
    assert 12 <= n_before < 90
    live.latency_seconds = 0.0
    done = program("-c", words)
    assert done.returncode == 0, done.stderr
    found = resolve(MSMARCO, patterns=("passages_npy/*",))
    asked = sum(r.n_bytes for r in live.file_requests("npy"))
    # The two files' last requests were under way when it was killed.
    total = sum(file.size_bytes for file in found.files)
    assert total <= asked <= total + 2 * 4_000


def test_offline_it_says_what_it_cannot(live: Hub, program: Run) -> None:
    write_dbpedia(live.root, DBPEDIA_100K)
    done = program(*FETCH, DBPEDIA_100K, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "HF_HUB_OFFLINE forbids" in done.stderr
    done = program(*FETCH, DBPEDIA_100K, "--jobs", "2")
    assert done.returncode == 2
    assert "--jobs and --set go with --cluster" in done.stderr
    assert "Traceback" not in done.stderr
