"""Where the vectors that a name stands for are: on disk, or on the Hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from haag_vq.data.catalog import CatalogEntry, find_local_copy
from haag_vq.errors import ReadError, SourceNotFoundError
from haag_vq.hub import RemoteFile, Repository, is_offline, resolve, stage
from haag_vq.sources import VectorSource, open_source
from haag_vq.sources.open import open_stored


@dataclass(frozen=True, slots=True)
class HubOptions:
    """Which part of a Hub dataset is meant, and how it is read."""

    config: str | None = None
    split: str | None = None
    revision: str | None = None
    streaming: bool = True
    """Read by ranges where it is; otherwise staged to `cache_dir` first."""
    cache_dir: str | os.PathLike[str] | None = None


@dataclass(frozen=True, slots=True)
class Located:
    """Files that were found, not yet opened."""

    paths: tuple[str, ...] = ()
    """On disk, in the order in which they are stacked."""
    remote: Repository | None = None
    """On the Hub, where they are not on disk."""

    def __bool__(self) -> bool:
        return bool(self.paths or self.remote)

    def open(self, column: str | None) -> VectorSource:
        """Open them as one source; headers and footers are read."""
        if self.remote is None:
            return open_source(self.paths, column)
        files = [RemoteFile(file) for file in self.remote.files]
        return open_stored(files, f"{self.remote.repo}@{self.remote.sha[:8]}", column)


def locate_entry(entry: CatalogEntry, options: HubOptions) -> tuple[Located, Located]:
    """Find a catalogued set and its own queries: a local copy first, then the Hub.

    Raises
    ------
    SourceNotFoundError
        If there is no local copy and the Hub has none for us, or cannot be reached.
    ReadError
        If the Hub cannot be reached for the revision that was asked for.
    """
    if options.revision is None:
        try:
            copy = find_local_copy(entry, options.cache_dir)
        except SourceNotFoundError as missing:
            if is_offline():
                raise
            absent = str(missing)
        else:
            return Located(copy.files), Located(copy.query_files)
    else:
        absent = ""
    try:
        vectors = locate_on_hub(entry.repository, options, entry.patterns)
        if not entry.query_pattern:
            return vectors, Located()
        return vectors, locate_on_hub(entry.repository, options, (entry.query_pattern,))
    except ReadError as unreachable:
        if not absent:
            raise
        raise SourceNotFoundError(f"{unreachable} There is {absent}") from None


def locate_on_hub(repo: str, options: HubOptions, patterns: Sequence[str] = ()) -> Located:
    """Find files of a Hub dataset, and stage them unless they are to be streamed."""
    found = resolve(
        repo,
        revision=options.revision,
        config=options.config,
        split=options.split,
        patterns=patterns,
    )
    if options.streaming:
        return Located(remote=found)
    return Located(tuple(stage(found, options.cache_dir)))
