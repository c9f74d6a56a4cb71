"""Dask's housekeeping at a pace that leaves the cores to the search.

An idle scheduler, nanny and worker take 7.5% of a core together with Dask's own settings, and 2%
with these (measured); a statistical profile of tasks that spend their time in compiled code tells
nothing. And no worker holds a second block back while another has none: a block takes seconds.
With Dask's own setting two workers ended up to a block apart (10% of twelve blocks, measured).
"""

from __future__ import annotations

from typing import Any

import dask

# Dask counts each lost worker against the tasks that it had, and gives a task up at the fourth.
# Of what workers died, and what that says of the rows, the search itself finds out.
ALLOWED_LOSSES = 1000

_QUIET: dict[str, Any] = {
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
}


def quiet_settings() -> dict[str, Any]:
    """Return the settings, by name, without those that the user has set."""
    defaults = dask.config.merge(*dask.config.defaults)
    return {
        name: value
        for name, value in _QUIET.items()
        if dask.config.get(name, None) == dask.config.get(name, None, config=defaults)
    }


def scheduler_settings() -> dict[str, Any]:
    """Return the settings that a scheduler of ours is started with."""
    return {**quiet_settings(), "distributed.scheduler.allowed-failures": ALLOWED_LOSSES}
