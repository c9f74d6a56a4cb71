"""What the scheduler of an allocation watches: that its client lives, which workers are lost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

# Of the client that the allocation is for; others may attach and leave.
CLIENT_NAME = "haag-vq-allocation"

# Topic of what the client tells the user.
TOPIC = "haag-vq-allocation"

PERIOD_SECONDS = 0.5

# A client whose connection broke may come again.
GRACE_SECONDS = 5.0

# What Slurm has told to end, it soon kills.
HURRY_SECONDS = 1.0

# A nanny has its worker back in a second or two.
LOST_SECONDS = 10.0


class Watch:
    """Looks at a scheduler.

    Parameters
    ----------
    n_workers : int
        Worker tasks of the allocation.
    seconds : float
        How long a client may take to come.
    """

    def __init__(self, n_workers: int, seconds: float) -> None:
        self.client_came = False
        self._n_workers = n_workers
        self._patience = seconds
        self._grace = GRACE_SECONDS
        self._client_seen = time.monotonic()
        self._workers_seen: dict[str, tuple[float, str]] = {}
        """When, and on which host, by name."""

    async def run(self, scheduler: Any) -> None:
        """Close the scheduler once it has no client, or should this fail."""
        try:
            while not self.look(scheduler, time.monotonic()):
                await asyncio.sleep(PERIOD_SECONDS)
        finally:
            await scheduler.close(reason="its client has ended")

    def hurry(self) -> None:
        """Wait no longer than it takes a client to say goodbye."""
        self._patience = self._grace = HURRY_SECONDS

    def look(self, scheduler: Any, now: float) -> bool:
        """Look once; returns whether the client has ended or will not come."""
        self._tell_lost(scheduler, now)
        if any(name.startswith(f"Client-{CLIENT_NAME}-") for name in scheduler.clients):
            self.client_came = True
            self._client_seen = now
            self._patience = self._grace
        return now - self._client_seen > self._patience

    def _tell_lost(self, scheduler: Any, now: float) -> None:
        """Tell, once, of each worker that is gone."""
        for worker in scheduler.workers.values():
            self._workers_seen[str(worker.name)] = now, str(worker.host)
        for name, (seen, host) in list(self._workers_seen.items()):
            if now - seen > LOST_SECONDS:
                del self._workers_seen[name]
                scheduler.log_event(
                    TOPIC,
                    f"worker {name}, on {host}, has been gone for {LOST_SECONDS:.0f} s. Nothing "
                    f"takes a lost task's place in an allocation: {len(scheduler.workers)} of "
                    f"{self._n_workers} workers go on.",
                )
