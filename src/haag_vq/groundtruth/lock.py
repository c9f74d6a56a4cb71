"""One run at a time in a directory: a lock that dies with its process."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from haag_vq.errors import UsageError, WriteError

# What file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def locked(directory: Path, exclusive: bool) -> Iterator[Callable[[], bool]]:
    """Hold the directory's lock: alone, or beside others that do not ask to be alone.

    Yields a function that tells whether nobody else holds it now. The kernel lets go of it when
    the process ends, however it ends: nothing is stale after a ``kill -9``. Where the file system
    has no locks, a warning says so.

    Raises
    ------
    UsageError
        If another process holds it; who holds it alone is told: host, number, time, command.
    WriteError
        If the lock's file cannot be made.
    """
    with _opened(directory / "lock") as fd:
        _take(fd, directory, exclusive)
        if not exclusive:
            yield lambda: _nobody_else(fd, directory)
            return
        _tell(fd, _about_us())
        try:
            yield lambda: True
        finally:
            _tell(fd, b"")


def check_free(directory: Path) -> None:
    """Raise as `locked` does if a run holds a directory alone now; it may still be taken later."""
    # What cannot be looked at is told by who is to write there.
    if os.path.exists(directory / "lock"):
        with _opened(directory / "lock") as fd:
            # Not alone: tasks that begin this moment are not to be refused for a look.
            _take(fd, directory, exclusive=False, warns=False)


@contextmanager
def briefly_alone(directory: Path) -> Iterator[None]:
    """Wait for the directory's manifest, and hold it: for the milliseconds of a look and a write.

    Raises
    ------
    WriteError
        If the lock's file cannot be made.
    """
    with _opened(directory / "manifest.lock") as fd:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            # Without locks it was `locked` that warned.
            if error.errno not in _NO_LOCKS:
                raise WriteError(f"cannot lock {directory}: {error.strerror}.") from error
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise WriteError(f"cannot open {path}: {error.strerror}.") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _take(fd: int, directory: Path, exclusive: bool, warns: bool = True) -> None:
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            if warns:
                warnings.warn(
                    f"the file system of {directory} has no locks: take care that no second run "
                    "uses this directory meanwhile.",
                    stacklevel=4,
                )
            return
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise WriteError(f"cannot lock {directory}: {error.strerror}.") from error
        raise UsageError(
            f"{directory} is in use by {_holder(fd, exclusive)}. Wait for it to end, stop it, or "
            "take another directory."
        ) from error


def _nobody_else(fd: int, directory: Path) -> bool:
    """Hold a shared lock alone for a moment, if it can be had."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        alone = False
    else:
        alone = True
    # A lock that could not be had alone may have been let go of for the attempt.
    _take(fd, directory, exclusive=False)
    return alone


def _tell(fd: int, text: bytes) -> None:
    """Leave word for who is refused; that a full disk has no room for it stops nothing."""
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, text, 0)


def _about_us() -> bytes:
    return json.dumps(
        {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "command": " ".join(sys.argv)[:200],
        }
    ).encode()


def _holder(fd: int, exclusive: bool) -> str:
    """Describe who holds the lock, as far as it wrote that down."""
    if exclusive and _is_shared(fd):
        return "a task that searches some of its rows (--rows), or a command that looks at it"
    try:
        told = json.loads(os.pread(fd, 4096, 0))
        return f"process {told['pid']} on {told['host']} since {told['since']} ({told['command']})"
    except (ValueError, KeyError, TypeError, OSError):
        return "a run that has just started, or is just ending"


def _is_shared(fd: int) -> bool:
    """Whether the lock is held by tasks beside each other: then we could be another of them.

    What the file says would be of an earlier run, which was killed.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
