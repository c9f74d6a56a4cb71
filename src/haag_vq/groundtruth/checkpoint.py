"""A directory that keeps what a job has finished: its question, and intervals of rows.

::

    manifest.json     the question, and what it was asked of (`manifest`)
    queries.npy       the queries, (nq, d) float32
    query_rows.npy    the rows of the base's files that they were, where that is known
    rows-A-B.part     the part of rows A:B (`intervals`)
    attempt-A-B-ID.json, lost-A-B-ID.json    who searches rows A:B, or died over them (`attempts`)
    lock              held while a run lives (`lock`)
    manifest.lock     held while the files above `rows-A-B.part` are looked at and written
"""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.atomic import written_whole
from haag_vq.errors import DataError, UsageError, WriteError
from haag_vq.groundtruth.attempts import note_paths
from haag_vq.groundtruth.cover import cover, needed, superseded
from haag_vq.groundtruth.intervals import Span, interval_path, list_intervals, read_interval
from haag_vq.groundtruth.lock import briefly_alone, locked
from haag_vq.groundtruth.manifest import (
    Manifest,
    agreed,
    moved_text,
    read_manifest,
    sha256_of,
    write_manifest,
)
from haag_vq.memory import format_bytes
from haag_vq.sources.npy import load_npy

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

# A temporary file this old is of a writer that was killed; a living one is done in seconds.
STALE_SECONDS = 600

# As `written_whole` names them, of what is written here.
_TEMPORARY = (
    ".rows-*.part",
    ".attempt-*.part",
    ".lost-*.part",
    ".manifest.json.*.part",
    ".queries.npy.*.part",
    ".query_rows.*.part",
)


class Checkpoint:
    """An open checkpoint; `open_checkpoint` makes one."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        commit: str = "",
        queries: tuple[F32, I64 | None] | None = None,
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self._commit = commit
        self._queries = queries

    def spans(self) -> list[Span]:
        """List the rows of the finished intervals, from the directory alone."""
        return list_intervals(self.directory)

    def verified(
        self, start: int, stop: int, fingerprint_of: Callable[[int, int], str]
    ) -> list[Span]:
        """List the sound intervals inside ``start:stop``; damaged ones are removed, with a warning.

        Others, as those of a larger base that was asked before, are neither read nor removed.

        Raises
        ------
        UsageError
            If an interval is of other rows than the base has there now.
        ReadError
            If one cannot be read.

        Notes
        -----
        Reads every one of them: memory of one part and its file. Where two tasks that share the
        directory meet one that is damaged, the second may remove what the first wrote anew;
        those rows are then missing, and searched once more.
        """
        sound = []
        for span in self.spans():
            if span[0] < start or span[1] > stop:
                continue
            found = read_interval(self.directory, span)
            if found is None or len(found[0].keys) != self.manifest.n_queries:
                path = interval_path(self.directory, span)
                path.unlink(missing_ok=True)
                warnings.warn(
                    f"{path} was damaged: it is removed, and its rows are searched again.",
                    stacklevel=2,
                )
                continue
            now = fingerprint_of(*span)
            if found[1] != now:
                moved = moved_text(self.manifest.commit, self._commit)
                raise UsageError(
                    f"{self.directory} holds rows {span[0]:,}:{span[1]:,} of another base: their "
                    f"fingerprint was {found[1]}, it is {now} now. {moved}Take another directory, "
                    "or remove this one to begin anew."
                )
            sound.append(span)
        return sound

    def accept(self) -> None:
        """Write down what is asked now (a larger base, other prefixes), once it is found right."""
        with briefly_alone(self.directory):
            known = read_manifest(self.directory)
            manifest = self.manifest
            if known is not None:
                manifest = agreed(self.directory, known, manifest)
            if manifest != known:
                write_manifest(self.directory, manifest)
            self.manifest = manifest
            if self._queries is not None:
                _keep_queries(self.directory, *self._queries)

    def tidy(self) -> None:
        """Remove intervals that no cut needs, notes of finished rows, and temporary files.

        Only for who holds the lock alone, while nobody searches.
        """
        spans = self.spans()
        furthest = max((stop for _, stop in spans), default=0)
        self._remove(set(spans) - needed(spans, {*self.manifest.cuts, furthest}))

    def tidy_meanwhile(self, pieces: Sequence[Span]) -> None:
        """Remove what was merged of pieces that are being searched, and the rest as `tidy` does."""
        self._remove(superseded(self.spans(), pieces))

    def _remove(self, spans: Iterable[Span]) -> None:
        for span in spans:
            interval_path(self.directory, span).unlink(missing_ok=True)
        kept = self.spans()
        # Rows that some cut lacks are not finished, though an interval over it may have them.
        lacking = [gap for cut in self.manifest.cuts for gap in cover(kept, 0, cut)[1]]
        for (start, stop), path in note_paths(self.directory):
            clipped = [(max(a, start), min(b, stop)) for a, b in kept]
            missing = [*lacking, *cover(clipped, start, stop)[1]]
            if not any(a < stop and start < b for a, b in missing):
                path.unlink(missing_ok=True)
        for path in (path for pattern in _TEMPORARY for path in self.directory.glob(pattern)):
            try:
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()
            except FileNotFoundError:  # its writer has just finished
                continue

    def check_space(self, needed_bytes: int) -> None:
        """Raise WriteError if the file system has not so much free."""
        check_space(self.directory, needed_bytes)


def check_space(directory: Path, needed_bytes: int) -> None:
    """Raise WriteError if a checkpoint's file system has not so much free."""
    free = shutil.disk_usage(directory).free
    if needed_bytes > free:
        raise WriteError(
            f"the checkpoint may need {format_bytes(needed_bytes)} in {directory}, its file "
            f"system has {format_bytes(free)} free. Free some, take a directory on another file "
            "system, or raise chunk_size (fewer intervals)."
        )


