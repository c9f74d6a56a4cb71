"""Where the vectors that a name stands for are: on disk, or on the Hub."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from haag_vq.data.catalog import CatalogEntry, find_local_copy
from haag_vq.errors import ReadError, SourceNotFoundError
from haag_vq.hub import (
    HubFile,
    Pin,
    RemoteFile,
    Repository,
    StagedFile,
    how_to_fetch,
    hub_cache,
    is_offline,
    is_whole,
    leading,
    resolve,
    resolve_cached,
    stage,
    staged_file,
    stored_file,
)
from haag_vq.sources import VectorSource, open_source
from haag_vq.sources.fileio import StoredFile
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
    n_rows: int | None = None
    """The first so many rows are all that is needed: no other file need be on disk."""
    column: str | None = None
    """Array of HDF5 files of which these are rows."""


@dataclass(frozen=True, slots=True)
class Located:
    """Files that were found, not yet opened."""

    files: tuple[StoredFile, ...] = ()
    """In the order in which they are stacked."""
    found: Repository | None = None
    """What they are of; None for a copy outside of the Hub's cache."""
    column: str | None = None
    """Embedding column or array, unless another is asked for."""

    def __bool__(self) -> bool:
        return bool(self.files)

    @property
    def pin(self) -> Pin | None:
        """Revision and commit; None for a copy outside of the Hub's cache."""
        found = self.found
        return None if found is None else Pin(found.repo, found.revision, found.sha)

    def open(self, column: str | None) -> VectorSource:
        """Open them as one source; headers and footers are read."""
        column = column or self.column
        if self.found is not None:
            return open_stored(self.files, f"{self.found.repo}@{self.found.sha[:8]}", column)
        if any(isinstance(file, StagedFile) for file in self.files):
            return open_stored(self.files, self.files[0].path, column)
        return open_source([file.path for file in self.files], column)


def on_disk(paths: Iterable[str]) -> Located:
    """Stamp the files of a local copy."""
    return Located(tuple(stored_file(path) for path in paths))


def locate_entry(entry: CatalogEntry, options: HubOptions) -> tuple[Located, Located]:
    """Find a catalogued set and its own queries: a copy on disk first, then the Hub.

    Raises
    ------
    SourceNotFoundError
        If there is no local copy and the Hub has none for us, or cannot be reached.
    ReadError
        If the Hub cannot be reached for the revision that was asked for.
    """
    absent = ""
    if options.revision is None:
        try:
            copy = find_local_copy(entry, options.cache_dir)
        except SourceNotFoundError as missing:
            absent = str(missing)
        else:
            return on_disk(copy.files), on_disk(copy.query_files)
        staged = _staged_entry(entry, options)
        if staged is not None:
            return staged
        if is_offline():
            raise SourceNotFoundError(absent)
    try:
        vectors = locate_on_hub(entry.repository, options, entry.patterns)
        return vectors, _queries_of(entry, options)
    except ReadError as unreachable:
        if not absent:
            raise
        raise SourceNotFoundError(f"{unreachable} There is {absent}") from None


def locate_on_hub(repo: str, options: HubOptions, patterns: Sequence[str] = ()) -> Located:
    """Find files of a Hub dataset: those that are staged, the others on the Hub.

    Unless they are to be streamed they are staged first. Where the Hub was not asked
    (`Repository.from_cache`) all that is needed must be staged.

    Raises
    ------
    SourceNotFoundError
        If there is nothing of that name, or offline what is staged is not whole.
    """
    found = resolve(
        repo,
        revision=options.revision,
        config=options.config,
        split=options.split,
        patterns=patterns,
        cache_dir=options.cache_dir,
    )
    whole = _if_staged(found, options)
    if whole is not None:
        return whole
    if found.from_cache:
        absent = [file for file in found.files if not is_whole(file, options.cache_dir)]
        raise SourceNotFoundError(
            f"{repo} is not whole in {hub_cache(options.cache_dir)}: {len(absent):,} of "
            f"{len(found.files):,} files of commit {found.sha[:8]} are not there, the first is "
            f"{absent[0].name}; and the Hub cannot be asked. "
            f"{how_to_fetch(repo, found.revision, options.config, options.split, patterns)}"
        )
    if options.streaming:
        return Located(tuple(_nearest(file, options) for file in found.files), found)
    needed = leading(found, options.n_rows, lambda file: _nearest(file, options), options.column)
    stage(needed, options.cache_dir)
    return _as_staged(needed, options)


def _queries_of(entry: CatalogEntry, options: HubOptions) -> Located:
    if not entry.query_pattern:
        return Located()
    # All of them, however few rows of the base are asked for.
    every = replace(options, n_rows=None)
    return locate_on_hub(entry.repository, every, (entry.query_pattern,))


def _staged_entry(entry: CatalogEntry, options: HubOptions) -> tuple[Located, Located] | None:
    """Find a catalogued set in the Hub cache, asking for nothing; None if it is not whole."""

    def staged(patterns: Sequence[str], n_rows: int | None) -> Located | None:
        found = resolve_cached(entry.repository, patterns=patterns, cache_dir=options.cache_dir)
        return None if found is None else _if_staged(found, replace(options, n_rows=n_rows))

    try:
        vectors = staged(entry.patterns, options.n_rows)
        queries = staged((entry.query_pattern,), None) if entry.query_pattern else Located()
    except SourceNotFoundError:
        return None  # what is listed there has no such files
    return (vectors, queries or Located()) if vectors else None


def _if_staged(found: Repository, options: HubOptions) -> Located | None:
    """Take a repository's files on disk if all that are needed are there, whole."""
    try:
        needed = leading(
            found,
            options.n_rows,
            lambda file: staged_file(file, options.cache_dir),
            options.column,
        )
    except SourceNotFoundError:
        return None
    whole = all(is_whole(file, options.cache_dir) for file in needed.files)
    return _as_staged(needed, options) if whole else None


def _as_staged(found: Repository, options: HubOptions) -> Located:
    return Located(tuple(staged_file(file, options.cache_dir) for file in found.files), found)


def _nearest(file: HubFile, options: HubOptions) -> StoredFile:
    if is_whole(file, options.cache_dir):
        return staged_file(file, options.cache_dir)
    return RemoteFile(file)
