"""`haag-vq plan JOB …`: the job's own words, JSON, the picture, and how much it reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haag_vq import cli
from haag_vq.commands import plan as command
from haag_vq.errors import UsageError
from haag_vq.sources.bigann import HEADER
from tests.commands.running import run
from tests.support.files import vectors, write_hdf5

MIB = 1 << 20


@pytest.fixture
def base(tmp_path: Path) -> str:
    path = tmp_path / "x.npy"
    np.save(path, np.ones((3000, 32), np.float16))
    return str(path)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert cli.main(["plan", *words]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def test_json_before_and_behind_the_job(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = told(capsys, "--json", "load", base)
    behind = told(capsys, "load", base, "--json")
    assert before == behind
    assert (before["n_rows"], before["dim"], before["dtype"]) == (3000, 32, "float16")
    assert before["stored_bytes"] == 3000 * 64


def test_every_job_is_planned_with_its_own_words(base: str, tmp_path: Path) -> None:
    words = ["--queries", "holdout:100", "--k", "7", "--metric", "ip", "--workers", "2"]
    search, _ = run(command, "ground-truth", base, *words)
    assert (search["n_rows"], search["n_workers"]) == (2900, 2)
    assert search["flop"] == 2 * 100 * 2900 * 32
    assert search["disk"]["output_bytes"] == 100 * 7 * 16
    export, table = run(command, "export", base, tmp_path / "x.fbin", "--limit", "1000")
    assert export["disk"]["output_bytes"] == 1000 * 32 * 4
    assert not (tmp_path / "x.fbin").exists()
    codes, _ = run(command, "quantize", base, tmp_path / "q", "--codec", "PQ8", "--train", "500")
    assert codes["disk"]["output_bytes"] == 3000 * 8 + 4 * 256 * 32
    assert not (tmp_path / "q").exists()
    assert dict(table)["fits here"].startswith("yes")


def test_the_jobs_own_cluster_is_the_profile(base: str) -> None:
    words = ["ground-truth", base, "--queries", "first:10", "--cluster", "pace-ice"]
    facts, table = run(command, *words, "--jobs", "3", "--set", "walltime=2:00:00")
    assert (facts["slurm"]["profile"], facts["slurm"]["jobs"]) == ("pace-ice", 3)
    assert facts["slurm"]["walltime_seconds"] == 7200
    assert "#SBATCH --time=02:00:00" in [value for _, value in table]
    limited, _ = run(command, *words, "--memory-limit", "9GiB")
    set_so, _ = run(command, *words, "--set", "memory=9GiB")
    assert limited["slurm"]["memory_bytes"] == set_so["slurm"]["memory_bytes"] >= 9 << 30
    assert limited["allowance_bytes"] == set_so["allowance_bytes"], "of this machine, as it is"
    other, _ = run(command, "load", base, "--profile", "pace-ice")
    assert other["slurm"]["jobs"] == 1


def test_a_metric_that_is_not_asked_for_is_told(tmp_path: Path) -> None:
    path = write_hdf5(
        tmp_path / "x.hdf5", dict.fromkeys(("train", "test"), vectors(9, 4)), "angular"
    )
    words = ("ground-truth", path, "--k", "3")
    with pytest.warns(
        UserWarning, match=r"by l2, since no --metric .* is of cosine \(--metric auto"
    ):
        run(command, *words)
    run(command, *words, "--metric", "l2")
    run(command, *words, "--metric", "auto")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--cluster", "pace-ice", "--profile", "pace-phoenix"], "name one of them"),
        (["--profile", "nowhere"], "no Slurm profile"),
        (["--profile-jobs", "2"], "name its --profile"),
        (["--k", "5000"], "take 1 to 3,000"),
        (["--rows", "0:10"], "--rows needs --checkpoint"),
        (["--metric", "auto"], "no metric of its own"),
    ],
)
def test_what_cannot_be_planned_is_told(words: list[str], why: str, base: str) -> None:
    with pytest.raises(UsageError, match=why):
        run(command, "ground-truth", base, "--queries", "first:10", *words)


def test_the_picture_is_drawn(base: str, tmp_path: Path) -> None:
    out = tmp_path / "memory.png"
    facts, _ = run(command, "load", base, "--picture", out)
    assert facts["picture"] == str(out)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_wrong_job_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", "dance"])
    assert ended.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def sparse_shards(home: Path, n_shards: int, n_rows: int, dim: int) -> None:
    for i in range(n_shards):
        with open(home / f"x{i}.u8bin", "wb") as file:
            file.write(HEADER.pack(n_rows, dim))
            file.truncate(HEADER.size + n_rows * dim)


# Counts file reads as the system does, and the growth of the process over what imports take.
PROBE = """
import json, os, sys
from pathlib import Path
from haag_vq import cli
from haag_vq.memory import peak_rss_bytes, rss_bytes

def read():
    lines = Path("/proc/self/io").read_text().split()
    return int(lines[lines.index("rchar:") + 1])

import haag_vq.commands.plan
before, io = rss_bytes(), read()
code = cli.main(sys.argv[1:])
print(json.dumps([code, peak_rss_bytes() - before, read() - io]))
"""


def test_a_billion_rows_in_a_thousand_shards(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    sparse_shards(shards, 1000, 10**6, 96)
    words = ["plan", "ground-truth", str(shards / "*.u8bin"), "--queries", "first:10000"]
    words += ["--k", "100", "--profile", "pace-ice", "--json", "--memory-limit", "4GiB"]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
        env=os.environ,
    )
    facts, counts = (json.loads(line) for line in done.stdout.splitlines())
    code, grown_bytes, read_bytes = counts
    assert code == 0
    assert (facts["n_rows"], facts["stored_bytes"]) == (10**9, 96 * 10**9)
    assert facts["flop"] == 2 * 10**4 * 10**9 * 96
    assert facts["fits"]
    assert grown_bytes < 200e6
    # A header twice, of which the system gives 4 KiB each time, and the profile; the data is 96 GB.
    assert read_bytes < 1000 * (8 << 10) + MIB
