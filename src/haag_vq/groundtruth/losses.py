"""How often the rows of a block were lost with their worker, and when that is once too often.

Dask counts any worker that dies against its task. Here causes are told apart: who was cancelled,
preempted, expired or lost its node says nothing of the rows. Rows over which a worker ran out of
memory will do so again, unless something else took the memory: they are tried once more.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from haag_vq.deaths import Cause, Death
from haag_vq.errors import ClusterError, InsufficientMemoryError
from haag_vq.groundtruth.attempts import Attempt, Loss, lose, losses_of, open_attempts
from haag_vq.groundtruth.intervals import Span
from haag_vq.memory import Projection, format_bytes

MOST_OUT_OF_MEMORY = 2

# As many as Dask allows: a crash in compiled code repeats itself.
MOST_UNEXPLAINED = 4


@dataclass
class Losses:
    """Counts the deaths of workers for the blocks that they searched.

    With a checkpoint the workers' own notes say which those were, and counts outlive the run.
    Without, it is what the scheduler had sent first, which is nearly always right.
    """

    spans: list[Span]
    """Rows of each block, by the number of its task."""
    projection: Projection
    directory: Path | None
    """Of the checkpoint."""
    named: Callable[[int, int], str]
    """Names rows and their file for a message."""
    _counts: dict[tuple[Span | str, str], int] = field(default_factory=dict)
    """Deaths by what was searched, and kind of cause."""

    def __call__(self, death: Death) -> None:
        """Take in a death.

        Raises
        ------
        InsufficientMemoryError
            If the same rows ran out of memory for the second time.
        ClusterError
            If they were lost four times, and nobody knows why.
        """
        for what, n_out_of_memory in self._noted(death):
            kind = death.cause.kind
            n = self._counts[what, kind] = self._counts.get((what, kind), 0) + 1
            if kind == "memory":
                self._out_of_memory(what, death, max(n, n_out_of_memory))
            elif kind == "unknown" and n >= MOST_UNEXPLAINED:
                raise ClusterError(
                    f"{self._words(what)} were lost with their worker {n} times, and nobody said "
                    f"why: the last time on {death.host}. A crash in compiled code looks like "
                    "this; see the workers' logs."
                )

    def _noted(self, death: Death) -> list[tuple[Span | str, int]]:
        """What the dead worker ran, and how often its files say that ran out of memory."""
        ran: list[tuple[Span | str, int]] = [
            (self.spans[task] if isinstance(task, int) else task, 0) for task in death.running
        ]
        if self.directory is None:
            return ran
        attempts = [a for a in open_attempts(self.directory) if a.worker == death.worker]
        noted: list[tuple[Span | str, int]] = []
        for attempt in attempts:
            lose(self.directory, _loss(attempt, death.cause))
            noted.append((attempt.span, self._on_disk(attempt.span, death.cause.limit_bytes)))
        # A merge leaves none, nor who dies before it has begun.
        return noted or ran

    def _on_disk(self, span: Span, limit_bytes: int) -> int:
        """Times that rows ran out of memory, of this run and of those before with as much."""
        found = losses_of(self.directory, span) if self.directory is not None else []
        return sum(loss.kind == "memory" and loss.limit_bytes >= limit_bytes for loss in found)

    def _out_of_memory(self, what: Span | str, death: Death, n: int) -> None:
        cause = death.cause
        had = (
            f"was seen with {format_bytes(cause.measured_bytes)}"
            if cause.measured_bytes
            else "died before anyone measured it"
        )
        limit = f", its limit was {format_bytes(cause.limit_bytes)}" * bool(cause.limit_bytes)
        told = (
            f"{self._words(what)} ran out of memory on {death.host}: the worker {had}{limit}, and "
            f"{cause.told}; {self.projection} had been projected."
        )
        if n < MOST_OUT_OF_MEMORY:
            warnings.warn(f"{told} They are tried once more.", stacklevel=2)
            return
        raise InsufficientMemoryError(
            f"{told} That was the {'second' if n == 2 else f'{n}th'} time, so the run stops. Give "
            "each worker more (memory: of a Slurm profile, memory_limit= of connect, fewer "
            "--workers), take a smaller --chunk-size (chunk_size=), or ask fewer queries at once."
        )

    def _words(self, what: Span | str) -> str:
        return f"task {what}" if isinstance(what, str) else self.named(*what)


def settle(directory: Path, cause_of: Callable[[str], Cause | None]) -> None:
    """Turn what earlier runs left open into losses. Only for who holds the directory alone.

    Parameters
    ----------
    cause_of : callable
        Tells how a Slurm job ended, by its number; None if that is not known.
    """
    for attempt in open_attempts(directory):
        cause = cause_of(attempt.job) if attempt.job else None
        lose(directory, _loss(attempt, cause or Cause("ended", "the run that it was of ended")))


def _loss(attempt: Attempt, cause: Cause) -> Loss:
    return Loss(attempt, cause.kind, cause.told, cause.measured_bytes, cause.limit_bytes)
