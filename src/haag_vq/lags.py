"""Which tasks take far longer than others of their group, found while they run.

A read from a file system that hangs does not end, and no error tells of it: the run would stand
still without a word. Nothing is done about it here: whoever is told can look at the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Blocks take seconds and are alike. Arbitrary.
LEAST_SECONDS = 60.0
TIMES_MEAN = 20.0
# Where there are no others yet.
FIRST_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Lag:
    """A task that is far from done when others were long ago."""

    task: int
    """Its number in the group."""
    pid: int
    host: str
    """Where it runs."""
    worker: str
    """Name of its Dask worker."""
    seconds: float
    """For which it has run, by the scheduler's clock."""
    mean_seconds: float
    """Which others took; 0 where none has ended."""


def lagging(scheduler: Any, group: str, n_done: int) -> list[Lag]:
    """Find, on the scheduler, tasks ``(group, i)`` that take too long, beside `n_done` others."""
    found = scheduler.task_groups.get(group)
    if found is None:
        return []
    mean = found.all_durations.get("compute", 0.0) / n_done if n_done else 0.0
    least = max(LEAST_SECONDS, TIMES_MEAN * mean) if n_done else FIRST_SECONDS
    lags = []
    for ws in scheduler.workers.values():
        # A process that stands still as a whole says nothing any more.
        silent = max(0.0, time.time() - ws.last_seen)
        for task, seconds in ws.executing.items():
            if task.group is found and task.processing_on is ws and seconds + silent >= least:
                who = int(ws.pid), str(ws.host), str(ws.name)
                lags.append(Lag(int(task.key[1]), *who, seconds + silent, mean))
    return lags


class Lags:
    """Tells of tasks that take too long: once, and each time that it is four times as long."""

    def __init__(self, told: Callable[[Lag], None]) -> None:
        self._told = told
        self._next: dict[tuple[int, int], float] = {}

    def look(self, now: list[Lag]) -> None:
        """Take in those that there are now."""
        for lag in now:
            who = (lag.task, lag.pid)
            if lag.seconds >= self._next.get(who, 0.0):
                self._next[who] = 4 * lag.seconds
                self._told(lag)
