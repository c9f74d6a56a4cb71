"""What a checkpoint is of: the question, and the rows that it was asked of so far."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.atomic import written_whole
from haag_vq.errors import DataError, UsageError

FORMAT = 1

_REMEDY = "Take another directory, or remove this one to begin anew."


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint is of."""

    metric: str
    k: int
    width: int
    """Length of the lists kept, at least k."""
    dim: int
    n_queries: int
    queries_sha256: str
    cuts: tuple[int, ...]
    """Ends of all prefixes asked so far, ascending: no interval is merged over one."""
    base_fingerprint: str
    """Of the rows up to the last of them."""
    dataset: str = ""
    query_source: str = ""
    rows_are_stored_rows: bool = True
    """Row numbers of the base are those of its files: none was left out before."""
    software: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    """Of the Hub, that the base was when the job began: organisation/name@commit."""

    @property
    def n_rows(self) -> int:
        """Rows of the largest base asked."""
        return self.cuts[-1]


def sha256_of(xq: NDArray[np.float32]) -> str:
    """Digest of float32 queries (nq, d), in C order: what tells them from others."""
    return hashlib.sha256(np.ascontiguousarray(xq).data).hexdigest()


def agreed(home: Path, known: Manifest, asked: Manifest) -> Manifest:
    """Return `known` with what `asked` adds: a larger base, more prefixes.

    Raises
    ------
    UsageError
        If `asked` is another question, each difference named. A smaller k is none.
    """
    names = ["metric", "dim", "n_queries", "queries_sha256"]
    if asked.n_rows == known.n_rows:
        names.append("base_fingerprint")
    wrong = [
        f"{name} was {getattr(known, name)}, {getattr(asked, name)} is asked"
        for name in names
        if getattr(known, name) != getattr(asked, name)
    ]
    if asked.width > known.width:
        wrong.append(f"k was {known.k}, {asked.k} is asked (a smaller one could be had)")
    if wrong:
        moved = moved_text(known.commit, asked.commit)
        raise UsageError(
            f"{home} is the checkpoint of another job: {'; '.join(wrong)}. {moved}{_REMEDY}"
        )
    cuts = tuple(sorted({*known.cuts, *asked.cuts}))
    whole = asked if asked.n_rows >= known.n_rows else known
    return replace(known, cuts=cuts, base_fingerprint=whole.base_fingerprint)


def moved_text(began: str, now: str) -> str:
    """Say, where a base of the Hub may differ because its revision moved, what would mend it."""
    if began == now or not began:
        return ""
    what = now or "a copy whose commit is not known"
    return (
        f"The job began with commit {began}, now it is given {what}: to go on, open the base as "
        f"it was, with --revision {began.rpartition('@')[2]} (revision=). "
    )


def read_manifest(home: Path) -> Manifest | None:
    """Read the manifest of a directory; None if there is none.

    Raises
    ------
    DataError
        If it cannot be read.
    UsageError
        If a later version of the program wrote it.
    """
    path = home / "manifest.json"
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = stored.pop("format")
        if version == FORMAT:
            return _checked(Manifest(**{**stored, "cuts": tuple(stored["cuts"])}))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not readable: {error}. {_REMEDY}") from error
    raise UsageError(
        f"{path} has format {version}, this version of haag_vq writes and reads {FORMAT}. Use "
        "the version that began the job, or another directory."
    )


def write_manifest(home: Path, manifest: Manifest) -> None:
    """Write the manifest of a directory, whole or not at all."""
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1) + "\n"
    with written_whole(home / "manifest.json") as path:
        path.write_text(text, encoding="utf-8")


def _checked(manifest: Manifest) -> Manifest:
    counts = (manifest.k, manifest.width, manifest.dim, manifest.n_queries, *manifest.cuts)
    if not manifest.cuts or not all(type(n) is int and n > 0 for n in counts):
        raise ValueError(f"k, width, dim, n_queries or cuts are no counts: {counts}")
    return manifest
