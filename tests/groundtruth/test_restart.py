"""Kill -9 of all processes of a run, again and again: nothing finished is lost or done twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from haag_vq.groundtruth.cover import cover
from haag_vq.groundtruth.intervals import list_intervals

N_ROWS, DIM = 60_000, 128
N_KILLS = 10
LONGEST_SECONDS = 120


def start(
    base: Path, out: Path, checkpoint: Path, n_workers: int = 2, chunk: str = "512KiB"
) -> subprocess.Popen[str]:
    """The real command line with real workers, in a session of its own."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "haag_vq.cli", "ground-truth", str(base)),
            *("--queries", "sample:2500", "--k", "20", "--metric", "cosine"),
            *("--workers", str(n_workers), "--chunk-size", chunk, "--quiet", "--json"),
            *("--checkpoint", str(checkpoint), "--out", str(out)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the driver and all that it has started, at once."""
    family = [psutil.Process(process.pid)]
    family += family[0].children(recursive=True)
    for member in family:
        try:
            os.kill(member.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()
    psutil.wait_procs(family[1:], timeout=30)


def n_finished(checkpoint: Path) -> int:
    """Rows in whole intervals."""
    if not checkpoint.is_dir():
        return 0
    gaps = cover(list_intervals(checkpoint), 0, N_ROWS)[1]
    return N_ROWS - sum(b - a for a, b in gaps)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=LONGEST_SECONDS)
    if process.returncode:
        raise AssertionError(err)
    facts: dict[str, Any] = json.loads(out)
    return facts


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_killed_ten_times_goes_on_where_it_was(tmp_path: Path) -> None:
    base, checkpoint = tmp_path / "x.npy", tmp_path / "checkpoint"
    rng = np.random.default_rng(0)
    np.save(base, rng.standard_normal((N_ROWS, DIM), dtype=np.float32))
    whole = finish(start(base, tmp_path / "whole.npz", tmp_path / "other"))
    assert whole["partitions"] >= 50
    moments = random.Random(5)
    for _ in range(N_KILLS):
        before = n_finished(checkpoint)
        wanted = before + moments.randint(1, N_ROWS // (N_KILLS + 2))
        chunk = f"{moments.randint(300, 700)}KiB"
        run = start(base, tmp_path / "resumed.npz", checkpoint, moments.randint(1, 3), chunk)
        deadline = time.monotonic() + LONGEST_SECONDS
        while n_finished(checkpoint) < wanted and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(moments.random() * 0.05)
        assert run.poll() is None, run.communicate()
        kill_tree(run)
        assert n_finished(checkpoint) >= max(before, wanted)
    finished = n_finished(checkpoint)
    assert finished < N_ROWS
    last = finish(start(base, tmp_path / "resumed.npz", checkpoint))
    assert last["reused_rows"] == finished
    assert (tmp_path / "resumed.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    again = finish(start(base, tmp_path / "again.npz", checkpoint))
    assert again["partitions"] == 0
    assert again["reused_rows"] == N_ROWS
