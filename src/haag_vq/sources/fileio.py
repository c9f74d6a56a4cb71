"""Positioned reads of files that must not have changed since their header was read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from haag_vq.errors import DataError, FileChangedError, ReadError, SourceNotFoundError


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What a file looked like when its header was read."""

    path: str
    """Absolute, so that a worker started elsewhere opens the same file."""
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> FileStamp:
        """Stamp the file at `path`.

        Raises
        ------
        SourceNotFoundError
            If there is no such file, or it cannot be looked at.
        """
        absolute = os.path.abspath(os.fspath(path))
        try:
            status = os.stat(absolute)
        except OSError as error:
            raise SourceNotFoundError(
                f"cannot open {absolute}: {error.strerror}. Check the path, and that this "
                "machine sees the file system it is on."
            ) from error
        return cls(absolute, status.st_size, status.st_mtime_ns)

    def check(self, status: os.stat_result) -> None:
        """Raise FileChangedError unless `status` is of the file that was stamped."""
        if (status.st_size, status.st_mtime_ns) != (self.size_bytes, self.mtime_ns):
            raise FileChangedError(
                f"{self.path} changed between planning and reading: it was {self.size_bytes:,} "
                f"bytes, modified at {self.mtime_ns} ns; it is now {status.st_size:,} bytes, "
                f"modified at {status.st_mtime_ns} ns. Open the dataset again."
            )

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Yield a read-only descriptor of the stamped file.

        A descriptor lives for one call only: sources pickle, and serve several threads.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise FileChangedError(
                f"{self.path} was there when the job was planned and cannot be opened now: "
                f"{error.strerror}."
            ) from error
        try:
            self.check(os.fstat(fd))
            yield fd
        finally:
            os.close(fd)

    def fingerprint(self, header: bytes) -> str:
        """Hex digest of size, modification time and header: a cheap identity of the content."""
        digest = hashlib.sha256(f"{self.size_bytes}:{self.mtime_ns}:".encode())
        digest.update(header)
        return digest.hexdigest()[:32]


def pread_exactly(fd: int, buffer: memoryview, offset: int, path: str) -> None:
    """Fill `buffer` (bytes) from `offset` of `fd`; a short file is an error, never a short answer.

    ``preadv`` writes into the caller's memory: no intermediate bytes object, and no mapped
    pages that would count in the RSS by which Dask judges a worker.
    """
    done = 0
    while done < len(buffer):
        try:
            n = os.preadv(fd, [buffer[done:]], offset + done)
        except OSError as error:
            raise ReadError(
                f"reading {len(buffer):,} bytes at offset {offset:,} of {path} failed: "
                f"{error.strerror}. The disk or the network file system is at fault, not the data."
            ) from error
        if n == 0:
            raise DataError(
                f"{path} is truncated: {len(buffer):,} bytes expected at offset {offset:,}, "
                f"the file ends after {done:,} of them. Fetch the file again."
            )
        done += n
