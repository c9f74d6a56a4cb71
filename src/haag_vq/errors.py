"""The package's exceptions. Each is also the builtin a caller would expect to catch.

All carry one finished message and nothing else, so they survive the pickling that
brings them home from a worker process.
"""

from __future__ import annotations

import operator
from typing import Any


class HaagVQError(Exception):
    """Base of every error that this package raises on purpose."""


class UsageError(HaagVQError, ValueError):
    """An argument is wrong in itself, whatever the data: the command line exits with 2."""


class DataError(HaagVQError, ValueError):
    """Stored data is malformed: truncated, ragged, null, not finite, of an unreadable type."""


class SourceNotFoundError(HaagVQError, FileNotFoundError):
    """No file, or no local copy of a catalogued dataset, is where it was looked for."""


class FileChangedError(HaagVQError, OSError):
    """A file is no longer the one whose header was read when the job was planned."""


class ReadError(HaagVQError, OSError):
    """The operating system could not read a file that is there."""


class InsufficientMemoryError(HaagVQError, MemoryError):
    """A task's bytes, projected or found, pass what the process that runs it may use."""


class WriteError(HaagVQError, OSError):
    """An output could not be written whole; nothing that looks whole was left."""


class CertificateError(HaagVQError, RuntimeError):
    """A proof of exactness failed: a broken invariant of ours or of the machine's arithmetic."""


class ClusterError(HaagVQError, RuntimeError):
    """Workers could not be started, reached, or kept."""


def whole_number(name: str, value: Any) -> int:
    """Return `value` as an int, NumPy's integers included; UsageError for anything else."""
    try:
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{name}={value!r} must be a whole number.") from None
