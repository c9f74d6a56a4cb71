"""A block that does not end is told of, with what to do about it; and that helps."""

from __future__ import annotations

import os
import re
import signal
import time
import warnings
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest

from haag_vq import ground_truth, lags
from haag_vq.cluster import Connection
from haag_vq.lags import Lag, Lags, lagging
from haag_vq.sources import ArraySource
from tests.cluster.gated import GatedSource, readers
from tests.cluster.test_deaths import CHUNK, XQ, K, X, check, workers

__all__ = ["workers"]


def test_a_block_that_hangs_is_told_and_another_worker_does_it(
    workers: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lags, "LEAST_SECONDS", 1.0)
    monkeypatch.setattr(lags, "TIMES_MEAN", 2.0)
    told: list[str] = []
    seen = Event()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        # A slow machine may make others late too.
        if str(message).startswith("rows 200:300"):
            told.append(str(message))
            seen.set()

    def do_as_told() -> None:
        seen.wait(60)
        pid = re.search(r"another worker do them: kill (\d+) there", told[0])
        assert pid is not None
        os.kill(int(pid[1]), signal.SIGTERM)
        (tmp_path / "open").touch()

    helper = Thread(target=do_as_told)
    helper.start()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        truth = ground_truth(
            GatedSource(ArraySource(X), tmp_path, row=250), XQ, k=K, chunk_size=CHUNK
        )
    helper.join()
    check(truth)
    assert re.match(r"rows 200:300 have been searched for \d+ s by process \d+ on 127", told[0])
    assert len(readers(tmp_path)) == 2


def test_it_is_told_again_when_it_is_four_times_as_long() -> None:
    told: list[float] = []
    found = Lags(lambda lag: told.append(lag.seconds))
    for seconds in (60.0, 61.0, 200.0, 241.0, 900.0, 970.0):
        found.look([Lag(3, 77, "node1", "w", seconds, 1.0)])
    assert told == [60.0, 241.0, 970.0]
    found.look([Lag(4, 77, "node1", "w", 60.0, 1.0), Lag(3, 78, "node2", "v", 60.0, 1.0)])
    assert told[3:] == [60.0, 60.0]


def a_scheduler(group: Any, tasks: dict[int, float], last_seen: float) -> Any:
    """One with a worker that runs tasks of a group for so many seconds, as it last said."""
    ws = SimpleNamespace(pid=77, host="node1", name="w", last_seen=last_seen)
    ws.executing = {Task(("blocks-1", i), group, ws): seconds for i, seconds in tasks.items()}
    return SimpleNamespace(task_groups={"blocks-1": group}, workers={"tcp://x": ws})


class Task:
    """A task, as the scheduler knows it."""

    def __init__(self, key: tuple[str, int], group: Any, worker: Any) -> None:
        self.key, self.group, self.processing_on = key, group, worker


@pytest.mark.parametrize(
    ("n_done", "others", "silent", "late"),
    [
        (10, 5.0, 0.0, [2]),  # 0.5 s each: a minute
        (10, 50.0, 0.0, []),  # 5 s each: 100 s
        (10, 50.0, 30.0, [2]),
        (0, 0.0, 0.0, []),  # nobody knows what is usual: ten minutes
        (0, 0.0, 600.0, [1, 2]),
    ],
)
def test_who_is_late(n_done: int, others: float, silent: float, late: list[int]) -> None:
    group = SimpleNamespace(all_durations={"compute": others})
    scheduler = a_scheduler(group, {1: 5.0, 2: 75.0}, time.time() - silent)
    found = lagging(scheduler, "blocks-1", n_done)
    assert [lag.task for lag in found] == late
    assert all(lag.seconds >= 75 + silent - 1 for lag in found if lag.task == 2)
    assert lagging(scheduler, "blocks-2", n_done) == []
