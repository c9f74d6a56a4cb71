"""Staging by Slurm's jobs, where the nodes reach the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from haag_vq import cli
from tests.hub.repos import write_msmarco
from tests.hub.server import Hub
from tests.slurm.conftest import Slurm

pytestmark = pytest.mark.slow


def test_jobs_stage_a_set(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    write_msmarco(tmp_path / "hub")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    where = ["fetch", "msmarco", "--cache-dir", str(tmp_path / "cache"), "--json"]
    with Hub(tmp_path / "hub").running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert cli.main([*where, "--cluster", slurm.profile, "--jobs", "2"]) == 0
        first = json.loads(capsys.readouterr().out)
        n_requests = len(hub.file_requests())
        assert cli.main(where) == 0
        again = json.loads(capsys.readouterr().out)
        # What the jobs have staged is whole: nothing is asked for again.
        assert len(hub.file_requests()) == n_requests
    assert first["files"] == again["files"] == first["fetched_files"] > 0
    assert again["fetched_files"] == 0
