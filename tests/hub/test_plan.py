"""Jobs on the Hub are planned from headers by range: nothing is staged, no vector is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from haag_vq.commands import plan as command
from tests.commands.running import run
from tests.commands.searching import done
from tests.hub.repos import MSMARCO, write_sparse_msmarco
from tests.hub.server import Hub

SHARDS = [50_000, 40_000, 30_000]
SHARDS_ON_HUB = f"hf://datasets/{MSMARCO}/passages_npy/*.npy"
STORED = sum(SHARDS) * 1024 * 2


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    write_sparse_msmarco(tmp_path / "hub", SHARDS)
    with Hub(tmp_path / "hub").running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def files_below(path: Path) -> list[Path]:
    return [p for p in path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("staged", [False, True])
def test_a_search_on_the_hub(hub: Hub, staged: bool, tmp_path: Path) -> None:
    words = ["--queries", "first:100", "--no-streaming" if staged else "--streaming"]
    facts, _ = run(command, "ground-truth", SHARDS_ON_HUB, *words)
    assert (facts["n_rows"], facts["stored_bytes"]) == (sum(SHARDS), STORED)
    assert facts["disk"]["stage_bytes"] == (STORED if staged else 0)
    assert facts["time"]["parts"]["network"] > 1
    assert facts["time"]["parts"]["reading"] == 0
    assert all(path.stat().st_size < 1 << 20 for path in files_below(tmp_path / "home"))


def test_fetching(hub: Hub, tmp_path: Path) -> None:
    facts, table = run(command, "fetch", SHARDS_ON_HUB)
    assert STORED < facts["disk"]["stage_bytes"] < STORED + 1000
    assert facts["n_partitions"] == 3
    assert facts["fits"]
    assert "vectors" not in dict(table)
    first, _ = run(command, "fetch", SHARDS_ON_HUB, "--limit", "1")
    assert first["n_partitions"] == 1
    assert files_below(tmp_path / "home") == []


def test_what_is_there_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    assert done("fetch", SHARDS_ON_HUB, "--limit", "1", "--quiet")["fetched_files"] == 1
    rest, _ = run(command, "fetch", SHARDS_ON_HUB)
    assert rest["n_partitions"] == 2
    assert rest["disk"]["stage_bytes"] < STORED - SHARDS[0] * 2048 + 1000
