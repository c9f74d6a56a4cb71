"""The whole search under every scheduler: the same bits, each row read once, or a refusal."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from haag_vq import workers as workers_module
from haag_vq.errors import CertificateError, DataError, InsufficientMemoryError, UsageError
from haag_vq.groundtruth import GroundTruth, ground_truth
from haag_vq.groundtruth import graph as graph_module
from haag_vq.groundtruth import runner as runner_module
from haag_vq.groundtruth.blocks import (
    DEFAULT_BLOCK_BYTES,
    LEAST_BLOCK_BYTES,
    SearchShape,
    plan_blocks,
)
from haag_vq.groundtruth.graph import EMBED_BYTES, Branch, Leaf, SpilledQueries
from haag_vq.groundtruth.part import Part, combine
from haag_vq.groundtruth.runner import InMemory
from haag_vq.groundtruth.tasks import BlockTask, Search
from haag_vq.memory import PROCESS_BYTES, Allowance, format_bytes
from haag_vq.sources import ArraySource, ConcatSource, Metric, SyntheticSource, VectorSource
from haag_vq.sources.protocol import F32, I64
from tests.groundtruth import oracle
from tests.groundtruth.cases import METRICS, kinds, metrics, pair_of, seeds
from tests.support.counting import CountingSource

# The most that a task may carry.
TASK_BYTES = 16 << 10


class Unreadable(VectorSource):
    """Has a shape; any read is a failure of the test."""

    def __init__(self, n_rows: int, dim: int) -> None:
        self.n_rows, self.dim, self.dtype = n_rows, dim, np.dtype(np.float32)

    @property
    def edges(self) -> I64:
        return np.array([0, self.n_rows], dtype=np.int64)

    fingerprint = "unreadable"
    scratch_bytes = 0
    stored_bytes = 0

    def read_into(self, start: int, out: F32) -> None:
        raise AssertionError("a row was read")

    def take_into(self, rows: I64, out: F32) -> None:
        raise AssertionError("a row was taken")

    def narrow(self, start: int, stop: int) -> Unreadable:
        return Unreadable(stop - start, self.dim)


def assert_is_truth(truth: GroundTruth, x: Any, xq: Any, k: int, metric: str) -> None:
    keys, ids = oracle.neighbours(x, xq, k, metric)
    assert_array_equal(truth.ids, ids)
    expected = keys if metric == "l2" else 0.0 - keys
    assert truth.distances.tobytes() == expected.tobytes()
    assert truth.ids.dtype == np.int64
    assert (truth.n_rows, truth.dim, truth.k, truth.metric) == (len(x), x.shape[1], k, metric)


def sync(base: Any, queries: Any, k: int, metric: str = "l2", **options: Any) -> Any:
    with dask.config.set(scheduler="sync"):
        return ground_truth(base, queries, k, metric, **options)


# --- the answer does not depend on how it was computed ---------------------------------------


@given(kinds, st.integers(1, 150), st.integers(1, 6), st.integers(1, 20), seeds, metrics, st.data())
@settings(deadline=None, max_examples=60)
def test_any_chunk_size_gives_the_bits_of_brute_force(
    kind: str, n: int, nq: int, d: int, seed: int, metric: Metric, data: st.DataObject
) -> None:
    x, xq = pair_of(kind, n, nq, d, seed, metric)
    k = data.draw(st.integers(1, n))
    rows = data.draw(st.integers(1, n))
    truth = sync(x, xq, k, metric, chunk_size=rows * d * 4)
    assert_is_truth(truth, x, xq, k, metric)
    assert truth.run is not None
    assert truth.run.n_partitions == -(-n // rows)


@given(st.integers(1, 150), seeds, metrics, st.data())
@settings(deadline=None, max_examples=40)
def test_any_blocks_of_a_dask_array_give_the_bits_of_brute_force(
    n: int, seed: int, metric: Metric, data: st.DataObject
) -> None:
    x, xq = pair_of("moderate mixture", n, 4, 12, seed, metric)
    k = data.draw(st.integers(1, n))
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, n), max_size=9))), n]
    array = da.from_array(x, chunks=(tuple(np.diff(cuts).tolist()), 12))
    assert_is_truth(sync(array, xq, k, metric), x, xq, k, metric)


@pytest.mark.parametrize("rows", [1, 7, 60, 1000])
def test_one_row_a_block_to_everything_in_one(rows: int) -> None:
    x, xq = pair_of("duplicated", 300, 9, 8, 1, "l2")
    for metric in METRICS:
        truth = sync(x, xq, 25, metric, chunk_size=rows * 32)
        assert_is_truth(truth, x, xq, 25, metric)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@pytest.mark.parametrize("metric", METRICS)
def test_local_schedulers(scheduler: str, metric: Metric) -> None:
    x, xq = pair_of("duplicated", 900, 20, 16, 2, metric)
    with dask.config.set(scheduler=scheduler):
        truth = ground_truth(x, xq, 30, metric, chunk_size=100 * 64)
        assert_is_truth(truth, x, xq, 30, metric)
        array = da.from_array(x, chunks=(77, 16))
        assert_is_truth(ground_truth(array, xq, 30, metric), x, xq, 30, metric)


def test_the_process_scheduler(tmp_path: Path) -> None:
    x, xq = pair_of("duplicated", 300, 5, 8, 2, "l2")
    source = CountingSource(ArraySource(x), tmp_path / "reads")
    with dask.config.set(scheduler="processes", num_workers=2):
        truth = ground_truth(source, xq, 30, chunk_size=100 * 32)
    assert_is_truth(truth, x, xq, 30, "l2")
    assert len(source.reads()) == 3


# As in a published trial, in which FAISS's own answer for parts of this set changed with the
# parts for 537 of 600 queries.
def duplicates_trial() -> tuple[F32, F32]:
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((100, 256), dtype=np.float32), 40, axis=0)
    return x[rng.permutation(len(x))], rng.standard_normal((600, 256), dtype=np.float32)


@pytest.mark.parametrize("metric", METRICS)
def test_duplicates_do_not_change_with_the_partition(metric: Metric) -> None:
    x, xq = duplicates_trial()
    keys, ids = oracle.neighbours(x, xq[::10], 20, metric)
    rng = np.random.default_rng(1)
    first: GroundTruth | None = None
    for i in range(4):
        cuts = [0, *np.sort(rng.integers(0, len(x), i * i)).tolist(), len(x)]
        array = da.from_array(x, chunks=(tuple(np.diff(cuts).tolist()), 256))
        truth = sync(array, xq, 20, metric)
        assert_array_equal(truth.ids[::10], ids)
        assert_array_equal(np.abs(truth.distances[::10]), np.abs(keys))
        first = first or truth
        assert_array_equal(truth.ids, first.ids)
        assert truth.distances.tobytes() == first.distances.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_duplicates_do_not_change_with_twelve_partitions(metric: Metric) -> None:
    x, xq = duplicates_trial()
    keys, ids = oracle.neighbours(x, xq, 20, metric)
    rng = np.random.default_rng(2)
    for _ in range(12):
        cuts = [0, *np.sort(rng.integers(0, len(x), rng.integers(1, 40))).tolist(), len(x)]
        array = da.from_array(x, chunks=(tuple(np.diff(cuts).tolist()), 256))
        truth = sync(array, xq, 20, metric)
        assert_array_equal(truth.ids, ids)
        assert_array_equal(truth.distances, keys if metric == "l2" else -keys)


# --- what is searched, and with what ---------------------------------------------------------


@pytest.mark.parametrize("nq", [1, 50, 2000])
def test_each_row_is_read_once_whatever_the_number_of_queries(nq: int, tmp_path: Path) -> None:
    x, xq = pair_of("normal", 500, nq, 8, 3, "l2")
    source = CountingSource(ArraySource(x), tmp_path / "reads")
    sync(source, xq, 5, chunk_size=64 * 32)
    assert source.times_read().tolist() == [1] * 500
    assert sorted((read.start, read.stop) for read in source.reads()) == [
        (a, min(a + 64, 500)) for a in range(0, 500, 64)
    ]


@pytest.mark.parametrize("prefixes", [[None], [100, None], [130, 7, 400, 130, None], [250]])
def test_each_row_is_read_once_whatever_the_prefixes(
    prefixes: list[int | None], tmp_path: Path
) -> None:
    """And none after the last that is asked for."""
    x, xq = pair_of("duplicated", 500, 9, 8, 3, "l2")
    source = CountingSource(ArraySource(x), tmp_path / "reads")
    sync(source, xq, 5, prefixes=prefixes, chunk_size=64 * 32)
    most = max(500 if p is None else p for p in prefixes)
    assert source.times_read().tolist() == [1] * most


# --- prefixes, and queries that are rows ------------------------------------------------------


def assert_prefixes_are_their_own_searches(
    truths: list[GroundTruth], x: F32, xq: F32, k: int, metric: Metric, prefixes: list[int | None]
) -> None:
    assert len(truths) == len(prefixes)
    for truth, prefix in zip(truths, prefixes, strict=True):
        assert_is_truth(truth, x[:prefix], xq, k, metric)
        alone = sync(x[:prefix], xq, k, metric)
        assert truth.findings == alone.findings
        assert truth.base_fingerprint == alone.base_fingerprint


@given(kinds, st.integers(2, 150), st.integers(1, 6), seeds, metrics, st.data())
@settings(deadline=None, max_examples=40)
def test_prefixes_are_searches_of_their_own(
    kind: str, n: int, nq: int, seed: int, metric: Metric, data: st.DataObject
) -> None:
    x, xq = pair_of(kind, n, nq, 8, seed, metric)
    prefixes = data.draw(st.lists(st.integers(1, n) | st.none(), min_size=1, max_size=5))
    k = data.draw(st.integers(1, min(p or n for p in prefixes)))
    rows = data.draw(st.integers(max(1, n // 8), n))
    truths = sync(x, xq, k, metric, prefixes=prefixes, chunk_size=rows * 32)
    assert_prefixes_are_their_own_searches(truths, x, xq, k, metric, prefixes)


PREFIXES: list[int | None] = [400, 90, None, 250]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_prefixes_under_local_schedulers(scheduler: str, metric: Metric) -> None:
    """Nearer rows in later blocks must not lower an earlier prefix's ceilings."""
    x, xq = pair_of("normal", 600, 20, 8, 3, metric)
    x = x[np.argsort(-oracle.distances(x, xq[:1], metric)[0])].copy()
    with dask.config.set(scheduler=scheduler, num_workers=3):
        for base in (x, da.from_array(x, chunks=(70, 8))):
            chunk_size = 50 * 32 if base is x else None
            truths = ground_truth(base, xq, 20, metric, prefixes=PREFIXES, chunk_size=chunk_size)
            for truth, prefix in zip(truths, PREFIXES, strict=True):
                assert_is_truth(truth, x[:prefix], xq, 20, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_a_querys_own_row_is_left_out(metric: Metric) -> None:
    x, _ = pair_of("duplicated", 200, 1, 8, 3, metric)
    rows = np.array([3, 41, 199])
    base = Dataset(x, x[rows], metric, rows)
    for k in (10, 199):
        truth = sync(base, None, k, metric, exclude_self=True, chunk_size=30 * 32)
        for q, row in enumerate(rows):
            others = np.delete(np.arange(200), row)
            keys, ids = oracle.neighbours(x[others], x[row][None], k, metric)
            assert_array_equal(truth.ids[q], others[ids[0]])
            assert_array_equal(np.abs(truth.distances[q]), np.abs(keys[0]))
        assert truth.excluded_self
    # Of queries of one's own the rows are not known: the first of equal ones is taken.
    alone = sync(x, x[rows], 10, metric, exclude_self=True)
    for q, row in enumerate(rows):
        others = np.delete(np.arange(200), np.flatnonzero((x == x[row]).all(axis=1))[0])
        assert_array_equal(
            alone.ids[q], others[oracle.neighbours(x[others], x[row][None], 10, metric)[1][0]]
        )


def test_blocks_follow_the_sources_edges() -> None:
    x, xq = pair_of("normal", 100, 3, 8, 3, "l2")
    cuts = [0, 30, 31, 80, 100]
    truth = sync(
        ConcatSource([ArraySource(x[a:b]) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]),
        xq,
        60,
        chunk_size=50 * 32,
    )
    assert_is_truth(truth, x, xq, 60, "l2")
    assert truth.run is not None
    # 31, 49 and 20 rows: all of them fewer than k.
    assert truth.run.n_partitions == 3


@pytest.mark.parametrize("dtype", ["float64", "float16", "uint8", "int8"])
def test_other_element_types_are_searched_as_float32(dtype: str) -> None:
    rng = np.random.default_rng(4)
    stored = (rng.standard_normal((200, 12)) * 20 + 30).clip(0, 100).astype(dtype)
    x = stored.astype(np.float32)
    for base in (stored, da.from_array(stored, chunks=(33, 12)), ArraySource(stored)):
        for metric in METRICS:
            assert_is_truth(sync(base, stored[:5], 9, metric), x, x[:5], 9, metric)


def test_a_lazy_array_is_searched_where_it_is_computed() -> None:
    x, xq = pair_of("normal", 200, 4, 8, 3, "l2")
    array = (da.from_array(x, chunks=(31, 8)) * np.float32(2))[20:170]
    assert_is_truth(sync(array, xq, 9), x[20:170] * np.float32(2), xq, 9, "l2")


class Dataset:
    """What the search knows of a dataset."""

    def __init__(
        self, x: F32, queries: Any, metric: Metric | None, query_rows: I64 | None = None
    ) -> None:
        self.source, self.queries, self.metric = ArraySource(x), queries, metric
        self.query_rows = query_rows


def test_a_datasets_own_queries_and_metric() -> None:
    x, xq = pair_of("normal", 100, 6, 8, 3, "cosine")
    truth = sync(Dataset(x, xq, "cosine"), None, 5, "auto")
    assert_is_truth(truth, x, xq, 5, "cosine")
    # The default is l2 whatever the publisher's is.
    with dask.config.set(scheduler="sync"):
        assert ground_truth(Dataset(x, xq, "cosine"), k=5).metric == "l2"
    assert_is_truth(sync(Dataset(x, xq, "ip"), Dataset(xq, None, None), 5, "auto"), x, xq, 5, "ip")


def test_identity_of_the_answer() -> None:
    x, xq = pair_of("normal", 100, 6, 8, 3, "l2")
    truths = [sync(x, xq, 5, chunk_size=n * 32) for n in (10, 100)]
    assert truths[0].base_fingerprint == truths[1].base_fingerprint == ArraySource(x).fingerprint
    assert truths[0].queries_sha256 == truths[1].queries_sha256
    assert sync(x, xq[::-1], 5).queries_sha256 != truths[0].queries_sha256
    assert repr(truths[0]).startswith("GroundTruth(6 queries × k=5, l2, base 100 × 8, peak ")


def test_the_report_says_what_it_took() -> None:
    x, xq = pair_of("all equal", 2000, 10, 16, 1, "l2")
    truth = sync(x, xq, 20)
    run, tally = truth.run, truth.tally
    assert run is not None
    assert tally is not None
    assert tally.n_widened == 10
    assert tally.n_scored == 20_000
    assert 0 < tally.largest_error <= 1
    assert run.n_partitions == 1
    assert run.projection.total_bytes > run.projection.search_bytes > 0
    assert run.peak_rss_bytes > 0


def test_findings_do_not_depend_on_blocks() -> None:
    x, xq = pair_of("duplicated", 900, 10, 16, 1, "l2")
    found = {sync(x, xq, 50, chunk_size=n * 64).findings for n in (50, 333, 900)}
    assert len(found) == 1
    (findings,) = found
    assert findings is not None
    assert findings.n_duplicates > 0
    assert findings.n_tied > 0
    assert findings.smallest_margin == 0
    assert findings.n_self_matches >= 5


def test_what_a_block_taught_spares_the_next_ones_work() -> None:
    x, xq = pair_of("normal", 8000, 20, 16, 1, "l2")
    blocks = [x[a : a + 1000] for a in range(0, 8000, 1000)]
    alone = [sync(block, xq, 20).tally for block in blocks]
    together = sync(x, xq, 20, chunk_size=1000 * 64)
    assert_is_truth(together, x, xq, 20, "l2")
    assert together.run is not None
    assert together.run.n_partitions == 8
    n_alone = sum(tally.n_scored for tally in alone if tally is not None)
    assert together.tally is not None
    assert together.tally.n_scored < n_alone / 2


def test_a_job_learns_nothing_from_another() -> None:
    """The same process, other rows: keys of the first job's are no bound here."""
    x, xq = pair_of("normal", 900, 10, 16, 1, "l2")
    sync(x, xq, 20, chunk_size=100 * 64)
    far = x + np.float32(100)
    assert_is_truth(sync(far, xq, 20, chunk_size=100 * 64), far, xq, 20, "l2")


def test_progress_counts_every_block(capsys: pytest.CaptureFixture[str]) -> None:
    x, xq = pair_of("normal", 100, 2, 8, 1, "l2")
    sync(x, xq, 5, chunk_size=10 * 32, progress=True)
    assert "10/10 blocks" in capsys.readouterr().err


# --- what is refused -------------------------------------------------------------------------

QUERIES = np.ones((3, 8), np.float32)
QUERIES_OF_4 = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 51}, "k=51 neighbours asked of a base of 50 rows"),
        ({"prefixes": [51]}, "a prefix of 51 rows"),
        ({"chunk_size": "12 parsecs"}, "is not a size"),
        ({"chunk_size": 31}, r"cannot hold one row of 32 bytes; raise chunk_size"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    usual = {"base": Unreadable(50, 8), "queries": QUERIES, "k": 5, "metric": "l2"}
    with pytest.raises(UsageError, match=message):
        sync(**{**usual, **arguments})


def test_zero_vectors_under_cosine_are_named() -> None:
    x, xq = pair_of("normal", 100, 3, 8, 1, "cosine")
    queries = xq.copy()
    queries[1:] = 0
    with pytest.raises(DataError, match=r"2 zero vector\(s\) among the queries, .* query 1:"):
        sync(Unreadable(100, 8), queries, 5, "cosine")
    x[77] = 0
    for base in (x, da.from_array(x, chunks=(20, 8))):
        with pytest.raises(DataError, match="the first at row 77:"):
            sync(base, xq, 5, "cosine", chunk_size=20 * 32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(bad: float) -> None:
    x, xq = pair_of("normal", 100, 3, 8, 1, "l2")
    x[[77, 78], 2] = bad
    for base in (x, da.from_array(x, chunks=(20, 8))):
        with pytest.raises(DataError, match=r"NaN or infinity.*2 of the 20 rows.* is row 77\."):
            sync(base, xq, 5, chunk_size=20 * 32)
    with pytest.raises(DataError, match="NaN or infinity"):
        sync(xq, x[70:80], 1)


def test_a_float64_beyond_float32_is_not_finite() -> None:
    x = np.ones((50, 8))
    x[13, 0] = 1e39
    with pytest.raises(DataError, match="the first is row 13"):
        sync(da.from_array(x, chunks=(10, 8)), QUERIES, 5)


def test_lost_neighbours_are_never_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge that drops a part's last neighbour leaves too few, and the search says so."""
    x, xq = pair_of("normal", 100, 3, 8, 1, "l2")
    monkeypatch.setattr(runner_module, "combine", lambda parts, k: combine(parts, k - 1))
    with pytest.raises(CertificateError, match="3 of 3 queries are not certified"):
        sync(x, xq, 5, chunk_size=50 * 32)


# --- memory is checked before anything is read -----------------------------------------------

MIB = 1 << 20


def allow(patch: pytest.MonkeyPatch, n_bytes: int) -> None:
    """Let this process use `n_bytes` beside the interpreter and its libraries."""
    allowance = Allowance(PROCESS_BYTES + n_bytes, "the test's limit")
    patch.setattr(workers_module, "process_allowance", lambda n_workers=1: allowance)


def test_too_little_memory_is_refused_before_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 150 * MIB)
    with pytest.raises(InsufficientMemoryError) as caught:
        sync(Unreadable(10**7, 256), np.ones((10, 256), np.float32), 5, chunk_size="256MiB")
    message = str(caught.value)
    assert "searching a block of 262,144 rows for 10 queries, lists of " in message
    assert "block buffer 256 MiB" in message
    allowed = format_bytes(PROCESS_BYTES + 150 * MIB)
    assert f"a worker may use {allowed} (the test's limit)" in message
    # The remedy is one: the chunk size it names is accepted, as far as reading.
    named = re.search(r"chunk_size='([^']+)'", message)
    assert named is not None
    with pytest.raises(AssertionError, match="a row was read"):
        sync(Unreadable(10**7, 256), np.ones((10, 256), np.float32), 5, chunk_size=named[1])


def test_a_memory_that_would_do_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 12 * MIB)
    with pytest.raises(InsufficientMemoryError) as caught:
        sync(Unreadable(10**7, 256), np.ones((10, 256), np.float32), 5)
    assert "No chunk size fits" in str(caught.value)
    named = re.search(r"Give each worker ([\d.]+) MiB \(--memory-limit", str(caught.value))
    assert named is not None
    allow(monkeypatch, int((float(named[1]) + 1) * 0.75 * MIB) - PROCESS_BYTES)
    with pytest.raises(AssertionError, match="a row was read"):
        sync(Unreadable(10**7, 256), np.ones((10, 256), np.float32), 5)


