"""The Hub client's cache on disk: where it is, what it holds of a repository, and what is whole.

::

    datasets--ORGANISATION--NAME/
        refs/REVISION             the commit that a branch or tag was
        snapshots/COMMIT/NAME     a link to the content
        blobs/DIGEST              the content
        .haag_vq/COMMIT.json      ours: all files of the commit, their sizes and digests
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from haag_vq.atomic import written_whole
from haag_vq.errors import DataError
from haag_vq.hub.files import HubFile, endpoint

COMMIT = re.compile(r"[0-9a-f]{40}")
# sha256, or git's digest of a small file.
BLOB = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")

CacheDir = str | os.PathLike[str] | None


def hub_cache(cache_dir: CacheDir = None) -> Path:
    """Directory of staged files: the one given, else HF_HUB_CACHE, else that of HF_HOME."""
    chosen = cache_dir or os.environ.get("HF_HUB_CACHE")
    if not chosen:
        chosen = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    return Path(os.path.expanduser(os.fspath(chosen))).absolute()


def home_of(repo: str, cache_dir: CacheDir = None) -> Path:
    """Directory of a dataset repository in the cache."""
    return hub_cache(cache_dir) / f"datasets--{repo.replace('/', '--')}"


def path_of(file: HubFile, cache_dir: CacheDir = None) -> Path:
    """Where a file is once it is staged."""
    return home_of(file.repo, cache_dir) / "snapshots" / file.sha / file.name


def is_whole(file: HubFile, cache_dir: CacheDir = None) -> bool:
    """Whether a file is staged: blobs get their names when they are complete."""
    try:
        return path_of(file, cache_dir).stat().st_size == file.size_bytes
    except OSError:
        return False


def cached_commit(repo: str, revision: str, cache_dir: CacheDir = None) -> str | None:
    """Commit that a revision was when something was last staged of it; None if never."""
    if COMMIT.fullmatch(revision):
        return revision
    try:
        text = (home_of(repo, cache_dir) / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return text if COMMIT.fullmatch(text) else None


def write_listing(files: Iterable[HubFile], home: Path, sha: str) -> None:
    """Keep what a commit has, whole or not at all."""
    path = _listing_path(home, sha)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [[file.name, file.size_bytes, file.sha256, file.blob] for file in files]
    with written_whole(path) as part:
        part.write_text(json.dumps(rows), encoding="utf-8")


def has_listing(home: Path, sha: str) -> bool:
    """Whether it is known what the commit has, and not only what is here of it."""
    return _listing_path(home, sha).is_file()


def read_listing(repo: str, sha: str, cache_dir: CacheDir = None) -> tuple[HubFile, ...]:
    """List the files of a commit without asking the Hub.

    Where another tool downloaded the snapshot, what is there stands for the whole: that tool
    keeps no list.

    Raises
    ------
    DataError
        If the list that was kept cannot be read.
    """
    home = home_of(repo, cache_dir)
    try:
        rows = json.loads(_listing_path(home, sha).read_text(encoding="utf-8"))
        return tuple(
            HubFile(endpoint(), repo, sha, str(name), int(size), sha256, str(blob))
            for name, size, sha256, blob in rows
        )
    except FileNotFoundError:
        return _files_of_snapshot(repo, home, sha)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{_listing_path(home, sha)} is not readable ({error}). Remove it and fetch the set "
            "again; files that are there are not fetched twice."
        ) from error


def blob_of(path: str | os.PathLike[str]) -> str:
    """Digest of the content, by the name of the blob that a snapshot's file links to; else ''."""
    target = Path(os.path.realpath(path))
    is_blob = target.parent.name == "blobs" and os.path.islink(path)
    return target.name if is_blob and BLOB.fullmatch(target.name) else ""


def _listing_path(home: Path, sha: str) -> Path:
    return home / ".haag_vq" / f"{sha}.json"


def _files_of_snapshot(repo: str, home: Path, sha: str) -> tuple[HubFile, ...]:
    root = home / "snapshots" / sha
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        blob, name = blob_of(path), path.relative_to(root).as_posix()
        sha256 = blob if len(blob) == 64 else None
        found.append(HubFile(endpoint(), repo, sha, name, path.stat().st_size, sha256, blob))
    return tuple(found)
