"""From the name of a Hub dataset to its files, pinned to one commit."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from haag_vq.errors import DataError, ReadError, SourceNotFoundError, UsageError
from haag_vq.hub import cached
from haag_vq.hub.cached import CacheDir
from haag_vq.hub.files import HubFile, Pin, Repository, endpoint, is_offline
from haag_vq.hub.splits import CARD, names_of_split
from haag_vq.hub.transport import read_range, refuse_untrusted
from haag_vq.sources.open import has_vector_suffix

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_ADDRESS = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+))?")
# A card is a page of text; a larger file of that name is none.
_MOST_CARD_BYTES = 16 << 20


def parse_address(where: str) -> tuple[str, str | None, str | None] | None:
    """Split ``org/name`` or ``hf://datasets/org/name[@revision][/pattern]``.

    Returns
    -------
    (repository, revision, pattern) or None
        None if `where` has neither form, or is a path: one that exists, or ends as files of
        vectors do.

    Raises
    ------
    UsageError
        If it begins with ``hf://`` and has another form.
    """
    address = _ADDRESS.fullmatch(where)
    if address:
        repo, revision, pattern = address.groups()
        # A slash inside a revision (refs/convert/parquet) is written so.
        return repo, revision and revision.replace("%2F", "/"), pattern
    if where.startswith("hf://"):
        raise UsageError(
            f"{where!r} is no address of a dataset: write "
            "hf://datasets/organisation/name[@revision][/pattern]."
        )
    is_name = _NAME.fullmatch(where) and not has_vector_suffix(where)
    return (where, None, None) if is_name and not os.path.exists(where) else None


def resolve(
    repo: str,
    *,
    revision: str | None = None,
    config: str | None = None,
    split: str | None = None,
    patterns: Iterable[str] = (),
    cache_dir: CacheDir = None,
) -> Repository:
    """List a dataset's files at the commit that a revision is now.

    Offline, and where the Hub cannot be reached, it is the commit that the revision was when
    something of it was last staged; `Repository.from_cache` says so.

    Parameters
    ----------
    repo : str
        organisation/name.
    revision : str, optional
        Branch, tag or commit; ``main`` by default.
    config, split : str, optional
        As the repository's card or file names define them; needed where there are several,
        but ``train`` is taken for the split where there is one.
    patterns : iterable of str
        Files inside the repository, instead of config and split; the first that matches counts.
    cache_dir : path-like, optional
        Where files were staged.

    Returns
    -------
    Repository
        In natural order (by pattern) or the order of the split. Of the files only the card is
        read, for a split.

    Raises
    ------
    SourceNotFoundError
        If there is no such repository, revision or file, it is closed to us, or offline.
    UsageError
        If config or split is unknown or must be chosen; the choices are named.
    ReadError
        If the Hub cannot be reached.
    """
    asked, wanted = revision or "main", tuple(patterns)
    if is_offline():
        found = resolve_cached(
            repo, revision=asked, config=config, split=split, patterns=wanted, cache_dir=cache_dir
        )
        if found is None:
            raise SourceNotFoundError(
                f"{repo} at revision {asked} is not in {cached.hub_cache(cache_dir)}, and "
                "HF_HUB_OFFLINE forbids to look it up on the Hub. "
                f"{how_to_fetch(repo, asked, config, split, wanted)}"
            )
        return found
    try:
        listing = _listed(repo, asked)
    except ReadError as unreachable:
        found = resolve_cached(
            repo, revision=asked, config=config, split=split, patterns=wanted, cache_dir=cache_dir
        )
        if found is None:
            raise
        warnings.warn(
            f"{unreachable} What {asked} was when it was staged is used: commit {found.sha}.",
            stacklevel=2,
        )
        return found
    return _chosen(repo, asked, listing, config, split, wanted, cache_dir)


def resolve_cached(
    repo: str,
    *,
    revision: str = "main",
    config: str | None = None,
    split: str | None = None,
    patterns: Iterable[str] = (),
    cache_dir: CacheDir = None,
) -> Repository | None:
    """`resolve` by what is staged, asking the Hub for nothing; None where nothing is.

    Whether the files themselves are there is not looked at.
    """
    sha = cached.cached_commit(repo, revision, cache_dir)
    listing = cached.read_listing(repo, sha, cache_dir) if sha else ()
    if not listing:
        return None
    found = _chosen(repo, revision, listing, config, split, tuple(patterns), cache_dir)
    return replace(found, from_cache=True)


def moved_since(pin: Pin) -> str:
    """Say that a revision has moved since it was opened; '' if not, or if that cannot be told."""
    if is_offline() or pin.revision == pin.sha:
        return ""
    from huggingface_hub import HfApi, get_token

    try:
        with _explained(pin.repo, pin.revision):
            api = HfApi(endpoint=endpoint(), token=get_token() or False)
            now = str(api.dataset_info(pin.repo, revision=pin.revision).sha)
    except (ReadError, SourceNotFoundError):
        return ""
    if now == pin.sha:
        return ""
    return (
        f"{pin.revision} of {pin.repo} has moved to commit {now} since it was opened; this run "
        f"kept commit {pin.sha}."
    )


def how_to_fetch(
    repo: str, revision: str, config: str | None, split: str | None, patterns: Iterable[str]
) -> str:
    """Name the command that stages what is missing."""
    pattern = next(iter(patterns), None)
    source = f"'hf://datasets/{repo}/{pattern}'" if pattern else repo
    options = (("config", config), ("split", split), ("revision", revision))
    words = [f"--{name} {value}" for name, value in options if value and value != "main"]
    return (
        f"Where there is internet, fetch it first: {' '.join(['haag-vq fetch', source, *words])} "
        "(with the --cache-dir that is used here, if one is)."
    )


def _listed(repo: str, asked: str) -> tuple[HubFile, ...]:
    """Ask the Hub for the commit of a revision, and for its files."""
    from huggingface_hub import HfApi, get_token  # 0.3 s, for those who read from the Hub only

    base = endpoint()
    api = HfApi(endpoint=base, token=get_token() or False)
    with _explained(repo, asked):
        sha = str(api.dataset_info(repo, revision=asked).sha)
        items = list(api.list_repo_tree(repo, recursive=True, revision=sha, repo_type="dataset"))
    return tuple(_file(base, repo, sha, item) for item in items if hasattr(item, "size"))


def _chosen(
    repo: str,
    asked: str,
    listing: tuple[HubFile, ...],
    config: str | None,
    split: str | None,
    patterns: tuple[str, ...],
    cache_dir: CacheDir,
) -> Repository:
    """Pick the files that are meant from all of a commit."""
    files = {file.name: file for file in listing}
    sha = listing[0].sha if listing else ""
    whole = Repository(repo, sha, asked, listing, listing)
    if patterns:
        matches = (whole.matching(pattern) for pattern in patterns)
        chosen = next(filter(None, matches), ())
        if not chosen:
            raise SourceNotFoundError(
                f"{repo}@{sha[:8]} has no file that matches {' or '.join(patterns)}. "
                f"It has {len(files):,} files, as {', '.join(sorted(files)[:5])}."
            )
        return replace(whole, files=chosen)
    card = _read_card(files.get(CARD), cache_dir)
    names = names_of_split(repo, files, card, config, split)
    return replace(whole, files=tuple(files[name] for name in names))


def _read_card(card: HubFile | None, cache_dir: CacheDir) -> bytes | None:
    """Read a repository's card: staged, or on the Hub."""
    if card is None:
        return None
    if cached.is_whole(card, cache_dir):
        return cached.path_of(card, cache_dir).read_bytes()
    if card.size_bytes > _MOST_CARD_BYTES:
        raise DataError(
            f"{card.path} has {card.size_bytes:,} bytes, no card of a dataset has more than "
            f"{_MOST_CARD_BYTES:,}. Name the files: hf://datasets/{card.repo}/PATTERN."
        )
    text = bytearray(card.size_bytes)
    read_range(card, 0, memoryview(text))
    return bytes(text)


