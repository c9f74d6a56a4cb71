"""Reading Python literals, as NumPy's headers are, while other threads do the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

# Arbitrary: five were needed at most where threads disturbed one another on purpose (a test).
_ATTEMPTS = 100


def undisturbed(read: Callable[[], T]) -> T:
    """Return ``read()``, tried again where Python's parser was disturbed by another thread.

    CPython 3.11 counts the depth of all that its threads parse in one number, and finds it wrong
    where one thread took over from another in the middle (python/cpython#106905 tells of such).
    `read` begins anew at each call.
    """
    for _ in range(_ATTEMPTS - 1):
        with suppress(SystemError):
            return read()
    return read()
