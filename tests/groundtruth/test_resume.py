"""Searching with a checkpoint: what is there is not read again, the answer has the same bits."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from haag_vq import GroundTruth, connect, ground_truth, merge_checkpoint, search_rows
from haag_vq.errors import DataError, UsageError
from haag_vq.groundtruth import ondisk, resume
from haag_vq.groundtruth.blocks import MERGE_WIDTH
from haag_vq.groundtruth.checkpoint import Checkpoint
from haag_vq.groundtruth.intervals import (
    interval_path,
    list_intervals,
    read_interval,
    write_interval,
)
from haag_vq.sources import ArraySource, ConcatSource, VectorSource
from tests.cluster.gated import GatedSource, readers
from tests.groundtruth import oracle
from tests.groundtruth.cases import METRICS, metrics, pair_of, rows_of
from tests.groundtruth.stored import made_part
from tests.support.counting import CountingSource
from tests.support.waiting import wait_until

F32 = NDArray[np.float32]
N, NQ, DIM, K = 2000, 9, 12, 7
CHUNK = 4 * DIM * 150


@pytest.fixture(autouse=True)
def _in_this_process() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


class Base:
    """A base of shards that can grow, and what has been read of it."""

    def __init__(self, home: Path, metric: str = "l2", kind: str = "duplicated") -> None:
        self.x, self.xq = pair_of(kind, N, NQ, DIM, 5, metric)  # type: ignore[arg-type]
        self.metric = metric
        self.log = home / "reads"

    def source(self, n_rows: int = N) -> CountingSource:
        shards = [ArraySource(self.x[a : a + 700]) for a in range(0, N, 700)]
        return CountingSource(ConcatSource(shards).narrow(0, n_rows), self.log)

    def reads(self) -> list[int]:
        """How often each row was read since this was last asked."""
        counted = self.source().times_read().tolist()
        self.log.unlink(missing_ok=True)
        return [*counted, *[0] * (N - len(counted))]

    def check(self, truth: GroundTruth, n_rows: int = N, k: int = K) -> None:
        keys, ids = oracle.neighbours(self.x[:n_rows], self.xq, k, self.metric)
        np.testing.assert_array_equal(truth.ids, ids)
        found = truth.distances if self.metric == "l2" else 0.0 - truth.distances
        assert found.tobytes() == keys.tobytes()

    def search(self, home: Path, n_rows: int = N, **options: Any) -> Any:
        options = {"k": K, "chunk_size": CHUNK, **options}
        return ground_truth(
            self.source(n_rows), self.xq, metric=self.metric, checkpoint=home, **options
        )


@pytest.mark.parametrize("metric", METRICS)
def test_a_second_run_reads_nothing(tmp_path: Path, metric: str) -> None:
    base = Base(tmp_path, metric)
    first = base.search(tmp_path / "run")
    assert base.reads() == [1] * N
    second = base.search(tmp_path / "run", chunk_size=4 * DIM * 33)
    assert base.reads() == [0] * N
    for truth in (first, second):
        base.check(truth)
    assert (first.run.n_reused_rows, second.run.n_reused_rows) == (0, N)
    assert second.run.n_partitions == 0


class Killed(BaseException):
    """Stands for whatever ends a process."""


def test_only_what_was_not_finished_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Base(tmp_path)
    read_into = CountingSource.read_into
    calls = 0

    def until_the_tenth(self: CountingSource, start: int, out: F32) -> None:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise Killed
        read_into(self, start, out)

    with monkeypatch.context() as patch:
        patch.setattr(CountingSource, "read_into", until_the_tenth)
        with pytest.raises(Killed):
            base.search(tmp_path / "run")
    done = base.reads()
    assert 0 < sum(done) < N
    finished = [0] * N
    for a, b in list_intervals(tmp_path / "run"):
        finished[a:b] = [1] * (b - a)
    # With other blocks, workers and threads than before.
    with dask.config.set(scheduler="threads", num_workers=2):
        truth = base.search(tmp_path / "run", chunk_size=4 * DIM * 64)
    assert base.reads() == [1 - there for there in finished]
    assert truth.run.n_reused_rows == sum(finished) > 0
    base.check(truth)


def test_growth_reads_what_is_new(tmp_path: Path) -> None:
    base = Base(tmp_path)
    base.check(base.search(tmp_path / "run", 800), 800)
    assert base.reads() == [1] * 800 + [0] * (N - 800)
    base.check(base.search(tmp_path / "run"))
    assert base.reads() == [0] * 800 + [1] * (N - 800)
    # And what was smaller is still there.
    base.check(base.search(tmp_path / "run", 800), 800)
    assert base.reads() == [0] * N


def test_a_smaller_k_reuses_a_larger(tmp_path: Path) -> None:
    base = Base(tmp_path)
    base.search(tmp_path / "run")
    base.reads()
    for k in (1, K - 1):
        base.check(base.search(tmp_path / "run", k=k), k=k)
    assert base.reads() == [0] * N
    with pytest.raises(UsageError, match=rf"k was {K}, {K + 1} is asked"):
        base.search(tmp_path / "run", k=K + 1)


@pytest.mark.parametrize("metric", METRICS)
def test_prefixes_come_from_one_pass_and_stay(tmp_path: Path, metric: str) -> None:
    base = Base(tmp_path, metric)
    ends = [300, N, 1501, 300]
    for _ in range(2):
        truths = base.search(tmp_path / "run", prefixes=[300, None, 1501, 300])
        for end, truth in zip(ends, truths, strict=True):
            base.check(truth, end)
    assert base.reads() == [1] * N
    # A cut that was not asked before costs its own rows.
    (truth,) = base.search(tmp_path / "run", prefixes=[1000])
    base.check(truth, 1000)
    assert base.reads() == [0] * 300 + [1] * 700 + [0] * (N - 1000)
    base.check(base.search(tmp_path / "run"))
    assert base.reads() == [0] * N


def test_rows_left_out_for_rows_behind_a_prefix_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nearest rows, which the checkpoint had first, are not in the prefix."""
    base = Base(tmp_path, kind="normal")
    order = np.argsort(oracle.distances(base.x, base.xq, "l2").min(axis=0))
    base.x[:] = base.x[order[::-1]]
    with monkeypatch.context() as patch:
        patch.setattr(resume, "compact", lambda *_: None)
        # As one process would do them, one after the other.
        patch.setattr("haag_vq.groundtruth.rows.Search", _same_job)
        for rows in ((1500, N), (0, 1500)):
            search_rows(
                base.source(), base.xq, K, rows=rows, checkpoint=tmp_path / "run", chunk_size=CHUNK
            )
    base.reads()
    with pytest.raises(UsageError, match=r"9 of 9 queries .*first 1,500 rows.*--prefixes 1500"):
        merge_checkpoint(tmp_path / "run", prefixes=[1500])
    truth = base.search(tmp_path / "run", 1500)
    base.check(truth, 1500)
    assert sum(base.reads()) > 0
    # Each row is scored twice at most: what was there already counts once.
    assert truth.tally is not None
    assert truth.tally.n_scored < 2 * 1500 * len(base.xq)
    # What was found is kept.
    base.check(base.search(tmp_path / "run", 1500), 1500)
    assert sum(base.reads()) == 0
    for truth in merge_checkpoint(tmp_path / "run", prefixes=[1500, None]):
        base.check(truth, truth.n_rows)
    base.check(base.search(tmp_path / "run"))


