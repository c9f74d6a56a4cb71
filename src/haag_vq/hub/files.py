"""Files of a Hub repository, pinned to one commit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import quote

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
    """Name of its content in the Hub cache: the sha256, or git's own digest."""

    @property
    def url(self) -> str:
        """Where it is downloaded from."""
        return f"{self.endpoint}/datasets/{self.repo}/resolve/{self.sha}/{quote(self.name)}"

    @property
    def path(self) -> str:
        """What messages call it."""
        return f"hf://datasets/{self.repo}@{self.sha[:8]}/{self.name}"


@dataclass(frozen=True, slots=True)
class Repository:
    """The files of a repository at one commit that make up a dataset."""

    repo: str
    sha: str
    revision: str
    """What was asked for: a branch, a tag or a commit."""
    files: tuple[HubFile, ...]
    """In the order in which they are stacked."""
