"""A source that waits inside a task until a test lets it go on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from haag_vq.sources.protocol import F32, I64, VectorSource


class GatedSource(VectorSource):
    """Wrap `source`; a read leaves a file named by its process and waits for the file ``open``.

    With a `row`, only reads of that row do; `first` is row 0 of this source, of the whole.
    It must be importable by the workers: the tests put the project on their path.
    """

    def __init__(
        self, source: VectorSource, directory: Path, row: int | None = None, first: int = 0
    ) -> None:
        self._source = source
        self._directory = directory
        self._row, self._first = row, first
        self.n_rows, self.dim = source.n_rows, source.dim
        self.dtype = np.dtype(np.float32)

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

    def read_into(self, start: int, out: F32) -> None:
        at = self._first + start
        if self._row is None or at <= self._row < at + len(out):
            self._wait()
        self._source.read_into(start, out)

    def _wait(self) -> None:
        (self._directory / f"reader-{os.getpid()}").touch()
        deadline = time.monotonic() + 60
        while not (self._directory / "open").exists():
            if time.monotonic() > deadline:
                raise TimeoutError("the test never opened the gate")
            time.sleep(0.01)

    def take_into(self, rows: I64, out: F32) -> None:
        raise AssertionError("only ranges are read here")

    def narrow(self, start: int, stop: int) -> GatedSource:
        source = self._source.narrow(start, stop)
        return GatedSource(source, self._directory, self._row, self._first + start)


def readers(directory: Path) -> set[int]:
    """Processes that have begun to read."""
    return {int(path.name.removeprefix("reader-")) for path in directory.glob("reader-*")}