def _file(base: str, repo: str, sha: str, item: Any) -> HubFile:
    """Make a file of what the Hub lists; its names become paths of the cache."""
    sha256 = item.lfs.sha256 if item.lfs else None
    blob, parts = sha256 or item.blob_id, item.path.split("/")
    if "" in parts or ".." in parts or not cached.BLOB.fullmatch(blob):
        raise DataError(
            f"{base} lists a file {item.path!r} with digest {blob!r} in {repo}: no path or digest "
            "of a repository. Check HF_ENDPOINT."
        )
    return HubFile(base, repo, sha, item.path, int(item.size), sha256, blob)


@contextmanager
def _explained(repo: str, revision: str) -> Iterator[None]:
    """Turn the Hub client's errors into ours; its texts may run over pages."""
    import httpx2
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    tell: Callable[[str], SourceNotFoundError] = SourceNotFoundError
    try:
        yield
    except GatedRepoError:
        raise tell(
            f"{repo} is gated: ask for access on its page, datasets/{repo}, and set a token of "
            "that account (HF_TOKEN, or `hf auth login`)."
        ) from None
    except RepositoryNotFoundError:
        raise tell(_unknown(repo)) from None
    except RevisionNotFoundError:
        raise tell(f"{repo} has no revision {revision!r}; see its page, datasets/{repo}.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise tell(_unknown(repo)) from None
        raise ReadError(f"the Hub answers HTTP {status} for {repo}. Try again later.") from None
    except httpx2.TransportError as error:
        refuse_untrusted(error, endpoint())
        raise ReadError(
            f"{endpoint()} cannot be reached for {repo} ({type(error).__name__}). Check the "
            "network and HF_ENDPOINT; compute nodes often have no internet: use a login node."
        ) from None


def _unknown(repo: str) -> str:
    from huggingface_hub import get_token

    token = (
        "it is closed to the token that is set, or that token is no longer valid"
        if get_token()
        else "it is private"
    )
    return (
        f"there is no dataset {repo} on {endpoint()}, or {token}: check the name, or set a "
        "token that may see it (HF_TOKEN, or `hf auth login`). There is no local file of that "
        "name either."
    )
