"""Positioned reads of files that must not have changed since their header was read."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from haag_vq.errors import DataError, FileChangedError, ReadError, SourceNotFoundError

# What is read of a file to tell its content from another's. Sixteen places show a file that was
# written anew or cut and refilled, at the price of 64 KiB a file. Both are arbitrary; changing
# them changes every fingerprint.
SAMPLE_BYTES = 4096
N_SAMPLES = 16

# Digests kept by a process, some 400 bytes each. A walk over more shards than are kept would
# find none of them again.
DIGESTS_KEPT = 1 << 16


class FileReader(Protocol):
    """A file that is open for the length of one call."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) from `offset` (bytes), wholly or with an error."""


class StoredFile(Protocol):
    """A file that a source reads, wherever it is. Hashable, and pickles without open handles."""

    @property
    def path(self) -> str:
        """What messages call it."""

    @property
    def size_bytes(self) -> int:
        """Size when its header was read."""

    @property
    def local_path(self) -> str | None:
        """Where other libraries can open it; None for a file that is not on a file system."""

    def opened(self) -> AbstractContextManager[FileReader]:
        """Open for one call; FileChangedError if it is no longer the file that was meant."""

    def fingerprint(self, layout: str) -> str:
        """Hex digest of the content as `layout` (how the bytes are read) sees it."""

    def __hash__(self) -> int:
        """Of what it is: footers are kept by their files."""


@dataclass(frozen=True, slots=True)
class LocalReader:
    """Positioned reads by a descriptor."""

    fd: int
    path: str

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) from `offset` (bytes)."""
        pread_exactly(self.fd, buffer, offset, self.path)


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

    @property
    def local_path(self) -> str:
        """Where other libraries can open it."""
        return self.path

    def check(self, status: os.stat_result) -> None:
        """Raise FileChangedError unless `status` is of the file that was stamped."""
        if (status.st_size, status.st_mtime_ns) != (self.size_bytes, self.mtime_ns):
            raise FileChangedError(
                f"{self.path} changed between planning and reading: it was {self.size_bytes:,} "
                f"bytes, modified at {self.mtime_ns} ns; it is now {status.st_size:,} bytes, "
                f"modified at {status.st_mtime_ns} ns. Open the dataset again."
            )

    @contextmanager
    def opened(self) -> Iterator[LocalReader]:
        """Yield a reader of the stamped file.

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
            yield LocalReader(fd, self.path)
        finally:
            os.close(fd)

    def fingerprint(self, layout: str) -> str:
        """Hex digest of the file's size, sampled bytes and `layout`: identity of its content.

        A file that is copied, moved or touched keeps it: path and time are no part of it.

        Parameters
        ----------
        layout : str
            How the bytes are read; two readings of one file are two contents.

        Raises
        ------
        FileChangedError
            If the file is no longer the one that was stamped.

        Notes
        -----
        The bytes at `sample_offsets` are read when a process first asks, and kept. Bytes that
        were changed between them, size unchanged, are not seen: this tells files apart and is no
        checksum.
        """
        digest = hashlib.sha256(f"{self.size_bytes}:{layout}:".encode())
        digest.update(_sampled(self))
        return digest.hexdigest()[:32]


def sample_offsets(size_bytes: int) -> list[int]:
    """Places of the `SAMPLE_BYTES` that are read of a file of a size, ascending and even.

    The first bytes and the last are always among them. A file of up to ``N_SAMPLES`` times
    `SAMPLE_BYTES` is read whole.
    """
    last = size_bytes - SAMPLE_BYTES
    if last <= (N_SAMPLES - 1) * SAMPLE_BYTES:
        return list(range(0, size_bytes, SAMPLE_BYTES))
    return [last * i // (N_SAMPLES - 1) for i in range(N_SAMPLES)]


@functools.lru_cache(maxsize=DIGESTS_KEPT)
def _sampled(stamp: FileStamp) -> bytes:
    """Digest of the bytes at `sample_offsets` of a stamped file."""
    digest = hashlib.sha256()
    block = bytearray(SAMPLE_BYTES)
    with stamp.opened() as reader:
        for offset in sample_offsets(stamp.size_bytes):
            part = memoryview(block)[: stamp.size_bytes - offset]
            reader.read_into(offset, part)
            digest.update(part)
    return digest.digest()


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
