"""What else becomes of jobs, and of the run itself: the same bits in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from haag_vq import connect, ground_truth, load_ground_truth
from tests.slurm.conftest import Slurm, timed
from tests.slurm.test_jobs import CHUNK, XQ, K, N, Slow, X, all_up, check, nodes_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


def finished(kept: Path) -> list[str]:
    """Intervals on disk; none before there is a checkpoint."""
    return sorted(path.name for path in kept.glob("rows-*"))


def test_workers_that_retire_in_turn_are_followed_by_others(slurm: Slurm, tmp_path: Path) -> None:
    """Every worker leaves at the end of its lifetime, and none takes the run with it."""
    seen: set[str] = set()
    found: list[Any] = []
    slow = Slow(X, 1.0, told=tmp_path / "reads")
    lives: dict[str, Any] = {"lifetime": "8", "lifetime_stagger": "2"}
    with (
        connect(slurm.profile, jobs=2, **lives) as connection,
        timed("retirement in turn, 20 blocks of 1 s"),
    ):
        run = Thread(
            target=lambda: found.append(
                ground_truth(slow, XQ, k=K, chunk_size=CHUNK, checkpoint=tmp_path / "kept")
            )
        )
        run.start()
        while run.is_alive():
            seen |= set(nodes_of(connection))
            run.join(timeout=0.5)
    assert found
    check(found[0])
    assert len(seen) >= 4
    reads = (tmp_path / "reads").read_text().split()
    n_again = len(reads) - len(set(reads))
    print(f"{len(seen)} workers, {n_again} blocks again")
    assert n_again <= len(seen), "more was read again than each had in hand"


def test_a_job_that_never_starts_keeps_nobody_waiting(slurm: Slurm, capsys: Any) -> None:
    """It waits for a time that does not come; the others do its work."""
    taking = ("sbatch", "--parsable", "--exclusive", "--nodelist=node1", "--output=/dev/null")
    first = slurm.run(*taking, "--wrap=sleep 300")
    try:
        wait_until(
            "the node is taken", lambda: slurm.jobs().get(first.strip(), ("",))[0] == "RUNNING"
        )
        there = ["--nodelist=node1"]
        with connect(slurm.profile, jobs=1, job_extra_directives=there) as held:
            with connect(slurm.profile, jobs=1) as connection:
                all_up(connection, 1)
                with timed("one job held, the other's 20 blocks of 0.05 s"):
                    check(ground_truth(Slow(X, 0.05), XQ, k=K, chunk_size=CHUNK))
            assert nodes_of(held) == {}
            wait_until("its reason", lambda: "Resources" in capsys.readouterr().err)
    finally:
        slurm.run("scancel", first.strip())


def test_a_killed_client_is_followed_by_the_same_command(slurm: Slurm, tmp_path: Path) -> None:
    """Its jobs end by themselves, its keys are swept away, nothing finished is searched again."""
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "q.npy", XQ)
    kept, out = tmp_path / "kept", tmp_path / "t.npz"
    words = ["ground-truth", str(tmp_path / "x.npy"), "--queries", str(tmp_path / "q.npy")]
    words += ["--k", str(K), "--checkpoint", str(kept), "--chunk-size", "800", "--out", str(out)]
    words += ["--cluster", slurm.profile, "--jobs", "1", "--set", "death-timeout=3"]
    command = [sys.executable, "-m", "haag_vq", *words, "--quiet", "--json"]
    with subprocess.Popen(command, start_new_session=True) as client:
        wait_until("some rows", lambda: len(finished(kept)) > 3)
        n_finished = len(finished(kept))
        os.killpg(client.pid, signal.SIGKILL)
    assert not out.exists()
    with timed("client killed, its jobs gone (death-timeout=3)"):
        wait_until("its jobs are gone", lambda: not slurm.jobs())
    assert list((slurm.home / "shared").iterdir()) != []
    with timed(f"client killed with {n_finished} files of rows, the same again"):
        again = subprocess.run(command, check=True, capture_output=True, text=True)
    n_reused = json.loads(again.stdout)["reused_rows"]
    assert n_reused > 0
    print(f"{n_reused} of {N} rows were kept")
    check(load_ground_truth(out))
    assert list((slurm.home / "shared").iterdir()) == []
