"""Files of a Hub repository, pinned to one commit."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from dataclasses import dataclass, field
from urllib.parse import quote

from haag_vq.sources.open import natural_key

DEFAULT_ENDPOINT = "https://huggingface.co"


def endpoint() -> str:
    """Address of the Hub: HF_ENDPOINT as it is now, without a slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids requests."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a dataset repository at one commit."""

    endpoint: str
    """Of the Hub it was found on; workers read it there whatever their own settings."""
    repo: str
    """organisation/name."""
    sha: str
    """Commit, 40 hexadecimal digits: what is read does not move with a branch."""
    name: str
    """Path inside the repository."""
    size_bytes: int
    sha256: str | None
    """Of the content; None for a small file that git itself holds."""
    blob: str
    """Name of its content in the Hub cache: the sha256, or git's own digest; '' if not known."""

    @property
    def url(self) -> str:
        """Where it is downloaded from."""
        return f"{self.endpoint}/datasets/{self.repo}/resolve/{self.sha}/{quote(self.name)}"

    @property
    def path(self) -> str:
        """What messages call it."""
        return f"hf://datasets/{self.repo}@{self.sha[:8]}/{self.name}"

    def fingerprint(self, layout: str) -> str:
        """Hex digest of the content's own digest and `layout`. Nothing is read.

        The same wherever the file is read from, and for every commit that has this content.
        """
        identity = self.blob or f"{self.repo}@{self.sha}/{self.name}"
        return hashlib.sha256(f"hub:{identity}:{layout}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Pin:
    """The commit that a revision was when a dataset was opened."""

    repo: str
    revision: str
    """What was asked for: a branch, a tag or a commit."""
    sha: str

    def __str__(self) -> str:
        return f"{self.repo}@{self.sha}"


@dataclass(frozen=True, slots=True)
class Repository:
    """The files of a repository at one commit that make up a dataset."""

    repo: str
    sha: str
    revision: str
    """What was asked for: a branch, a tag or a commit."""
    files: tuple[HubFile, ...]
    """In the order in which they are stacked."""
    listing: tuple[HubFile, ...] = field(default=(), repr=False)
    """All files of the commit: kept with what is staged, so that it can be opened offline."""
    from_cache: bool = False
    """Nothing was asked of the Hub: only what is in the cache can be had."""

    def matching(self, pattern: str) -> tuple[HubFile, ...]:
        """Files of the commit that match a pattern, in natural order."""
        found = (file for file in self.listing if fnmatch.fnmatchcase(file.name, pattern))
        return tuple(sorted(found, key=lambda file: natural_key(file.name)))
