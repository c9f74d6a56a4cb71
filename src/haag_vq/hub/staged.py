"""A file of the Hub cache as a source reads it: local, and known by the digest of its content."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

from haag_vq.hub.cached import CacheDir, blob_of, path_of
from haag_vq.hub.files import HubFile
from haag_vq.sources.fileio import FileReader, FileStamp, StoredFile


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A `sources.fileio.StoredFile` on disk whose content is named by the Hub.

    Its digest was checked when it was staged, by us or by the Hub's client, and stands for it:
    the fingerprint is the one of the same file streamed.
    """

    stamp: FileStamp
    file: HubFile

    @property
    def path(self) -> str:
        """Of the copy on disk."""
        return self.stamp.path

    @property
    def size_bytes(self) -> int:
        """Size when its header was read."""
        return self.stamp.size_bytes

    @property
    def local_path(self) -> str:
        """Where other libraries can open it."""
        return self.stamp.path

    def opened(self) -> AbstractContextManager[FileReader]:
        """Open for one call; FileChangedError if it is no longer the file that was stamped."""
        return self.stamp.opened()

    def fingerprint(self, layout: str) -> str:
        """`HubFile.fingerprint`; nothing is read."""
        return self.file.fingerprint(layout)


def staged_file(file: HubFile, cache_dir: CacheDir = None) -> StagedFile:
    """Open the staged copy of a Hub file; SourceNotFoundError if there is none."""
    return StagedFile(FileStamp.of(path_of(file, cache_dir)), file)


def stored_file(path: str | os.PathLike[str]) -> StoredFile:
    """Stamp a file on disk; one that links to a blob of the Hub cache is known by its digest."""
    stamp, blob = FileStamp.of(path), blob_of(path)
    if not blob:
        return stamp
    sha256 = blob if len(blob) == 64 else None
    return StagedFile(stamp, HubFile("", "", "", stamp.path, stamp.size_bytes, sha256, blob))
