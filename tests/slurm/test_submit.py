"""Commands in jobs of their own, and arrays of them: the same bits as here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from haag_vq import ground_truth, load_ground_truth, open_dataset
from tests.commands.searching import done, tell
from tests.slurm.conftest import Slurm
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

N, DIM, NQ, K = 3_000, 16, 9, 7


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words of a search whose files are in the current directory."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.standard_normal((N, DIM), dtype=np.float32))
    np.save(tmp_path / "q.npy", rng.standard_normal((NQ, DIM), dtype=np.float32))
    monkeypatch.chdir(tmp_path)
    return ["ground-truth", "x.npy", "--queries", "q.npy", "--k", str(K), "--checkpoint", "kept"]


def check(path: Path) -> None:
    here = ground_truth(open_dataset("x.npy"), np.load("q.npy"), k=K)
    there = load_ground_truth(path)
    assert there.ids.tobytes() == here.ids.tobytes()
    assert there.distances.tobytes() == here.distances.tobytes()


def ended(slurm: Slurm, number: str) -> bool:
    return not any(name.split("_")[0] == number for name in slurm.jobs())


def test_a_command_runs_in_a_job_of_its_own(slurm: Slurm, job: list[str], tmp_path: Path) -> None:
    settings = ("--profile", slurm.profile)
    words = [*job, "--out", "t.npz", "--cluster", slurm.profile, "--jobs", "2"]
    told = tell("submit", "--json", *settings, "--", *words).facts
    wait_until("the job ends", lambda: ended(slurm, told["job"]))
    log = (tmp_path / told["log"]).read_text()
    assert (tmp_path / "t.npz").exists(), log
    # Private, as everything that a job writes.
    assert (tmp_path / "t.npz").stat().st_mode & 0o077 == 0
    check(tmp_path / "t.npz")


def test_an_array_searches_parts_that_merge(slurm: Slurm, job: list[str], tmp_path: Path) -> None:
    told = tell("submit", "--json", "--profile", slurm.profile, "--array", "3", "--", *job).facts
    wait_until("the array ends", lambda: ended(slurm, told["job"]))
    logs = "".join(path.read_text() for path in tmp_path.glob("haag-vq-*.log"))
    assert len(list((tmp_path / "kept").glob("rows-*.part"))) == 3, logs
    done("merge", "kept", "--out", "t.npz")
    check(tmp_path / "t.npz")
