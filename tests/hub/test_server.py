"""The loopback Hub is one for the real clients: they find, list and read what was written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.repos import MSMARCO, write_msmarco
from tests.hub.server import Hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    write_msmarco(tmp_path / "hub")
    with Hub(tmp_path / "hub").running() as hub:
        yield hub


def _run(hub: Hub, home: Path, program: str) -> subprocess.CompletedProcess[str]:
    # Clients read their settings when they are imported.
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **settings, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_datasets_reads_configs_and_splits(hub: Hub, tmp_path: Path) -> None:
    program = f"""
from datasets import load_dataset, load_dataset_builder
builder = load_dataset_builder({MSMARCO!r}, "passages")
print({{split: len(files) for split, files in builder.config.data_files.items()}})
print(load_dataset({MSMARCO!r}, "queries", split="test").num_rows)
"""
    done = _run(hub, tmp_path / "home", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["{'train': 4}", "17"]


def test_a_download_is_the_file(hub: Hub, tmp_path: Path) -> None:
    name = "passages_npy/msmarco_v2.1_doc_segmented_03.npy"
    program = f"""
from huggingface_hub import hf_hub_download
print(hf_hub_download({MSMARCO!r}, {name!r}, repo_type="dataset"))
"""
    done = _run(hub, tmp_path / "home", program)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == (hub.root / MSMARCO / name).read_bytes()


@pytest.mark.parametrize(
    ("wall", "error"), [("gated", "GatedRepo"), ("private", "401 Unauthorized")]
)
def test_a_wall_is_one_for_clients(hub: Hub, tmp_path: Path, wall: str, error: str) -> None:
    getattr(hub, wall).add(MSMARCO)
    program = f"""
from huggingface_hub import hf_hub_download
hf_hub_download({MSMARCO!r}, "README.md", repo_type="dataset")
"""
    done = _run(hub, tmp_path / "home", program)
    assert done.returncode == 1
    assert error in done.stderr
