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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from haag_vq.errors import UsageError, WriteError

# What file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def locked(directory: Path, exclusive: bool) -> Iterator[None]:
    """Hold the directory's lock: alone, or beside others that do not ask to be alone.

    The kernel lets go of it when the process ends, however it ends: nothing is stale after a
    ``kill -9``. Where the file system has no locks, a warning says so.

    Raises
    ------
    UsageError
        If another process holds it: its host, number, time and command are told.
    """
    path = directory / "lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise WriteError(f"cannot open {path}: {error.strerror}.") from error
    try:
        _take(fd, path, exclusive)
        if exclusive:
            os.ftruncate(fd, 0)
            os.pwrite(fd, _about_us(), 0)
        yield
    finally:
        os.close(fd)


def _take(fd: int, path: Path, exclusive: bool) -> None:
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            warnings.warn(
                f"the file system of {path.parent} has no locks: take care that no second run "
                "uses this directory meanwhile.",
                stacklevel=4,
            )
            return
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise WriteError(f"cannot lock {path}: {error.strerror}.") from error
        raise UsageError(
            f"{path.parent} is in use by {_holder(fd)}. Wait for it to end, stop it, or take "
            "another directory."
        ) from error


def _about_us() -> bytes:
    return json.dumps(
        {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "command": " ".join(sys.argv)[:200],
        }
    ).encode()


def _holder(fd: int) -> str:
    """Describe who holds the lock, as far as it wrote that down."""
    try:
        told = json.loads(os.pread(fd, 4096, 0))
        return (
            f"process {told['pid']} on {told['host']} since {told['since']} ({told['command']}), "
            "or by tasks of its rows"
        )
    except (ValueError, KeyError, OSError):
        return "another process (one that searches some rows, or a run that has just started)"
