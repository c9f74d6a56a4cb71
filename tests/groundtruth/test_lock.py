"""Who may be in a directory at once, and who is told about whom."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from haag_vq.errors import UsageError, WriteError
from haag_vq.groundtruth.lock import briefly_alone, check_free, locked

HOLDER = """
import sys, time
from pathlib import Path
from haag_vq.groundtruth.lock import locked

with locked(Path(sys.argv[1]), sys.argv[2] == "alone"):
    print("held", flush=True)
    time.sleep(100)
"""


@contextmanager
def holder(directory: Path, how: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock until it is killed with SIGKILL."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), how], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_one_alone_or_several_beside_each_other(tmp_path: Path) -> None:
    with locked(tmp_path, True):
        for exclusive in (True, False):
            with pytest.raises(UsageError, match="in use"), locked(tmp_path, exclusive):
                pass
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(locked(tmp_path, False))
        with pytest.raises(UsageError, match="in use"), locked(tmp_path, True):
            pass
        # The one that was refused holds nothing.
        with locked(tmp_path, False):
            pass
    with locked(tmp_path, True):
        pass


def test_a_look_is_refused_by_a_run_and_leaves_nothing(tmp_path: Path) -> None:
    check_free(tmp_path)
    assert not list(tmp_path.iterdir())
    with locked(tmp_path, True), pytest.raises(UsageError, match="in use by process"):
        check_free(tmp_path)
    with locked(tmp_path, False):
        check_free(tmp_path)
    check_free(tmp_path)
    with locked(tmp_path, True):
        pass


@pytest.mark.parametrize("exclusive", [True, False])
def test_is_let_go_of_after_an_error(exclusive: bool, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(tmp_path, exclusive):
        raise KeyboardInterrupt
    with locked(tmp_path, True):
        pass


def test_a_killed_run_blocks_nobody_and_a_living_one_is_named(tmp_path: Path) -> None:
    year = time.strftime("%Y-")
    with holder(tmp_path, "alone") as process:
        for exclusive in (True, False):
            with pytest.raises(UsageError) as refused, locked(tmp_path, exclusive):
                pass
            told = str(refused.value)
            assert f"process {process.pid} on {socket.gethostname()} since {year}" in told
            assert f"(-c {tmp_path} alone" in told
            assert "Wait for it to end, stop it, or take another directory" in told
    # It was killed, and what it wrote of itself is still there: no later refusal names it.
    assert str(process.pid) in (tmp_path / "lock").read_text()
    with locked(tmp_path, False), pytest.raises(UsageError) as refused, locked(tmp_path, True):
        pass
    assert str(process.pid) not in str(refused.value)
    assert "a task that searches some of its rows" in str(refused.value)
    with locked(tmp_path, True):
        assert str(process.pid) not in (tmp_path / "lock").read_text()
    assert (tmp_path / "lock").read_text() == ""


def test_a_refusal_before_the_holder_has_written_of_itself(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"pid": 1}'):
        with locked(tmp_path, True):
            (tmp_path / "lock").write_text(text)
            with pytest.raises(UsageError, match="a run that has just started"):
                locked(tmp_path, False).__enter__()


def test_a_program_that_outlives_its_run_does_not_hold_its_lock(tmp_path: Path) -> None:
    with locked(tmp_path, True):
        child = subprocess.Popen(["sleep", "100"], close_fds=False)
    try:
        with locked(tmp_path, True):
            pass
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_without_locks_a_warning_is_given_and_the_run_goes_on(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No file system without locks is at hand here.
    refuse_locks(monkeypatch, code)
    entered = []
    with (
        pytest.warns(UserWarning, match=r"has no locks: take care that no second run"),
        locked(tmp_path, True),
        briefly_alone(tmp_path),
    ):
        entered.append(True)
    assert entered


def test_other_faults_of_a_lock_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WriteError, match=r"cannot open .*lock: No such file"):
        locked(tmp_path / "gone", True).__enter__()
    refuse_locks(monkeypatch, errno.EIO)
    for entering in (locked(tmp_path, True), briefly_alone(tmp_path)):
        with pytest.raises(WriteError, match=r"cannot lock .*: Input/output error"), entering:
            pass


def refuse_locks(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_briefly_alone_waits_its_turn(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def enter() -> None:
        for _ in range(20):
            with briefly_alone(tmp_path):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0005)
                inside[0] -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
