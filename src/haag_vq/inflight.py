"""How many requests to the Hub may be in flight: a run's total, and each process's part of it."""

from __future__ import annotations

import os

from haag_vq.errors import UsageError

# In a client of its own process: so many of this process and of the workers that it starts. In a
# worker, which is given it by who starts it: so many of the worker.
VARIABLE = "HAAG_VQ_HUB_REQUESTS"

# More requests at once get no more bytes to one process; from 32 workers on, the Hub was seen to
# answer 429 (huggingface/datasets issue 7506).
MOST_OF_PROCESS, MOST_OF_RUN = 8, 32


def of_this_process() -> int:
    """Requests that this process may have in flight."""
    return int(positive_number(VARIABLE, MOST_OF_PROCESS))


def of_each_worker(n_workers: int) -> int:
    """Divide the run's total among workers that this process starts: at least one each.

    Raises
    ------
    UsageError
        If the environment has no number for the total.
    """
    total = int(positive_number(VARIABLE, MOST_OF_RUN))
    return max(1, min(MOST_OF_PROCESS, total // max(1, n_workers)))


def positive_number(variable: str, default: float) -> float:
    """Read a number of at least 1 from the environment; UsageError if it is none."""
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value < float("inf"):
        raise UsageError(f"{variable}={text!r} must be a number of at least 1.")
    return value