def checkpoint_path(directory: str | os.PathLike[str]) -> Path:
    """Return a checkpoint's absolute path, ``~`` expanded; UsageError for what names nothing."""
    words = os.fspath(directory) if isinstance(directory, str | os.PathLike) else None
    if not isinstance(words, str) or not words.strip():
        raise UsageError(f"checkpoint={directory!r} (--checkpoint) must name a directory.")
    return Path(words).expanduser().absolute()


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
    DataError
        If its manifest cannot be read.
    WriteError
        If it cannot be made.
    """
    home = checkpoint_path(directory)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(
            f"checkpoint {home} is a file, not a directory; name a directory, or one to be made."
        ) from None
    except OSError as error:
        raise WriteError(f"cannot make {home}: {error.strerror}.") from error
    with locked(home, exclusive) as is_alone:
        # Tasks that share the directory begin at once: one makes it, the others find it made.
        with briefly_alone(home):
            manifest = _entered(home, asked, xq, query_rows, is_alone)
        yield Checkpoint(home, manifest, asked.commit, (xq, query_rows))


@contextmanager
def reopen_checkpoint(directory: str | os.PathLike[str]) -> Iterator[Checkpoint]:
    """Enter a checkpoint that is there, alone, for whatever its question is.

    Raises
    ------
    UsageError
        If there is none, or it is in use.
    DataError
        If its manifest cannot be read.
    """
    home = checkpoint_path(directory)
    if not (home / "manifest.json").is_file():
        raise UsageError(
            f"{home} is no checkpoint: it has no manifest.json. `haag-vq ground-truth … "
            "--checkpoint DIR` makes one."
        )
    with locked(home, True):
        manifest = read_manifest(home)
        if manifest is None:
            raise UsageError(f"{home} lost its manifest.json.")
        yield Checkpoint(home, manifest)


def load_queries(checkpoint: Checkpoint) -> tuple[F32, I64 | None]:
    """Read the queries of a checkpoint, and their rows in the base's files where known."""
    try:
        xq: F32 = load_npy(checkpoint.directory / "queries.npy")
        path = checkpoint.directory / "query_rows.npy"
        rows: I64 | None = load_npy(path) if path.exists() else None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(_damaged_queries(checkpoint.directory)) from error
    if sha256_of(xq) != checkpoint.manifest.queries_sha256:
        raise DataError(_damaged_queries(checkpoint.directory))
    return xq, rows


def _damaged_queries(home: Path) -> str:
    return (
        f"{home}: its queries.npy or query_rows.npy is gone, damaged or not what the job began "
        f"with. `haag-vq ground-truth SOURCE … --checkpoint {home}` with the job's own queries "
        "writes it anew, and searches only what is missing."
    )


def _entered(
    home: Path, asked: Manifest, xq: F32, query_rows: I64 | None, is_alone: Callable[[], bool]
) -> Manifest:
    """Make the files of a new checkpoint, or agree with those that are there."""
    known = read_manifest(home)
    if known is not None:
        try:
            # Written when the intervals have been looked at (`accept`): a base that is refused
            # then must not have left its mark.
            return agreed(home, known, asked)
        except UsageError:
            # A job that ended before it had finished anything is nobody's loss.
            if list_intervals(home) or not is_alone():
                raise
    elif list_intervals(home):
        raise UsageError(
            f"{home} holds finished rows and no manifest.json: of which question they are cannot "
            "be told. Take another directory, or remove this one to begin anew."
        )
    check_space(home, xq.nbytes)
    _write_array(home / "queries.npy", xq)
    if query_rows is None:
        # Of a job that was killed before it had a manifest.
        (home / "query_rows.npy").unlink(missing_ok=True)
    else:
        _write_array(home / "query_rows.npy", query_rows)
    write_manifest(home, asked)
    return asked


def _keep_queries(home: Path, xq: F32, query_rows: I64 | None) -> None:
    """Write anew what is gone or damaged of a job's queries: a merge needs them."""
    for name, array in (("queries.npy", xq), ("query_rows.npy", query_rows)):
        if array is None:
            continue
        try:
            found = load_npy(home / name)
            if found.dtype == array.dtype and found.tobytes() == array.tobytes():
                continue
        except (OSError, ValueError, EOFError):
            pass
        _write_array(home / name, array)


def _write_array(path: Path, array: NDArray[Any]) -> None:
    with written_whole(path) as part, open(part, "wb") as file:
        np.save(file, array)
