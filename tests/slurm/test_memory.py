"""Slurm jobs that run out of memory or are cancelled over the same rows, again and again."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from numpy.testing import assert_array_equal

from haag_vq import connect, ground_truth
from haag_vq.errors import InsufficientMemoryError
from haag_vq.sources import ArraySource
from tests.cluster.gated import GatedSource, readers
from tests.cluster.hungry import Hungry, meals
from tests.groundtruth import oracle
from tests.slurm.conftest import Slurm, timed
from tests.support.files import vectors
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

N, DIM, K = 800, 8, 5
CHUNK = 100 * DIM * 4
X, XQ = vectors(N, DIM), vectors(9, DIM, seed=5)

# Dask kills a worker at 95% of what Slurm grants to the job; Slurm counts its nanny too.
TIGHT: dict[str, Any] = {"memory": "4GB", "job-mem": "900MiB"}
OVER = 837 << 20


def check(truth: Any) -> None:
    keys, ids = oracle.neighbours(X, XQ, K, "l2")
    assert_array_equal(truth.ids, ids)
    assert truth.distances.tobytes() == keys.tobytes()


def test_rows_over_the_jobs_memory_twice_end_the_run(slurm: Slurm, tmp_path: Path) -> None:
    hungry = Hungry(X, tmp_path, 250, OVER, times=9)
    with (
        connect(slurm.profile, jobs=1, **TIGHT),
        pytest.warns(UserWarning, match=r"rows 200:300 ran out of memory.*tried once more"),
        pytest.raises(InsufficientMemoryError) as caught,
        timed("over --mem twice, to the error"),
    ):
        ground_truth(hungry, XQ, k=K, chunk_size=CHUNK, checkpoint=tmp_path / "kept")
    told = str(caught.value)
    for words in ("rows 200:300", "its limit was 900 MiB", "(--mem)", "second time", "projected"):
        assert words in told
    lost = [json.loads(path.read_text()) for path in (tmp_path / "kept").glob("lost-*.json")]
    assert [note["kind"] for note in lost] == ["memory", "memory"]
    assert len({note["attempt"]["job"] for note in lost}) == 2
    # Dask gives the name of a lost job to the next one: whose end was told must not be mixed up.
    assert all(f"job {note['attempt']['job']} " in note["told"] for note in lost)
    assert all(note["measured_bytes"] > note["limit_bytes"] for note in lost)


def test_once_over_the_jobs_memory_it_goes_on(slurm: Slurm, tmp_path: Path) -> None:
    hungry = Hungry(X, tmp_path, 750, OVER, times=1)
    with (
        connect(slurm.profile, jobs=1, **TIGHT),
        pytest.warns(UserWarning, match=r"rows 700:800 ran out of memory.*tried once more"),
        timed("over --mem once, to the answer"),
    ):
        truth = ground_truth(hungry, XQ, k=K, chunk_size=CHUNK, checkpoint=tmp_path / "kept")
    check(truth)
    assert len(meals(tmp_path)) == 1
    assert list((tmp_path / "kept").glob("lost-*")) == []


@pytest.mark.parametrize("kept", [True, False])
def test_rows_whose_jobs_are_cancelled_go_on(slurm: Slurm, tmp_path: Path, kept: bool) -> None:
    """As often as would end the run, if nobody knew why."""
    gated = GatedSource(ArraySource(X[:100]), tmp_path)
    checkpoint = tmp_path / "kept" if kept else None
    found: list[Any] = []
    with connect(slurm.profile, jobs=1) as connection:
        run = Thread(
            target=lambda: found.append(ground_truth(gated, XQ, k=K, checkpoint=checkpoint))
        )
        run.start()
        seen: set[int] = set()

        def new_readers() -> set[int]:
            return readers(tmp_path) - seen

        for _ in range(4):
            seen |= wait_until("one reads", new_readers)
            slurm.run("scancel", *slurm.jobs())
        wait_until("one reads", new_readers)
        if kept:
            lost = list((tmp_path / "kept").glob("lost-*.json"))
            assert {json.loads(path.read_text())["kind"] for path in lost} == {"ended"}
            assert len(lost) >= 3
        (tmp_path / "open").touch()
        run.join(timeout=60)
        assert found, "it did not finish"
        assert connection.client.status == "running"
    keys, ids = oracle.neighbours(X[:100], XQ, K, "l2")
    assert_array_equal(found[0].ids, ids)
    assert found[0].distances.tobytes() == keys.tobytes()