def test_a_foreign_array_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 150 * MIB)

    def computed(*args: Any) -> Any:
        raise AssertionError("a block was computed")

    array = da.zeros((10**6, 256), chunks=(500_000, 256)).map_blocks(computed, dtype=float)
    with pytest.raises(InsufficientMemoryError, match=r"500,000 rows of the array needs.*Rechunk"):
        sync(array, np.ones((10, 256), np.float32), 5)


@given(
    n_rows=st.integers(1, 10**9),
    dim=st.integers(1, 4096),
    nq=st.integers(1, 20_000),
    k=st.integers(1, 1000),
    metric=metrics,
    n_threads=st.integers(1, 64),
    n_workers=st.integers(1, 100),
    allowed=st.integers(1, 1 << 36),
)
@settings(deadline=None, max_examples=60)
def test_blocks_shrink_until_they_fit_or_are_refused(
    n_rows: int,
    dim: int,
    nq: int,
    k: int,
    metric: Metric,
    n_threads: int,
    n_workers: int,
    allowed: int,
) -> None:
    shape = SearchShape(nq, dim, k, metric, 1 << 20, n_threads)
    # In two pieces, as a prefix cuts them.
    n_rows = min(n_rows, 10**6 * n_workers)
    pieces = [Unreadable(n_rows // 3, dim), Unreadable(n_rows - n_rows // 3, dim)]
    allowance = Allowance(allowed, "the test's limit")
    try:
        plans, projection = plan_blocks(pieces, shape, n_workers, allowance, None)
    except InsufficientMemoryError:
        least = max(1, LEAST_BLOCK_BYTES // (dim * 4))
        n_blocks = sum(-(-piece.n_rows // least) for piece in pieces)
        assert shape.projection(min(least, pieces[1].n_rows), n_blocks).total_bytes > allowed
        return
    assert projection.total_bytes <= allowed
    n_blocks = sum(len(plan) for plan in plans)
    assert projection == shape.projection(max(plan.max_rows for plan in plans), n_blocks)
    assert [plan.bounds[-1] for plan in plans] == [piece.n_rows for piece in pieces]


def test_long_lists_fit_a_small_worker() -> None:
    """1,000 of each of 1,000 queries, of 5 million rows and with 1 GB: most of it is what waits."""
    shape = SearchShape(1000, 64, 1002, "l2", 2 << 20, 1)
    allowance = Allowance(int(0.75e9), "the test's limit")
    (plan,), projection = plan_blocks([Unreadable(5 * 10**6, 64)], shape, 1, allowance, None)
    assert projection.total_bytes <= allowance.bytes
    assert len(plan) < 50


def test_blocks_shrink_as_far_as_they_must() -> None:
    # Any halving of the largest block fills it evenly.
    source, shape = Unreadable(80 << 17, 256), SearchShape(10, 256, 5, "l2", 0, 1)
    sizes = []
    for spare in (1000, 170, 120, 80):
        allowance = Allowance(PROCESS_BYTES + spare * MIB, "the test's limit")
        (partitions,), projection = plan_blocks([source], shape, 4, allowance, None)
        assert projection.total_bytes <= allowance.bytes
        sizes.append(partitions.max_rows * 1024)
        # Twice as large would not have fitted, or is more than helps.
        twice = shape.projection(2 * partitions.max_rows, len(partitions)).total_bytes
        assert twice > allowance.bytes or sizes[-1] == DEFAULT_BLOCK_BYTES
    assert sizes[0] == DEFAULT_BLOCK_BYTES
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


def test_blocks_for_many_queries_end_within_a_minute() -> None:
    allowance = Allowance(64 << 30, "the test's limit")
    for nq in (100, 10_000, 200_000):
        shape = SearchShape(nq, 1024, 5, "l2", 0, 1)
        (plan,), _ = plan_blocks([Unreadable(10**7, 1024)], shape, 4, allowance, None)
        assert 2 * nq * plan.max_rows * 1024 <= 2 * 10**12 * 1.01
        assert (plan.max_rows * 4096 <= DEFAULT_BLOCK_BYTES / 4) == (nq == 200_000)


def test_blocks_of_our_own_size_are_even() -> None:
    """A short last one would cost nearly as much scoring as a full one."""
    shape = SearchShape(10, 256, 5, "l2", 0, 1)
    allowance = Allowance(PROCESS_BYTES + 1000 * MIB, "the test's limit")
    (even,), _ = plan_blocks([Unreadable(10**7, 256)], shape, 4, allowance, None)
    assert len(even) == -(-(10**7) * 1024 // DEFAULT_BLOCK_BYTES)
    assert max(even.sizes) - min(even.sizes) < len(even)
    # One that was ordered is kept.
    (ordered,), _ = plan_blocks([Unreadable(10**6, 256)], shape, 4, allowance, 100 * MIB)
    assert set(ordered.sizes[:-1]) == {102_400}


def test_lists_on_disk_do_not_wait_in_memory() -> None:
    waiting = SearchShape(10_000, 64, 1000, "l2", 0, 1)
    on_disk = SearchShape(10_000, 64, 1000, "l2", 0, 1, on_disk=True)
    for n_blocks in (2, 8, 200):
        part_bytes = 10_000 * (1000 * 24 + 32)
        less = waiting.projection(100, n_blocks).total_bytes - part_bytes
        assert on_disk.projection(100, n_blocks).total_bytes <= less


def test_projections_grow_with_the_search() -> None:
    usual: dict[str, Any] = {
        "nq": 1000,
        "d": 256,
        "k": 100,
        "scratch_bytes": 1 << 20,
        "n_threads": 2,
    }
    larger = {"nq": 5000, "k": 500, "scratch_bytes": 1 << 24, "n_threads": 8}
    for metric in METRICS:
        least = SearchShape(**usual, metric=metric).projection(10_000, 50).total_bytes
        assert SearchShape(**usual, metric=metric).projection(20_000, 50).total_bytes > least
        for name, value in larger.items():
            more = SearchShape(**{**usual, name: value}, metric=metric).projection(10_000, 50)
            assert more.total_bytes > least


# --- the graph -------------------------------------------------------------------------------


def merge_keys(graph: dict[Any, Any]) -> list[Any]:
    return [key for key in graph if isinstance(key, tuple) and key[0].startswith("merge-")]


def branches_of(
    source: VectorSource, block_rows: int, ends: list[int] | None = None, width: int = 1
) -> list[Branch]:
    """Blocks of a source, in as many branches as prefixes cut it into."""
    cuts = [0, *(ends or []), source.n_rows]
    search = Search(uuid.uuid4().hex, width, "l2", 1, len(cuts) - 1)
    branches = []
    for segment, (start, stop) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        leaves = [
            Leaf(
                BlockTask(source.narrow(a, min(a + block_rows, stop)), a, segment, search),
                a,
                min(a + block_rows, stop),
            )
            for a in range(start, stop, block_rows)
        ]
        branches.append(Branch(leaves, partial(InMemory(width).merge, (start, stop))))
    return branches


@pytest.mark.parametrize(("n_blocks", "n_merges"), [(1, 0), (2, 1), (4, 1), (5, 3), (65, 25)])
def test_parts_are_merged_in_a_tree(n_blocks: int, n_merges: int) -> None:
    branches = branches_of(SyntheticSource(n_blocks, 4), 1)
    merged, group = graph_module.build(branches, QUERIES_OF_4)
    graph = dict(merged.dask)
    assert sum(isinstance(key, tuple) and key[0] == group for key in graph) == n_blocks
    assert len(merge_keys(graph)) == n_merges


def test_each_branch_is_merged_by_itself_and_told_its_rows() -> None:
    """A merge's rows are those of the blocks under it: a checkpoint names its file by them."""
    told: list[tuple[int, int]] = []

    def merge(start: int, stop: int) -> Any:
        told.append((start, stop))
        return InMemory(1).merge((start, stop), start, stop)

    branches = branches_of(SyntheticSource(100, 4), 5, [50])
    branches = [Branch(branch.leaves, merge) for branch in branches]
    merged, _ = graph_module.build(branches, QUERIES_OF_4)
    # Ten blocks in each: four, four and two, and these three.
    of_first = [(0, 20), (0, 50), (20, 40), (40, 50)]
    assert sorted(told) == [*of_first, *((a + 50, b + 50) for a, b in of_first)]
    first, second = merged.compute(scheduler="sync")
    assert (first.n_rows, second.n_rows) == (50, 50)
    assert 0 <= first.ids.min() <= first.ids.max() < 50
    assert np.all((second.ids < 0) | (second.ids >= 50))


@pytest.mark.parametrize("n_blocks", [9, 64, 200, 513])
def test_no_more_parts_wait_than_are_projected(n_blocks: int) -> None:
    """Dask's order merges before it searches on, whatever the number of blocks."""
    most = 0

    def count(key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        nonlocal most
        most = max(most, sum(isinstance(value, Part) for value in state["cache"].values()))

    merged, _ = graph_module.build(branches_of(SyntheticSource(n_blocks, 4), 1), QUERIES_OF_4)
    with dask.callbacks.Callback(posttask=count):
        merged.compute(scheduler="sync")
    shape = SearchShape(3, 4, 1, "l2", 0, 1)
    part_bytes = 3 * (24 + 32)
    fixed = shape.projection(1, 0).results_bytes
    assert 1 < most <= (shape.projection(1, n_blocks).results_bytes - fixed) // part_bytes


def test_tasks_are_small(tmp_path: Path) -> None:
    """Whatever the queries and the number of shards."""
    shards = [SyntheticSource(1000, 64, seed) for seed in range(500)]
    branches = branches_of(ConcatSource(shards), 4096)
    with graph_module.spilled(np.ones((5000, 64), np.float32), tmp_path) as sent:
        assert isinstance(sent, SpilledQueries)
        merged, _ = graph_module.build(branches, sent)
        sizes = [len(pickle.dumps(task)) for task in dict(merged.dask).values()]
    assert max(sizes) <= TASK_BYTES


def test_large_queries_are_spilled_and_the_file_goes(tmp_path: Path) -> None:
    large = np.ones((EMBED_BYTES // 256 + 1, 64), np.float32)
    with graph_module.spilled(large[:-1], tmp_path) as sent:
        assert sent is not large
        assert isinstance(sent, np.ndarray)
        assert list(tmp_path.iterdir()) == []
    with graph_module.spilled(large, tmp_path) as sent:
        assert isinstance(sent, SpilledQueries)
        assert_array_equal(sent.load(), large)
        (home,) = tmp_path.iterdir()
        assert home.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def test_queries_that_a_killed_run_left_are_removed(tmp_path: Path) -> None:
    large = np.ones((EMBED_BYTES // 256 + 1, 64), np.float32)
    spilling = (
        "import os, sys, numpy as np; from haag_vq.groundtruth import graph\n"
        "with graph.spilled(np.ones((8000, 64), np.float32), sys.argv[1]): os._exit(9)"
    )
    killed = subprocess.run([sys.executable, "-c", spilling, str(tmp_path)], check=False)
    assert killed.returncode == 9
    (left,) = tmp_path.iterdir()
    with graph_module.spilled(large, tmp_path), graph_module.spilled(large, tmp_path):
        # Those of a living process stay.
        assert len(set(tmp_path.iterdir()) - {left}) == 2
        assert not left.exists()


def _interrupted() -> None:
    raise KeyboardInterrupt


def test_spilled_queries_go_even_after_an_interrupt(tmp_path: Path) -> None:
    large = np.ones((EMBED_BYTES // 256 + 1, 64), np.float32)
    with pytest.raises(KeyboardInterrupt), graph_module.spilled(large, tmp_path):
        _interrupted()
    assert list(tmp_path.iterdir()) == []


# --- a client of the user's own --------------------------------------------------------------


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            memory_limit="2GiB",
        ) as cluster,
        Client(cluster) as made,
    ):
        yield made


def test_a_client_of_the_users_own(client: Client, tmp_path: Path) -> None:
    x, xq = pair_of("duplicated", 900, 20, 16, 2, "l2")
    source = CountingSource(ArraySource(x), tmp_path / "reads")
    for metric in METRICS:
        truth = ground_truth(source, xq, 30, metric, chunk_size=100 * 64, progress=True)
        assert_is_truth(truth, x, xq, 30, metric)
    assert source.times_read().tolist() == [len(METRICS)] * 900
    assert truth.run is not None
    assert truth.run.peak_rss_bytes > 0
    assert "2 GiB" in workers_module.current_workers().allowance.origin
    array = da.from_array(x, chunks=(77, 16))
    assert_is_truth(ground_truth(array, xq, 30, "ip"), x, xq, 30, "ip")


def test_prefixes_on_a_cluster(client: Client, tmp_path: Path) -> None:
    """Whichever worker met which rows first."""
    x, xq = pair_of("duplicated", 900, 20, 16, 2, "ip")
    x = x[np.argsort(-oracle.distances(x, xq[:1], "ip")[0])].copy()
    source = CountingSource(ArraySource(x), tmp_path / "reads")
    truths = ground_truth(source, xq, 30, "ip", prefixes=PREFIXES, chunk_size=50 * 64)
    for truth, prefix in zip(truths, PREFIXES, strict=True):
        assert_is_truth(truth, x[:prefix], xq, 30, "ip")
    assert source.times_read().tolist() == [1] * 900


def test_a_local_scheduler_wins_over_a_client_if_the_user_says_so(client: Client) -> None:
    x, xq = pair_of("normal", 100, 4, 8, 2, "l2")
    assert workers_module.current_workers().client is client
    with dask.config.set(scheduler="sync"):
        assert workers_module.current_workers().client is None
        assert_is_truth(ground_truth(x, xq, 5), x, xq, 5, "l2")


def test_large_queries_reach_a_clients_workers_by_file(client: Client, tmp_path: Path) -> None:
    x, _ = pair_of("normal", 300, 1, 64, 2, "l2")
    xq = np.repeat(x[:50], EMBED_BYTES // (50 * 256) + 1, axis=0)
    seen: list[list[Path]] = []

    def noted(*args: Any) -> Any:
        seen.append(list(tmp_path.iterdir()))
        return workers_module.run(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner_module, "run", noted)
        truth = ground_truth(x, xq, 5, run_dir=tmp_path)
    assert [len(found) for found in seen] == [1]
    assert list(tmp_path.iterdir()) == []
    keys, ids = oracle.neighbours(x, x[:50], 5, "l2")
    again = len(xq) // 50
    assert_array_equal(truth.ids, np.repeat(ids, again, axis=0))
    assert_array_equal(truth.distances, np.repeat(keys, again, axis=0))


def test_an_error_on_a_worker_comes_home_and_leaves_nothing(client: Client, tmp_path: Path) -> None:
    x, _ = pair_of("normal", 300, 1, 64, 2, "l2")
    xq = np.repeat(x[:50], EMBED_BYTES // (50 * 256) + 1, axis=0)
    x[299, 5] = np.nan
    with pytest.raises(DataError, match="the first is row 299"):
        ground_truth(x, xq, 5, run_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_may_use_too_little_is_refused(client: Client) -> None:
    with pytest.raises(InsufficientMemoryError, match="the workers' memory limit"):
        ground_truth(Unreadable(10**7, 256), np.ones((9, 256), np.float32), 5, chunk_size="2GiB")
