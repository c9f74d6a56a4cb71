"""A file on the Hub as a source reads it: by ranges, nothing on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from haag_vq.errors import DataError
from haag_vq.hub.files import HubFile
from haag_vq.hub.transport import read_range


@dataclass(frozen=True, slots=True)
class RemoteReader:
    """Ranged requests for one file."""

    file: HubFile

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) from `offset` (bytes); errors are those of `read_range`."""
        if offset + len(buffer) > self.file.size_bytes:
            raise DataError(
                f"{self.file.path} is truncated: {len(buffer):,} bytes expected at offset "
                f"{offset:,}, the file has {self.file.size_bytes:,}."
            )
        read_range(self.file, offset, buffer)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A `sources.fileio.StoredFile` that is read where it is."""

    file: HubFile

    @property
    def path(self) -> str:
        """What messages call it, with its commit."""
        return self.file.path

    @property
    def size_bytes(self) -> int:
        """As the Hub lists it."""
        return self.file.size_bytes

    @property
    def local_path(self) -> None:
        """Nowhere."""
        return None

    @contextmanager
    def opened(self) -> Iterator[RemoteReader]:
        """Yield a reader; a commit's file does not change, so nothing is looked at."""
        yield RemoteReader(self.file)

    def fingerprint(self, layout: str) -> str:
        """`HubFile.fingerprint`: the same as that of the staged file. Nothing is read."""
        return self.file.fingerprint(layout)
