"""A source whose reader takes much memory at one place, some number of times."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from haag_vq.memory import rss_bytes
from haag_vq.sources import ArraySource


class Hungry(ArraySource):
    """Rows of an array; who reads row `at` grows to `n_bytes`, the first `times` times.

    It must be importable by the workers: the tests put the project on their path.
    """

    def __init__(
        self,
        x: Any,
        directory: Path,
        at: int,
        n_bytes: int,
        times: int,
        first_row: int = 0,
        seconds: float = 0.0,
    ) -> None:
        super().__init__(x, first_row)
        self._x, self._first = x, first_row
        self._rest = (directory, at, n_bytes, times)
        self._seconds = seconds

    def narrow(self, start: int, stop: int) -> Hungry:
        first = self._first + start
        return Hungry(self._x[start:stop], *self._rest, first, self._seconds)

    def read_into(self, start: int, out: Any) -> None:
        time.sleep(self._seconds)
        directory, at, n_bytes, times = self._rest
        first = self._first + start
        if first <= at < first + len(out) and len(meals(directory)) < times:
            (directory / f"meal-{uuid.uuid4().hex}").touch()
            held = np.full(n_bytes - rss_bytes(), 1, np.uint8)
            time.sleep(30)
            raise AssertionError(f"process {os.getpid()} outlived {held.nbytes:,} bytes")
        super().read_into(start, out)


def meals(directory: Path) -> list[Path]:
    """One for each time that somebody took the memory."""
    return list(directory.glob("meal-*"))