def test_an_interval_that_is_lost_while_a_prefix_is_proven_is_searched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Base(tmp_path, kind="normal")
    base.x[:] = base.x[np.argsort(oracle.distances(base.x, base.xq, "l2").min(axis=0))[::-1]]
    with monkeypatch.context() as patch:
        patch.setattr("haag_vq.groundtruth.rows.Search", _same_job)
        for rows in ((1500, N), (0, 700), (700, 1500)):
            search_rows(base.source(), base.xq, K, rows=rows, checkpoint=tmp_path / "run")
    read = read_interval
    monkeypatch.setattr(resume, "compact", lambda *_: None)
    monkeypatch.setattr(
        resume, "read_interval", lambda home, span: None if span == (0, 700) else read(home, span)
    )
    base.check(base.search(tmp_path / "run", 1500), 1500)


def _same_job(job: str, *rest: Any) -> Any:
    from haag_vq.groundtruth.tasks import Search

    return Search("one for all", *rest)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.integers(1, N - 1), max_size=6),
    st.randoms(use_true_random=False),
    metrics,
    st.integers(1, K),
)
def test_rows_searched_apart_merge_to_the_same_answer(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], order: Any, metric: str, k: int
) -> None:
    home = tmp_path_factory.mktemp("rows")
    base = Base(home, metric, "integers")
    bounds = [0, *sorted(set(cuts)), N]
    tasks = list(zip(bounds[:-1], bounds[1:], strict=True))
    order.shuffle(tasks)
    for rows in tasks:
        report = search_rows(
            base.source(),
            base.xq,
            K,
            metric,
            rows=rows,
            checkpoint=home / "run",
            chunk_size=4 * DIM * 401,
        )
        assert report.n_rows_searched == rows[1] - rows[0]
    assert base.reads() == [1] * N
    (truth,) = merge_checkpoint(home / "run", k)
    base.check(truth, k=k)
    assert truth.base_fingerprint == base.source().fingerprint


