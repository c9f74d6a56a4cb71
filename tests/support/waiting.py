"""Waiting for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

WAIT_SECONDS = 60


def wait_until(what: str, holds: Callable[[], Any]) -> Any:
    """Poll until something holds; a test that waits for ever says for what."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {WAIT_SECONDS} s in vain: {what}")
        time.sleep(0.05)
    return found
