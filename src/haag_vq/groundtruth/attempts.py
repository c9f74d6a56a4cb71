"""Notes of who searches which rows now, and of who was lost over them: a small file each.

::

    attempt-A-B-ID.json    rows A:B are being searched; gone when that ends, well or not
    lost-A-B-ID.json       who searched them died; why, as far as that could be found out

A process writes and removes the files of its own attempts, and whoever drives the run turns those
of the dead into losses: no file has two writers, so that counts are right without locks. They are
not synced: an attempt is of use after the death of its process, and a node that takes unwritten
files with it was not out of memory.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from haag_vq.atomic import written_whole
from haag_vq.groundtruth.intervals import Span

_NAME = re.compile(r"(attempt|lost)-(\d{15})-(\d{15})-([0-9a-f]{12})\.json")


@dataclass(frozen=True, slots=True)
class Attempt:
    """Rows that somebody began to search."""

    start: int
    stop: int
    ident: str
    """Of this attempt: random."""
    host: str
    pid: int
    job: str
    """Number of the Slurm job; '' outside of one."""
    worker: str
    """Address of the Dask worker; '' outside of one."""
    began: float
    """Seconds since 1970."""
    projected_bytes: int
    """Of its worker, the process included."""

    @property
    def span(self) -> Span:
        """Its rows."""
        return self.start, self.stop


@dataclass(frozen=True, slots=True)
class Loss:
    """An attempt that ended with its process."""

    attempt: Attempt
    kind: str
    """``memory``, ``ended`` (by somebody, or a clock) or ``unknown``."""
    told: str
    measured_bytes: int = 0
    """0 where nobody looked."""
    limit_bytes: int = 0
    """0 where there is none, or it is not known."""


@contextmanager
def attempted(directory: str, span: Span, projected_bytes: int, worker: str) -> Iterator[None]:
    """Leave word, as long as this lasts, that `span` is being searched by this process.

    Raises
    ------
    WriteError
        If the note cannot be written: the part of the rows could not be either.
    """
    attempt = Attempt(
        *span,
        uuid.uuid4().hex[:12],
        socket.gethostname(),
        os.getpid(),
        os.environ.get("SLURM_JOB_ID", ""),
        worker,
        time.time(),
        projected_bytes,
    )
    path = _path(directory, "attempt", attempt)
    _write(path, asdict(attempt))
    try:
        yield
    finally:
        # That the directory is out of reach is told by what failed in it.
        with suppress(OSError):
            path.unlink()


def open_attempts(directory: str | os.PathLike[str]) -> list[Attempt]:
    """List the attempts that did not end; those whose process is dead look the same."""
    return [_attempt(told) for told in _read_all(directory, "attempt", None)]


def lose(directory: str | os.PathLike[str], loss: Loss) -> None:
    """Turn the note of an attempt into that of its loss.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    _write(_path(directory, "lost", loss.attempt), asdict(loss))
    _path(directory, "attempt", loss.attempt).unlink(missing_ok=True)


def losses_of(directory: str | os.PathLike[str], span: Span) -> list[Loss]:
    """List what was lost over exactly these rows, of this run and of those before it."""
    return [
        Loss(**{**told, "attempt": _attempt(told["attempt"])})
        for told in _read_all(directory, "lost", span)
    ]


def note_paths(directory: str | os.PathLike[str]) -> list[tuple[Span, Path]]:
    """List the files of all notes, with their rows."""
    names = (_NAME.fullmatch(name) for name in os.listdir(directory))
    return [((int(m[2]), int(m[3])), Path(directory) / m[0]) for m in names if m]


def _path(directory: str | os.PathLike[str], kind: str, attempt: Attempt) -> Path:
    name = f"{kind}-{attempt.start:015d}-{attempt.stop:015d}-{attempt.ident}.json"
    return Path(directory) / name


def _write(path: Path, told: dict[str, Any]) -> None:
    with written_whole(path, synced=False) as part:
        part.write_text(json.dumps(told))


def _read_all(
    directory: str | os.PathLike[str], kind: str, span: Span | None
) -> Iterator[dict[str, Any]]:
    for rows, path in sorted(note_paths(directory)):
        if path.name.startswith(kind) and span in (None, rows):
            # One that ends just now is gone; one that a full disk or a crash left empty says
            # nothing.
            with suppress(FileNotFoundError, ValueError):
                yield json.loads(path.read_text())


def _attempt(told: dict[str, Any]) -> Attempt:
    return Attempt(**{field.name: told[field.name] for field in fields(Attempt)})