def test_missing_rows_are_named(tmp_path: Path) -> None:
    base = Base(tmp_path)
    for rows in ((0, 100), (250, 900)):
        search_rows(base.source(), base.xq, K, rows=rows, checkpoint=tmp_path / "run")
    with pytest.raises(
        UsageError, match=r"1,250 rows are missing in .*: 100:250, 900:2000.*--rows"
    ):
        merge_checkpoint(tmp_path / "run")
    (truth,) = merge_checkpoint(tmp_path / "run", prefixes=[100])
    base.check(truth, 100)


def test_a_damaged_interval_is_searched_again(tmp_path: Path) -> None:
    base = Base(tmp_path)
    base.search(tmp_path / "run", prefixes=[500, None])
    base.reads()
    path = interval_path(tmp_path / "run", (0, 500))
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="damaged"):
        base.check(base.search(tmp_path / "run"))
    assert base.reads() == [1] * 500 + [0] * (N - 500)


def test_another_base_is_refused(tmp_path: Path) -> None:
    base = Base(tmp_path)
    base.search(tmp_path / "run", 800)
    base.x[3] += 1
    with pytest.raises(UsageError, match=r"rows 0:800 of another base.*Take another directory"):
        base.search(tmp_path / "run")


def test_an_array_needs_an_identity(tmp_path: Path) -> None:
    base = Base(tmp_path)
    array = da.from_array(base.x, chunks=(300, DIM))
    with pytest.raises(UsageError, match="identity"):
        ground_truth(array, base.xq, K, checkpoint=tmp_path / "run")
    for _ in range(2):
        truth = ground_truth(array, base.xq, K, checkpoint=tmp_path / "run", identity="mine")
        base.check(truth)
    assert truth.run is not None
    assert truth.run.n_partitions == 0
    with pytest.raises(UsageError, match=r"base_fingerprint was mine.*, other"):
        ground_truth(array, base.xq, K, checkpoint=tmp_path / "run", identity="other")


def test_other_numbers_of_processes_go_on_from_one_another(tmp_path: Path) -> None:
    """A job of one process, then of three, with other blocks: each row is read once."""
    base = Base(tmp_path)
    for n_rows, n_workers, block_rows in ((900, 1, 150), (N, 3, 64)):
        with connect("local", jobs=n_workers):
            truth = base.search(tmp_path / "run", n_rows, chunk_size=4 * DIM * block_rows)
        base.check(truth, n_rows)
    # One for each job: what workers leave is merged up to the cut.
    assert list_intervals(tmp_path / "run") == [(0, 900), (900, N)]
    assert len({read.pid for read in base.source().reads()}) >= 2
    assert base.reads() == [1] * N


