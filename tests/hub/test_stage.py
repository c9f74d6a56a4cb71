"""Staging: each byte once, verified, resumed, in the layout that the Hub's client shares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from haag_vq.errors import DataError, ReadError, WriteError
from haag_vq.hub import Repository, resolve, stage, transport
from tests.hub.repos import MSMARCO, write_msmarco
from tests.hub.server import Fault, Hub

NAME = "passages_npy/msmarco_v2.1_doc_segmented_00.npy"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(transport, "FIRST_WAIT_SECONDS", 0.01)
    write_msmarco(tmp_path / "hub")
    with Hub(tmp_path / "hub").running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def found_on(hub: Hub, pattern: str = "passages_npy/*") -> Repository:
    found = resolve(MSMARCO, patterns=(pattern,))
    hub.log.clear()
    return found


def assert_whole(hub: Hub, found: Repository, paths: list[str]) -> None:
    for file, path in zip(found.files, paths, strict=True):
        assert Path(path).read_bytes() == (hub.root / MSMARCO / file.name).read_bytes()


@pytest.mark.parametrize("pattern", ["passages_npy/*", "README.md"])
def test_each_byte_comes_once(hub: Hub, tmp_path: Path, pattern: str) -> None:
    found = found_on(hub, pattern)
    seen: list[int] = []
    paths = stage(found, tmp_path / "cache", lambda n_bytes, _: seen.append(n_bytes))
    assert_whole(hub, found, paths)
    total = sum(file.size_bytes for file in found.files)
    # The card comes with whatever is staged.
    brought = {*found.files, *found.matching("README.md")}
    assert sum(r.n_bytes for r in hub.file_requests()) == sum(file.size_bytes for file in brought)
    assert seen == sorted(seen)
    assert seen[-1] == total
    hub.log.clear()
    assert stage(found, tmp_path / "cache") == paths
    assert hub.log == []
    assert list((tmp_path / "cache").rglob("*.incomplete")) == []


def test_an_interrupted_file_goes_on_where_it_stopped(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAAG_VQ_HUB_DEADLINE", "1")
    found = found_on(hub, NAME)
    monkeypatch.setattr(sys.modules["haag_vq.hub.stage"], "PIECE_BYTES", 1_000)
    # Requests that go well, then none does.
    real, served = hub.fault_for, iter(range(100))

    def after_one(path: str) -> Fault | None:
        return Fault("reset", path) if "/resolve/" in path and next(served) > 0 else None

    monkeypatch.setattr(hub, "fault_for", after_one)
    with pytest.raises(ReadError, match="failed for"):
        stage(found, tmp_path / "cache")
    monkeypatch.setattr(hub, "fault_for", real)
    hub.log.clear()
    assert_whole(hub, found, stage(found, tmp_path / "cache"))
    assert sum(r.n_bytes for r in hub.file_requests(NAME)) == found.files[0].size_bytes - 1_000


@pytest.mark.parametrize(("times", "good"), [(1, True), (2, False)])
def test_a_flipped_byte_is_never_kept(hub: Hub, tmp_path: Path, times: int, good: bool) -> None:
    found = found_on(hub, NAME)
    hub.faults.append(Fault("flip", NAME, times))
    if good:
        assert_whole(hub, found, stage(found, tmp_path / "cache"))
        return
    with pytest.raises(DataError, match="came with digest .*, the Hub lists .*, 2 times"):
        stage(found, tmp_path / "cache")
    assert [p for p in (tmp_path / "cache").rglob("blobs/*") if p.is_file()] == []


def test_a_partial_file_that_was_damaged_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    found = found_on(hub, NAME)
    blobs = tmp_path / "cache" / f"datasets--{MSMARCO.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{found.files[0].blob}.incomplete").write_bytes(b"x" * 100)
    assert_whole(hub, found, stage(found, tmp_path / "cache"))


def test_too_little_space_is_told_before(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = found_on(hub)
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Full)
    with pytest.raises(WriteError, match="bytes more in .*, which has 10 free"):
        stage(found, tmp_path / "cache")
    assert hub.log == []


class _Full:
    free = 10


def test_the_client_and_we_use_each_others_files(hub: Hub, tmp_path: Path) -> None:
    program = f"""
from huggingface_hub import snapshot_download
print(snapshot_download({MSMARCO!r}, repo_type="dataset", allow_patterns="passages_npy/*_0[01]*"))
"""
    settings = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def client() -> None:
        words = [sys.executable, "-c", program]
        subprocess.run(words, env={**os.environ, **settings}, check=True, timeout=100)

    client()
    found = found_on(hub)
    paths = stage(found, tmp_path / "cache")
    assert_whole(hub, found, paths)
    asked = {request.path.rsplit("_", 1)[1] for request in hub.file_requests("npy")}
    assert asked == {"02.npy", "03.npy"}
    program = program.replace("[01]", "[23]")
    hub.log.clear()
    client()
    assert hub.file_requests() == []


def test_processes_bring_a_file_once(hub: Hub, tmp_path: Path) -> None:
    hub.latency_seconds = 0.1
    program = f"""
from haag_vq.hub import resolve, stage
stage(resolve({MSMARCO!r}, patterns=("passages_npy/*",)), {str(tmp_path / "cache")!r})
"""
    started = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(100) for process in started] == [0, 0, 0]
    ranges = [(request.path, request.range) for request in hub.file_requests()]
    assert len(ranges) == len(set(ranges)) == 5  # the shards, and the card
