"""From the name of a Hub dataset to its files, pinned to one commit."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from haag_vq.errors import DataError, ReadError, SourceNotFoundError, UsageError
from haag_vq.hub.files import HubFile, Repository, endpoint, is_offline
from haag_vq.sources.open import has_vector_suffix, natural_key

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_ADDRESS = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+))?")
_PINNED = re.compile(r"hf://datasets/[^@]+@[^/]+/(.+)")


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
) -> Repository:
    """List a dataset's files at the commit that a revision is now.

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

    Returns
    -------
    Repository
        In natural order (by pattern) or the order of the split. No data is read.

    Raises
    ------
    SourceNotFoundError
        If there is no such repository, revision or file, it is closed to us, or offline.
    UsageError
        If config or split is unknown or must be chosen; the choices are named.
    ReadError
        If the Hub cannot be reached.
    """
    if is_offline():
        raise SourceNotFoundError(
            f"{repo} must be looked up on the Hub, and HF_HUB_OFFLINE forbids it. Where there is "
            f"internet, fetch it first: hf download {repo} --repo-type dataset --local-dir DIR; "
            "then give the directory."
        )
    from huggingface_hub import HfApi, get_token  # 0.3 s, for those who read from the Hub only

    base, asked = endpoint(), revision or "main"
    api = HfApi(endpoint=base, token=get_token() or False)
    with _explained(repo, asked):
        sha = str(api.dataset_info(repo, revision=asked).sha)
        items = list(api.list_repo_tree(repo, recursive=True, revision=sha, repo_type="dataset"))
    files = {item.path: _file(base, repo, sha, item) for item in items if hasattr(item, "size")}
    wanted = tuple(patterns)
    if wanted:
        names = next((m for pattern in wanted if (m := _matches(files, pattern))), [])
        if not names:
            raise SourceNotFoundError(
                f"{repo}@{sha[:8]} has no file that matches {' or '.join(wanted)}. "
                f"It has {len(files):,} files, as {', '.join(sorted(files)[:5])}."
            )
    else:
        names = _names_of_split(repo, sha, config, split)
    return Repository(repo, sha, asked, tuple(files[name] for name in names))


def _matches(names: Iterable[str], pattern: str) -> list[str]:
    return sorted((n for n in names if fnmatch.fnmatchcase(n, pattern)), key=natural_key)


def _file(base: str, repo: str, sha: str, item: Any) -> HubFile:
    sha256 = item.lfs.sha256 if item.lfs else None
    return HubFile(base, repo, sha, item.path, int(item.size), sha256, sha256 or item.blob_id)


def _names_of_split(repo: str, sha: str, config: str | None, split: str | None) -> list[str]:
    """Ask `datasets` which files are a split. It runs no code of the repository's."""
    import datasets  # a second and 60 MiB (measured)
    from huggingface_hub import get_token

    with _explained(repo, sha):
        try:
            builder = datasets.load_dataset_builder(
                repo, config, revision=sha, token=get_token() or False
            )
        except ValueError as error:
            # Its text names the configs there are.
            raise UsageError(f"{repo}: {error} Choose one with config= (--config).") from None
    splits = {str(name): list(files) for name, files in (builder.config.data_files or {}).items()}
    if split is None:
        split = "train" if "train" in splits else next(iter(splits), "")
        if len(splits) != 1 and split != "train":
            raise UsageError(_choices(repo, "needs a split", splits))
    if split not in splits:
        raise UsageError(_choices(repo, f"has no split {split!r}", splits))
    found = [_PINNED.fullmatch(str(file)) for file in splits[split]]
    if not all(found):
        raise DataError(
            f"{repo}, split {split!r}, has files outside of the repository: {splits[split][:3]}. "
            "Only files of the repository itself are read."
        )
    return [match[1] for match in found if match]


def _choices(repo: str, problem: str, splits: Iterable[str]) -> str:
    listed = ", ".join(splits) or "none"
    return f"{repo} {problem}: there are {listed}. Choose one with split= (--split)."


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
        raise ReadError(
            f"{endpoint()} cannot be reached for {repo} ({type(error).__name__}). Check the "
            "network and HF_ENDPOINT; compute nodes often have no internet: use a login node."
        ) from None


def _unknown(repo: str) -> str:
    return (
        f"there is no dataset {repo} on {endpoint()}, or it is private: check the name, or set a "
        "token that may see it (HF_TOKEN, or `hf auth login`). There is no local file of that "
        "name either."
    )