def test_what_was_merged_and_tidied_is_not_searched_again_for_a_lost_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask asks for the blocks below a lost merge again; their own files are gone by then."""
    base, gate = Base(tmp_path), tmp_path / "gate"
    gate.mkdir()
    monkeypatch.setattr(resume, "TIDY_SECONDS", 0.0)
    # Of four merges Dask begins with the third.
    start, stop = 2 * MERGE_WIDTH * 150, 3 * MERGE_WIDTH * 150
    before, merged, after = (ArraySource(x) for x in np.split(base.x, [start, stop]))
    shards = [GatedSource(before, gate), merged, GatedSource(after, gate)]
    source: VectorSource = CountingSource(ConcatSource(shards), base.log)
    found: list[Any] = []
    with connect("local", jobs=1):
        run = Thread(
            target=lambda: found.append(
                ground_truth(source, base.xq, K, checkpoint=tmp_path / "run", chunk_size=CHUNK)
            )
        )
        run.start()
        wait_until(
            "only the merged rows are there, others are read",
            lambda: readers(gate) and list_intervals(tmp_path / "run") == [(start, stop)],
        )
        (lost,) = readers(gate)
        os.kill(lost, signal.SIGKILL)
        wait_until("another reads", lambda: len(readers(gate)) == 2)
        (gate / "open").touch()
        run.join(60)
    base.check(found[0])
    assert base.reads()[start:stop] == [1] * (stop - start)


def test_two_workers_may_merge_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One was given up and went on: what it merged, and had tidied, the other does not miss."""
    home, spans, real = str(tmp_path), [(0, 5), (5, 10)], ondisk.read_all
    merge = ondisk.StoredMerge(home, (0, 10), 4, "tag", "tag/rows", piece=(0, 10))

    def written() -> None:
        for span in spans:
            write_interval(home, span, made_part(), "tag/rows")

    def merged_by_another(*given: Any) -> Any:
        monkeypatch.setattr(ondisk, "read_all", real)
        merge(spans)
        for span in spans:
            interval_path(home, span).unlink()
        return real(*given)

    written()
    monkeypatch.setattr(ondisk, "read_all", merged_by_another)
    assert merge(spans) == (0, 10)
    assert list_intervals(home) == [(0, 10)]
    interval_path(home, (0, 10)).unlink()
    with pytest.raises(DataError, match="is gone or damaged"):
        merge(spans)


def test_a_refused_base_leaves_no_mark(tmp_path: Path) -> None:
    base = Base(tmp_path)
    base.search(tmp_path / "run", 800)
    wrong = Base(tmp_path)
    wrong.x[3] += 1
    with pytest.raises(UsageError, match="another base"):
        wrong.search(tmp_path / "run")
    base.check(base.search(tmp_path / "run"))


@pytest.mark.parametrize("kind", ["normal", "mixture"])
def test_all_levels_of_merges_fit_the_projected_space(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most there ever is: nothing is tidied away."""
    x, xq = rows_of(kind, 4000, 8, 1), rows_of(kind, 50, 8, 2)
    projected: list[int] = []
    monkeypatch.setattr(Checkpoint, "check_space", lambda self, n: projected.append(n))
    monkeypatch.setattr(Checkpoint, "tidy", lambda self: None)
    with dask.config.set(scheduler="sync"):
        ground_truth(x, xq, 40, checkpoint=tmp_path, chunk_size=40 * 8 * 4)
    taken = sum(path.stat().st_size for path in tmp_path.glob("*.part"))
    assert len(list(tmp_path.glob("*.part"))) > 130
    assert taken <= projected[0] < 3 * taken
