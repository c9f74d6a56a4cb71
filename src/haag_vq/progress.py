"""One line of progress on standard error."""

from __future__ import annotations

import sys
import time
from typing import TextIO

WIDTH = 28


class ProgressLine:
    """A bar that redraws itself on a terminal, and a line every tenth of the way elsewhere.

    Parameters
    ----------
    what : str
        What is counted, plural.
    total : int
    stream : file, optional
        Standard error when it is not given.
    """

    def __init__(self, what: str, total: int, stream: TextIO | None = None) -> None:
        self._what = what
        self._total = max(1, total)
        self._stream = stream or sys.stderr
        self._started = time.monotonic()
        self._tenth = -1
        self._note = ""
        self._on_terminal = self._stream.isatty()

    def __call__(self, n_done: int, note: str = "") -> None:
        """Show that `n_done` of the total are done, and what there is to say of them."""
        tenth = 10 * n_done // self._total
        # At the end the note may still change: of the last bytes, their file is not done yet.
        is_news = tenth > self._tenth or (tenth >= 10 and note != self._note)
        if not self._on_terminal and not is_news:
            return
        self._note = note
        self._tenth = max(self._tenth, tenth)
        filled = WIDTH * n_done // self._total
        bar = "█" * filled + "·" * (WIDTH - filled)
        elapsed = time.monotonic() - self._started
        left = f", {elapsed * (self._total - n_done) / n_done:.0f} s left" if n_done else ""
        line = f"{bar} {n_done:,}/{self._total:,} {self._what}{note}, {elapsed:.0f} s{left}"
        self._stream.write(f"\r\x1b[K{line}" if self._on_terminal else line + "\n")
        self._stream.flush()

    def close(self) -> None:
        """End the line."""
        if self._on_terminal and self._tenth >= 0:
            self._stream.write("\n")
            self._stream.flush()
