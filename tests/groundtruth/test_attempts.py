"""Notes of attempts: there while rows are searched, turned into losses by who finds them dead."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from haag_vq import ground_truth
from haag_vq.deaths import Cause
from haag_vq.errors import DataError, WriteError
from haag_vq.groundtruth.attempts import (
    Loss,
    attempted,
    lose,
    losses_of,
    note_paths,
    open_attempts,
)
from haag_vq.groundtruth.losses import settle

SPAN = (100, 200)


def test_a_note_says_who_and_lasts_as_long_as_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with attempted(str(tmp_path), SPAN, 12345, "tls://10.0.0.1:99"):
        (found,) = open_attempts(tmp_path)
        assert (found.span, found.pid, found.job) == (SPAN, os.getpid(), "77")
        assert (found.host, found.worker) == (socket.gethostname(), "tls://10.0.0.1:99")
        assert found.projected_bytes == 12345
        assert found.began > 1.7e9
    assert list(tmp_path.iterdir()) == []


def test_an_attempt_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), attempted(str(tmp_path), SPAN, 0, ""):
        _ = 1 // 0
    assert list(tmp_path.iterdir()) == []


def test_the_note_of_a_killed_process_stays_and_becomes_a_loss(tmp_path: Path) -> None:
    program = f"""
        import os
        from haag_vq.groundtruth.attempts import attempted
        with attempted({str(tmp_path)!r}, (100, 200), 5, ""):
            os.kill(os.getpid(), 9)
    """
    env = {**os.environ, "SLURM_JOB_ID": "5"}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=env, check=False)
    assert [attempt.span for attempt in open_attempts(tmp_path)] == [SPAN, SPAN]
    settle(tmp_path, {"5": Cause("memory", "killed", 9, 7)}.get)
    assert open_attempts(tmp_path) == []
    found = losses_of(tmp_path, SPAN)
    assert [(loss.kind, loss.measured_bytes, loss.limit_bytes) for loss in found] == [
        ("memory", 9, 7)
    ] * 2
    assert losses_of(tmp_path, (100, 201)) == []


def test_of_a_job_that_nobody_remembers_only_the_end_is_known(tmp_path: Path) -> None:
    with attempted(str(tmp_path), SPAN, 0, ""):
        settle(tmp_path, lambda job: None)
        (loss,) = losses_of(tmp_path, SPAN)
    assert (loss.kind, loss.told) == ("ended", "the run that it was of ended")


def test_a_run_settles_what_an_earlier_one_left_open(tmp_path: Path) -> None:
    x = np.ones((40, 4), np.float32)
    search = partial(ground_truth, queries=x[:3] * 2, k=2, checkpoint=tmp_path / "kept")
    broken = x.copy()
    broken[30] = np.nan
    with pytest.raises(DataError):
        search(broken)
    with attempted(str(tmp_path / "kept"), (30, 40), 0, ""):
        with pytest.raises(DataError):
            search(broken)
        assert open_attempts(tmp_path / "kept") == []
    assert [loss.kind for loss in losses_of(tmp_path / "kept", (30, 40))] == ["ended"]


def test_rows_that_are_finished_keep_no_notes(tmp_path: Path) -> None:
    x = np.arange(160, dtype=np.float32).reshape(40, 4)
    for span in ((10, 20), (30, 40), (30, 50)):
        (tmp_path / "kept").mkdir(exist_ok=True)
        with attempted(str(tmp_path / "kept"), span, 0, ""):
            settle(tmp_path / "kept", lambda job: None)
    ground_truth(x, x[:3], k=2, checkpoint=tmp_path / "kept")
    assert [span for span, _ in note_paths(tmp_path / "kept")] == [(30, 50)]


def test_notes_wait_for_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int) -> None:
        raise AssertionError("a note is synced")

    monkeypatch.setattr("haag_vq.atomic.os.fsync", refuse)
    with attempted(str(tmp_path), SPAN, 0, ""):
        settle(tmp_path, lambda job: None)


def test_many_at_once_are_each_counted(tmp_path: Path) -> None:
    def try_and_lose(_: int) -> None:
        with attempted(str(tmp_path), SPAN, 0, f"worker-{_}"):
            (mine,) = [a for a in open_attempts(tmp_path) if a.worker == f"worker-{_}"]
            lose(tmp_path, Loss(mine, "unknown", "died"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(try_and_lose, range(64)))
    assert len(losses_of(tmp_path, SPAN)) == 64
    assert {loss.attempt.worker for loss in losses_of(tmp_path, SPAN)} == {
        f"worker-{i}" for i in range(64)
    }


def test_a_damaged_note_says_nothing_and_other_files_are_none(tmp_path: Path) -> None:
    with attempted(str(tmp_path), SPAN, 0, ""):
        (_, path), = note_paths(tmp_path)  # fmt: skip
        path.write_text('{"start": 1')
        (tmp_path / "rows-000000000000100-000000000000200.part").touch()
        (tmp_path / "attempt-1-2-x.json").touch()
        assert open_attempts(tmp_path) == []
        assert len(note_paths(tmp_path)) == 1


def test_a_note_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(WriteError, match="cannot write in"),
        attempted(str(tmp_path / "gone"), SPAN, 0, ""),
    ):
        pass
