"""`haag-vq submit` as far as it goes without a Slurm; tests/slurm has the rest."""

from __future__ import annotations

import sys

import pytest

from haag_vq.cluster.profiles import SHIPPED
from tests.commands.searching import tell

ARRAY = ("--array", "4", "--")
JOB = ("ground-truth", "x.npy", "--checkpoint", "kept")


def command(*words: str) -> list[str]:
    found: list[str] = tell("submit", "--json", "--dry-run", *words).facts["command"]
    return found


def test_what_would_be_submitted_is_said() -> None:
    found = command("--", *JOB, "--out", "t.npz")
    assert found[0] == "sbatch"
    assert found[-len(JOB) - 3 :] == [str(SHIPPED / "submit.sbatch"), *JOB, "--out", "t.npz"]
    assert f"--export=ALL,HAAG_VQ_PYTHON={sys.executable}" in found


def test_a_profile_gives_its_account_and_walltime() -> None:
    words = ("--profile", "pace-phoenix", "--set", "account=gts-me", "--set", "walltime=2:00:00")
    found = command(*words, "--", *JOB)
    assert "--account=gts-me" in found
    assert "--time=02:00:00" in found
    # Cores and memory are those of a client, not of the profile's workers.
    assert {"--cpus-per-task=2", "--mem=8192M"} <= set(found)


def test_each_part_of_an_array_has_what_a_worker_has() -> None:
    found = command("--profile", "pace-ice", *ARRAY, *JOB)
    assert {"--array=1-4", "--cpus-per-task=24", "--constraint=localNVMe"} <= set(found)
    assert any(word.startswith("--mem=") for word in found)
    assert str(SHIPPED / "array.sbatch") in found


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "say which command"),
        (("--",), "say which command"),
        (("--", "submit", "--", "doctor"), "say which command"),
        (("--set", "walltime=1:00", "--", *JOB), "--set goes with --profile"),
        ((*ARRAY, "doctor"), "--array is for ground-truth"),
        ((*ARRAY, "ground-truth", "x.npy"), "--array is for ground-truth"),
        ((*ARRAY, *JOB, "--out", "t.npz"), "--out does not go with --array"),
        ((*ARRAY, *JOB, "--part=1/4"), "--part does not go with --array"),
    ],
)
def test_what_cannot_be_submitted(words: tuple[str, ...], told: str) -> None:
    tell("submit", "--dry-run", *words).refused(2, told)


def test_a_profile_that_is_not_there() -> None:
    tell("submit", "--dry-run", "--profile", "nowhere", "--", *JOB).refused(1, "nowhere")
