"""A directory that keeps what a job has finished: its question, and intervals of rows.

::

    manifest.json     the question: metric, k, length of lists, queries, and what it was asked of
    queries.npy       the queries, (nq, d) float32
    query_rows.npy    the rows of the base's files that they were, where that is known
    rows-A-B.part     the part of rows A:B (`intervals`)
    lock              held while a run lives (`lock`)
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.atomic import written_whole
from haag_vq.errors import DataError, UsageError, WriteError
from haag_vq.groundtruth.cover import covered
from haag_vq.groundtruth.intervals import Span, interval_path, list_intervals, read_interval
from haag_vq.groundtruth.lock import locked
from haag_vq.memory import format_bytes

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

FORMAT = 1

# A temporary file this old is of a writer that was killed; a living one is done in seconds.
STALE_SECONDS = 600


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

    @property
    def n_rows(self) -> int:
        """Rows of the largest base asked."""
        return self.cuts[-1]


class Checkpoint:
    """An open checkpoint; `open_checkpoint` makes one."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest

    def spans(self) -> list[Span]:
        """List the rows of the finished intervals, from the directory alone."""
        return list_intervals(self.directory)

    def verified(
        self, start: int, stop: int, fingerprint_of: Callable[[int, int], str]
    ) -> list[Span]:
        """List the sound intervals inside ``start:stop``; damaged ones are removed.

        Raises
        ------
        UsageError
            If an interval is of other rows than the base has there now.
        """
        sound = []
        for span in self.spans():
            if span[0] < start or span[1] > stop:
                continue
            found = read_interval(self.directory, span)
            if found is None or found[0].keys.shape[0] != self.manifest.n_queries:
                interval_path(self.directory, span).unlink(missing_ok=True)
                continue
            now = fingerprint_of(*span)
            if found[1] != now:
                raise UsageError(
                    f"{self.directory} holds rows {span[0]:,}:{span[1]:,} of another base: their "
                    f"fingerprint was {found[1]}, it is {now} now. Take another directory, or "
                    "remove this one to begin anew."
                )
            sound.append(span)
        return sound

    def tidy(self) -> None:
        """Remove intervals that lie inside others, and what killed writers have left.

        Only for who holds the lock alone.
        """
        for span in covered(self.spans(), self.manifest.cuts):
            interval_path(self.directory, span).unlink(missing_ok=True)
        for path in self.directory.glob(".rows-*.part"):
            try:
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()
            except FileNotFoundError:  # its writer has just finished
                continue

    def check_space(self, needed_bytes: int) -> None:
        """Raise WriteError if the file system has not so much free."""
        free = shutil.disk_usage(self.directory).free
        if needed_bytes > free:
            raise WriteError(
                f"the checkpoint may need {format_bytes(needed_bytes)} in {self.directory}, its "
                f"file system has {format_bytes(free)} free. Free some, take a directory on "
                "another file system, or raise chunk_size (fewer intervals)."
            )


@contextmanager
def open_checkpoint(
    directory: str | os.PathLike[str],
    asked: Manifest,
    xq: F32,
    query_rows: I64 | None,
    *,
    exclusive: bool,
) -> Iterator[Checkpoint]:
    """Make or enter a checkpoint for a question.

    Parameters
    ----------
    exclusive : bool
        Hold it alone (a run, a merge) or beside others (tasks of some rows each).

    Raises
    ------
    UsageError
        If it is of another question, each difference named, or in use.
    WriteError
        If it cannot be made.
    """
    home = Path(directory).absolute()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot make {home}: {error.strerror}.") from error
    with locked(home, exclusive):
        known = _read_manifest(home)
        manifest = asked if known is None else _agreed(home, known, asked)
        if known is None:
            _write_array(home / "queries.npy", xq)
            if query_rows is not None:
                _write_array(home / "query_rows.npy", query_rows)
        if manifest != known:
            _write_manifest(home, manifest)
        yield Checkpoint(home, manifest)


@contextmanager
def reopen_checkpoint(directory: str | os.PathLike[str]) -> Iterator[Checkpoint]:
    """Enter a checkpoint that is there, alone, for whatever its question is.

    Raises
    ------
    UsageError
        If there is none, or it is in use.
    """
    home = Path(directory).absolute()
    if not (home / "manifest.json").is_file():
        raise UsageError(
            f"{home} is no checkpoint: it has no manifest.json. `haag-vq ground-truth … "
            "--checkpoint DIR` makes one."
        )
    with locked(home, True):
        manifest = _read_manifest(home)
        if manifest is None:
            raise UsageError(f"{home} lost its manifest.json.")
        yield Checkpoint(home, manifest)


def load_queries(checkpoint: Checkpoint) -> tuple[F32, I64 | None]:
    """Read the queries of a checkpoint, and their rows in the base's files where known."""
    try:
        xq: F32 = np.load(checkpoint.directory / "queries.npy", allow_pickle=False)
        path = checkpoint.directory / "query_rows.npy"
        rows: I64 | None = np.load(path, allow_pickle=False) if path.exists() else None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{checkpoint.directory}: its queries are not readable: {error}") from error
    return xq, rows


def _agreed(home: Path, known: Manifest, asked: Manifest) -> Manifest:
    """Refuse another question; take in a larger base."""
    names = ("metric", "dim", "n_queries", "queries_sha256")
    wrong = [
        f"{name} was {getattr(known, name)}, {getattr(asked, name)} is asked"
        for name in names
        if getattr(known, name) != getattr(asked, name)
    ]
    if asked.width > known.width:
        wrong.append(f"k was {known.k}, {asked.k} is asked (a smaller one could be had)")
    if wrong:
        raise UsageError(
            f"{home} is the checkpoint of another job: {'; '.join(wrong)}. Take another "
            "directory, or remove this one to begin anew."
        )
    cuts = tuple(sorted({*known.cuts, *asked.cuts}))
    whole = asked if asked.n_rows >= known.n_rows else known
    return replace(known, cuts=cuts, base_fingerprint=whole.base_fingerprint)


def _read_manifest(home: Path) -> Manifest | None:
    path = home / "manifest.json"
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        version = stored.pop("format")
        if version == FORMAT:
            return Manifest(**{**stored, "cuts": tuple(stored["cuts"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not readable: {error}. Take another directory, or remove this one to "
            "begin anew."
        ) from error
    raise UsageError(
        f"{path} has format {version}, this version of haag_vq writes and reads {FORMAT}. Use "
        "the version that began the job, or another directory."
    )


def _write_manifest(home: Path, manifest: Manifest) -> None:
    with written_whole(home / "manifest.json") as path:
        path.write_text(json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1) + "\n")


def _write_array(path: Path, array: NDArray[Any]) -> None:
    with written_whole(path) as part, open(part, "wb") as file:
        np.save(file, array)
