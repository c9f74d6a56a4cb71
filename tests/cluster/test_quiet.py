"""Dask's housekeeping: quiet where the user has said nothing."""

from __future__ import annotations

import dask
import distributed  # noqa: F401  (brings its defaults)

from haag_vq import connect
from haag_vq.cluster.quiet import quiet_settings


def test_what_the_user_has_set_is_left() -> None:
    usual = quiet_settings()
    assert usual["distributed.worker.profile.enabled"] is False
    with dask.config.set({"distributed.admin.tick.interval": "77ms"}):
        found = quiet_settings()
    assert found == {n: v for n, v in usual.items() if n != "distributed.admin.tick.interval"}


def test_workers_and_scheduler_are_quiet_and_the_caller_is_not() -> None:
    def seen() -> dict[str, object]:
        return {name: dask.config.get(name) for name in quiet_settings.__globals__["_QUIET"]}

    before = seen()
    with connect("local", jobs=1) as connection:
        assert seen() == before
        tick = connection.client.cluster.scheduler._tick_interval
        assert tick == 0.5
        assert connection.client.cluster.scheduler.WORKER_SATURATION == 1.0
        (there,) = connection.client.run(
            lambda: dask.config.get("distributed.worker.profile.enabled")
        ).values()
        assert there is False
