"""A source that keeps account of what is read through it, in whatever process."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from haag_vq.sources.protocol import F32, I64, VectorSource, check_read, check_take


@dataclass(frozen=True, slots=True)
class Read:
    """One call of `read_into` or `take_into`, in the numbering of the wrapped source."""

    start: int
    """First row of a range read; lowest row of a take; 0 for a take of nothing."""
    stop: int
    """One past the last row."""
    rows: tuple[int, ...] | None
    """The rows of a take; None for a range."""
    pid: int
    """The process that read."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Every row that was delivered, as often as it was."""
        return tuple(range(self.start, self.stop)) if self.rows is None else self.rows


class CountingSource(VectorSource):
    """Wrap `source`; every read appends one line to the file `log`.

    A file opened with O_APPEND, because reads happen in worker processes: each line is one
    write, so lines of several processes do not mix.
    """

    def __init__(self, source: VectorSource, log: Path, first_row: int = 0) -> None:
        self._source = source
        self._log = log
        self._first_row = first_row
        self.n_rows = source.n_rows
        self.dim = source.dim
        self.dtype = source.dtype

    @property
    def edges(self) -> I64:
        return self._source.edges

    @property
    def fingerprint(self) -> str:
        return self._source.fingerprint

    @property
    def scratch_bytes(self) -> int:
        return self._source.scratch_bytes

    @property
    def stored_bytes(self) -> int:
        return self._source.stored_bytes

    @property
    def files(self) -> tuple[str, ...]:
        return self._source.files

    def read_into(self, start: int, out: F32) -> None:
        check_read(self, start, out)
        first = self._first_row + start
        self._note(first, first + len(out), None)
        self._source.read_into(start, out)

    def take_into(self, rows: I64, out: F32) -> None:
        check_take(self, rows, out)
        numbers = [int(row) + self._first_row for row in rows]
        self._note(min(numbers, default=0), max(numbers, default=-1) + 1, numbers)
        self._source.take_into(rows, out)

    def narrow(self, start: int, stop: int) -> CountingSource:
        return CountingSource(self._source.narrow(start, stop), self._log, self._first_row + start)

    def stored_rows(self, rows: I64) -> I64:
        return self._source.stored_rows(rows)

    def reads(self) -> list[Read]:
        """All reads so far, through this source or one narrowed from it, in order of arrival."""
        if not self._log.exists():
            return []
        entries = (json.loads(line) for line in self._log.read_text().splitlines())
        return [
            Read(start, stop, None if rows is None else tuple(rows), pid)
            for start, stop, rows, pid in entries
        ]

    def times_read(self) -> I64:
        """How often each row of the wrapped source was delivered: (last row read + 1,) int64."""
        counts = Counter(number for read in self.reads() for number in read.numbers)
        return np.array([counts[row] for row in range(max(counts, default=-1) + 1)], np.int64)

    def _note(self, start: int, stop: int, rows: list[int] | None) -> None:
        line = json.dumps([start, stop, rows, os.getpid()]) + "\n"
        fd = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)
