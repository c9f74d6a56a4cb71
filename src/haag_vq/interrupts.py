"""Signals that end a run, also where the exception that they raise is lost.

Python raises it in whatever it runs at the moment. In a finalizer or the callback of a weak
reference nobody can catch it: it is printed at most, and the run would go on. So who waits for long
asks here as well.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_pending: BaseException | None = None


def end_in_order() -> None:
    """Let SIGTERM, which Slurm sends before it kills, end workers and files as Ctrl-C does.

    To be called in the main thread, elsewhere it does nothing. What is ignored stays so: nohup.
    """
    global _pending
    _pending = None
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    global _pending
    _pending = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
    raise _pending


def check() -> None:
    """Raise KeyboardInterrupt or SystemExit again if a signal has come that ends the run."""
    if _pending is not None:
        raise _pending
