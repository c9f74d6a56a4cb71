"""Local workers that run out of memory or crash: told with the rows, and not for ever."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import dask
import numpy as np
import pytest

from haag_vq import connect, ground_truth
from haag_vq.cluster import Connection
from haag_vq.errors import ClusterError, InsufficientMemoryError
from haag_vq.sources import ArraySource
from tests.cluster.gated import GatedSource, readers
from tests.cluster.hungry import Hungry, meals
from tests.groundtruth import oracle
from tests.support.files import vectors
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
N, DIM, K = 800, 8, 5
CHUNK = 100 * DIM * 4
X, XQ = vectors(N, DIM), vectors(9, DIM, seed=5)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        with connect("local", jobs=2, memory_limit="800MB") as connection:
            yield connection


def check(truth: Any) -> None:
    keys, ids = oracle.neighbours(X, XQ, K, "l2")
    np.testing.assert_array_equal(truth.ids, ids)
    assert truth.distances.tobytes() == keys.tobytes()


def notes(directory: Path, kind: str) -> list[Path]:
    return sorted(directory.glob(f"{kind}-*.json"))


@pytest.mark.parametrize("kept", [True, False])
def test_the_same_rows_out_of_memory_twice_end_the_run(
    workers: Connection, tmp_path: Path, kept: bool
) -> None:
    hungry = Hungry(X, tmp_path, 250, 900_000_000, times=9)
    checkpoint = tmp_path / "kept" if kept else None
    with (
        pytest.warns(UserWarning, match=r"rows 200:300 ran out of memory.*tried once more"),
        pytest.raises(InsufficientMemoryError) as caught,
    ):
        ground_truth(hungry, XQ, k=K, chunk_size=CHUNK, checkpoint=checkpoint)
    told = str(caught.value)
    for words in (
        "rows 200:300 ran out of memory on 127.0.0.1",
        "its limit was 763 MiB",
        "Dask killed it",
        "block buffer",
        "second time",
        "--chunk-size",
    ):
        assert words in told
    assert len(meals(tmp_path)) <= 3
    if kept:
        lost = [json.loads(path.read_text()) for path in notes(tmp_path / "kept", "lost")]
        of_memory = [note for note in lost if note["kind"] == "memory"]
        spans = {(note["attempt"]["start"], note["attempt"]["stop"]) for note in of_memory}
        assert (len(of_memory), spans) == (2, {(200, 300)})
        assert all(note["measured_bytes"] > 700_000_000 for note in of_memory)
    # And the workers are as good as before.
    check(ground_truth(ArraySource(X), XQ, k=K, chunk_size=CHUNK, checkpoint=checkpoint))
    assert not kept or not notes(tmp_path / "kept", "*")


def test_once_out_of_memory_it_goes_on(workers: Connection, tmp_path: Path) -> None:
    hungry = Hungry(X, tmp_path, 250, 900_000_000, times=1, seconds=0.3)
    kept = tmp_path / "kept"
    with pytest.warns(UserWarning, match=r"rows 200:300 ran out of memory.*tried once more"):
        truth = ground_truth(hungry, XQ, k=K, chunk_size=CHUNK, checkpoint=kept)
    check(truth)
    assert len(meals(tmp_path)) == 1
    assert notes(kept, "*") == []


def test_a_worker_that_is_slow_to_come_back_is_waited_for(workers: Connection) -> None:
    """Dask would end its nanny, and it would never come."""
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "10ms"}):
        before = set(workers.client.run(os.getpid).values())
        os.kill(min(before), signal.SIGKILL)

        def both_are_there() -> bool:
            now = set(workers.client.run(os.getpid, on_error="ignore").values())
            return len(now) == 2 and min(before) not in now

        wait_until("both workers", both_are_there)


def test_rows_that_crash_four_times_end_the_run(workers: Connection, tmp_path: Path) -> None:
    gated = GatedSource(ArraySource(X[:100]), tmp_path)
    killed: set[int] = set()

    def kill_who_reads() -> None:
        for _ in range(4):
            pid = min(wait_until("one reads", lambda: readers(tmp_path) - killed))
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)

    killer = Thread(target=kill_who_reads)
    killer.start()
    with pytest.raises(ClusterError, match="rows 0:100 were lost with their worker 4 times"):
        ground_truth(gated, XQ, k=K)
    (tmp_path / "open").touch()
    killer.join()
    assert len(killed) == 4
