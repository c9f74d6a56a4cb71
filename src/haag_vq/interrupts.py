"""Signals that end a run, also where the exception that they raise is lost.

Python raises it in whatever it runs at the moment. In a finalizer or the callback of a weak
reference nobody can catch it: it is printed at most, and the run would go on. So who waits for long
asks here as well.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_pending: BaseException | None = None


@contextmanager
def end_in_order() -> Iterator[None]:
    """Let SIGTERM, which Slurm sends before it kills, end workers and files as Ctrl-C does.

    In the main thread; elsewhere it does nothing. What is ignored stays so: nohup. On the way out
    signals do again what they did.
    """
    global _pending
    _pending = None
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _pending = None


def _end(number: int, frame: FrameType | None) -> None:
    global _pending
    _pending = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
    raise _pending


def check() -> None:
    """Raise KeyboardInterrupt or SystemExit again if a signal has come that ends the run."""
    if _pending is not None:
        raise _pending
