"""dask-jobqueue's runner of one allocation, made private: who is what, how they find each other.

The first task makes the keys in a directory of a name that only the tasks of this step have, and
writes the connection file there, whole, once its scheduler listens. The others wait for that.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Scheduler
from distributed.core import Status, rpc
from distributed.security import Security

from haag_vq.cluster.keys import CONNECTION, is_private, read_connection, write_connection
from haag_vq.cluster.ranks import Rank
from haag_vq.cluster.slurm import jobqueue
from haag_vq.cluster.watch import Watch
from haag_vq.errors import ClusterError

_SLURMRunner: Any = jobqueue().slurm.SLURMRunner
Role: Any = jobqueue().runner.Role

POLL_SECONDS = 0.2
CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Lead:
    """What the scheduler's task has and the others have not."""

    security: Security
    paths: dict[str, str]
    """Files of the keys: ``ca``, ``cert``, ``key``."""
    interface: str | None
    """Network interface that the scheduler listens on; None: which the host's name means."""
    watch: Watch


class Runner(_SLURMRunner):  # type: ignore[misc, unused-ignore]
    """One task's part.

    To make one returns at once in the client, with the scheduler's address, and in workers; in the
    scheduler's task when the client has ended.

    Parameters
    ----------
    rank : Rank
    keys : Path
        Directory of the keys; made, with them in it, in the scheduler's task.
    seconds : float
        How long the others wait for the scheduler.
    lead : Lead, optional
        Of the scheduler's task.

    Raises
    ------
    ClusterError
        If the scheduler does not come in time, or the directory is open to others.
    """

    def __init__(
        self,
        rank: Rank,
        keys: Path,
        seconds: float,
        lead: Lead | None = None,
    ) -> None:
        self._rank, self._keys, self._seconds, self._lead = rank, keys, seconds, lead
        options: dict[str, Any] = {}
        if lead is not None:
            options = {
                "protocol": "tls://",
                "security": lead.security,
                "interface": lead.interface,
                "dashboard_address": "127.0.0.1:0",
                "dashboard": True,
            }
        super().__init__(scheduler_file=str(keys / CONNECTION), scheduler_options=options)

    async def _start(self) -> None:
        # The base class would end scheduler and workers by a signal to themselves, and run workers
        # in this program, of which their nannies would start the user's script again.
        self.role = await self.get_role()
        if self._lead is not None:
            await self.start_scheduler()
        else:
            self.scheduler_address = await self.get_scheduler_address()
        self.status = Status.running

    async def before_scheduler_start(self) -> None:
        """Let nobody but us write the connection file: Dask's would not be whole, nor private."""
        self.scheduler_options.pop("scheduler_file")

    async def on_scheduler_start(self, scheduler: Scheduler) -> None:
        """Tell the others where it is, and end it with the client."""
        if self._lead is not None:
            write_connection(self._keys, scheduler.address, self._lead.paths)
            self._watching = asyncio.create_task(self._lead.watch.run(scheduler))

    async def get_scheduler_address(self) -> str:
        """Wait for the scheduler; take its keys."""
        deadline = time.monotonic() + self._seconds
        while not self._is_there():
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"slurm-allocation, {self._rank}: the scheduler, task 0, did not come up "
                    f"within {self._seconds:.0f} s (death-timeout). What it wrote says why; all "
                    f"must see {self._keys.parent}, another is named by shared-temp-directory."
                )
            await asyncio.sleep(POLL_SECONDS)
        address, self.security = read_connection(self._keys / CONNECTION)
        # Read now: the scheduler may have ended, and removed them, before they are needed last.
        self._certificates = self.security.get_connection_args("client")
        return address

    def _is_there(self) -> bool:
        # To list a directory asks a network file system anew; that a name was not there, it
        # would remember for half a minute.
        with suppress(OSError):
            if self._keys.name in os.listdir(self._keys.parent):
                if not is_private(self._keys):
                    raise ClusterError(f"{self._keys} is open to others: its keys are not used.")
                return CONNECTION in os.listdir(self._keys)
        return False

    async def _close(self) -> None:
        """End the scheduler, and the workers with it; it may be gone already."""
        # The base class closes every runner in the end, that of the scheduler too.
        if self.status != Status.running or self.role != Role.client:
            return
        self.status = Status.closed
        scheduler = rpc(
            self.scheduler_address, timeout=CLOSE_SECONDS, connection_args=self._certificates
        )
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(scheduler.terminate(), CLOSE_SECONDS)
        await scheduler.close_rpc()
