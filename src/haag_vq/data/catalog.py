"""The public sets that have a name here, and where copies of them are looked for.

Schemas and counts were read off the repositories' own files and cards; see docs/datasets.md.
Row counts are what a set is listed with: the software always counts from headers and footers.
"""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from haag_vq.errors import DataError, SourceNotFoundError, UsageError
from haag_vq.hub import hub_cache
from haag_vq.hub.cached import has_listing
from haag_vq.sources import Metric
from haag_vq.sources.open import natural_key


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A public set of embeddings."""

    name: str
    repository: str
    """On the Hugging Face Hub: organisation/name."""
    patterns: tuple[str, ...]
    """Files of the vectors inside the repository; the first form that is there is taken."""
    column: str
    """Embedding column of Parquet files."""
    dim: int
    listed_rows: int
    metric: Metric
    """The publisher's."""
    n_files: int
    note: str = ""
    query_pattern: str = ""
    """Files of the set's own queries, where it has any."""


_DBPEDIA = "Qdrant/dbpedia-entities-openai3-text-embedding-3-large"

CATALOG: dict[str, CatalogEntry] = {
    entry.name: entry
    for entry in (
        CatalogEntry(
            "dbpedia-100k",
            f"{_DBPEDIA}-1536-100K",
            ("data/train-*.parquet",),
            "text-embedding-3-large-1536-embedding",
            1536,
            100_000,
            "cosine",
            3,
        ),
        CatalogEntry(
            "dbpedia-1536",
            f"{_DBPEDIA}-1536-1M",
            ("data/train-*.parquet",),
            "text-embedding-3-large-1536-embedding",
            1536,
            1_000_000,
            "cosine",
            26,
        ),
        CatalogEntry(
            "dbpedia-3072",
            f"{_DBPEDIA}-3072-1M",
            ("data/train-*.parquet",),
            "text-embedding-3-large-3072-embedding",
            3072,
            1_000_000,
            "cosine",
            63,
        ),
        CatalogEntry(
            "msmarco",
            "Cohere/msmarco-v2.1-embed-english-v3",
            ("passages_npy/*.npy", "passages_parquet/*.parquet"),
            "emb",
            1024,
            113_520_750,
            "cosine",
            60,
            note="the Hub's viewer lists ~53M, extrapolated from one shard",
            query_pattern="queries_parquet/*.parquet",
        ),
        CatalogEntry(
            "msmarco-queries",
            "Cohere/msmarco-v2.1-embed-english-v3",
            ("queries_parquet/*.parquet",),
            "emb",
            1024,
            1_677,
            "cosine",
            1,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class LocalCopy:
    """A catalogued set found on disk."""

    files: tuple[str, ...]
    """Of the vectors, in the order in which they are stacked."""
    query_files: tuple[str, ...]
    """Of its own queries; empty where it has none, or they are not there."""
    directory: str


def find_local_copy(
    entry: CatalogEntry, cache_dir: str | os.PathLike[str] | None = None
) -> LocalCopy:
    """Find a copy laid out as the set's repository.

    Parameters
    ----------
    cache_dir : path-like, optional
        Looked at in this order: the repository itself, ``organisation/name`` and ``name`` below
        it, and the Hub client's cache (``datasets--organisation--name/snapshots/…``). By
        default the Hub client's own cache (HF_HUB_CACHE, HF_HOME). Snapshots that were staged
        by us are not looked at: of them it is known what else they should have
        (`data.located`).

    Raises
    ------
    SourceNotFoundError
        If there is none: the message says where it was looked for and how to get one.
    DataError
        If shards are missing between others.
    """
    root = Path(os.path.expanduser(os.fspath(cache_dir))) if cache_dir else hub_cache()
    candidates = _candidates(entry, root)
    for directory in candidates:
        copy = copy_in(entry, directory)
        if copy is not None:
            _warn_if_short(entry, copy)
            return copy
    looked = ", ".join(str(directory) for directory in candidates)
    raise SourceNotFoundError(
        f"no local copy of {entry.name} ({entry.repository}) with {' or '.join(entry.patterns)}. "
        f"Looked in: {looked}. Fetch one on a machine with internet: haag-vq fetch {entry.name} "
        f"--cache-dir {root}, or: hf download {entry.repository} --repo-type dataset "
        f"--include '{entry.patterns[0]}' --local-dir {root / entry.repository.split('/')[1]}"
    )


def copy_in(entry: CatalogEntry, directory: Path) -> LocalCopy | None:
    """Return the copy of `entry` in a directory laid out as its repository, or None."""
    for pattern in entry.patterns:
        files = _matches(directory, pattern)
        if files:
            _check_numbers(entry, files)
            queries = _matches(directory, entry.query_pattern) if entry.query_pattern else []
            return LocalCopy(tuple(files), tuple(queries), str(directory))
    return None


def look_up(name: str) -> CatalogEntry:
    """Return the entry of that name.

    Raises
    ------
    UsageError
        If there is none; the message lists those there are.
    """
    if name not in CATALOG:
        raise UsageError(f"no dataset is called {name!r}: there are {', '.join(CATALOG)}.")
    return CATALOG[name]


def _matches(directory: Path, pattern: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(str(directory)), pattern)), key=natural_key)


def _candidates(entry: CatalogEntry, root: Path) -> list[Path]:
    organisation, name = entry.repository.split("/")
    cached = f"datasets--{organisation}--{name}"
    plain = [root, root / organisation / name, root / name]
    snapshots = [
        snapshot for home in (root / cached, root / "hub" / cached) for snapshot in _snapshots(home)
    ]
    return plain + snapshots


def _snapshots(home: Path) -> list[Path]:
    """Snapshots in a repository's folder of the Hub cache: the one `main` names, then by age."""
    found = sorted(
        (
            path
            for path in (home / "snapshots").glob("*")
            if path.is_dir() and not has_listing(home, path.name)
        ),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    try:
        named = home / "snapshots" / (home / "refs" / "main").read_text().strip()
    except OSError:
        return found
    return [path for path in [named] if path in found] + [p for p in found if p != named]


def _check_numbers(entry: CatalogEntry, files: Sequence[str]) -> None:
    """Refuse a copy with shards missing between others, or of the number that names promise.

    Rows are positions in the shards stacked in order, so a hole would shift every id after it.
    """
    names = [os.path.basename(file) for file in files]
    # `datasets` used to put a hash behind the numbers, which may itself end in digits.
    numbered = [re.search(r"(\d+)-of-(\d+)|(\d+)\.\w+$", name) for name in names]
    numbers = [int(match.group(1) or match.group(3)) for match in numbered if match]
    if not numbers:
        return
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise DataError(
            f"the copy of {entry.name} in {os.path.dirname(files[0])} has shard number {twice} "
            "more than once, under different names: remove those that do not belong."
        )
    promised = {int(match.group(2)) for match in numbered if match and match.group(2)}
    expected = max(promised, default=max(numbers) + 1)
    missing = sorted(set(range(expected)) - set(numbers))
    if missing:
        raise DataError(
            f"the copy of {entry.name} in {os.path.dirname(files[0])} lacks {len(missing)} of "
            f"{expected} shards, the first is number {missing[0]}: row numbers would not be those "
            "of the set. Fetch the missing files."
        )


def _warn_if_short(entry: CatalogEntry, copy: LocalCopy) -> None:
    if len(copy.files) < entry.n_files:
        warnings.warn(
            f"the copy of {entry.name} in {copy.directory} has {len(copy.files)} of "
            f"{entry.n_files} shards: the set ends early.",
            stacklevel=4,
        )
