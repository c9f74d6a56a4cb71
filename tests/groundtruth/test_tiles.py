"""Who does what next: everything read once and searched once, and no thread left waiting."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haag_vq.groundtruth.prefetch import LINE
from haag_vq.groundtruth.tiles import (
    Feed,
    Span,
    batches,
    cut,
    pieces_of,
    stride,
    tapered,
)
from haag_vq.sources import ArraySource
from haag_vq.sources.protocol import I64

# A thread that waits for ever must end the test, not the suite.
pytestmark = pytest.mark.timeout(30)


class Groups(ArraySource):
    """Rows in groups that are decoded whole, as those of a parquet file."""

    starts_anywhere = False

    def __init__(self, edges: Sequence[int]) -> None:
        super().__init__(np.zeros((edges[-1], 1), np.float32))
        self._edges = np.array(edges, np.int64)

    @property
    def edges(self) -> I64:
        return self._edges


class Work:
    """What a feed's threads do, written down; with a pause, and an error where one is asked."""

    def __init__(self, n_rows: int, seed: int = 0) -> None:
        self.n_read, self.n_searched = Counter[int](), Counter[int]()
        self.tiles: list[Span] = []
        self.most_readers = self.most_searchers = 0
        self.n_steps = 0
        self.fails: Callable[[bool, Span], bool] = lambda reads, span: False
        self._readers = self._searchers = 0
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._n_rows = n_rows

    def read(self, start: int, stop: int) -> None:
        with self._lock:
            self._readers += 1
            self.most_readers = max(self.most_readers, self._readers)
        self._pause_or_fail(True, (start, stop))
        with self._lock:
            self._readers -= 1
            self.n_read.update(range(start, stop))

    def search(self, start: int, stop: int) -> None:
        with self._lock:
            self._searchers += 1
            self.most_searchers = max(self.most_searchers, self._searchers)
            self.tiles.append((start, stop))
            if any(self.n_read[row] != 1 for row in range(start, stop)):
                raise AssertionError(f"rows {start}:{stop} were searched before they were read")
        self._pause_or_fail(False, (start, stop))
        with self._lock:
            self._searchers -= 1
            self.n_searched.update(range(start, stop))

    def _pause_or_fail(self, reads: bool, span: Span) -> None:
        with self._lock:
            self.n_steps += 1
            pause = self._random.choice([0, 0, 1e-5, 1e-4])
        if pause:
            time.sleep(pause)
        if self.fails(reads, span):
            raise OSError(f"{'read' if reads else 'search'} of rows {span[0]}:{span[1]}")

    def assert_all_done(self) -> None:
        once = dict.fromkeys(range(self._n_rows), 1)
        assert self.n_read == once
        assert self.n_searched == once


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def is_idle(pool: ThreadPoolExecutor) -> bool:
    """Whether all eight threads can meet: none is stuck."""
    barrier = threading.Barrier(8)
    meeting = [pool.submit(barrier.wait, 5) for _ in range(8)]
    return sorted(future.result() for future in meeting) == list(range(8))


@st.composite
def feeds(draw: st.DrawFn) -> tuple[int, list[Span], int, int]:
    """Rows, pieces of uneven sizes, how many of them are read already, and a tile's rows."""
    n_rows = draw(st.integers(0, 200))
    inner = draw(st.lists(st.integers(1, max(1, n_rows - 1)), max_size=12, unique=True))
    cuts = [0, *sorted(c for c in inner if c < n_rows), n_rows] if n_rows else [0]
    pieces = list(zip(cuts[:-1], cuts[1:], strict=True))
    return n_rows, pieces, draw(st.integers(0, len(pieces))), draw(st.integers(1, 60))


@given(feeds(), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 999))
@settings(deadline=None, max_examples=200)
def test_every_row_is_read_once_and_searched_once(
    pool: ThreadPoolExecutor,
    feed: tuple[int, list[Span], int, int],
    n_threads: int,
    n_readers: int,
    n_searchers: int,
    seed: int,
) -> None:
    n_rows, pieces, n_ready, tile_rows = feed
    work = Work(n_rows, seed)
    ready = []
    for piece in pieces[:n_ready]:
        work.n_read.update(range(*piece))
        ready += cut(*piece, tile_rows)
    made = Feed(pieces[n_ready:], ready, tile_rows, n_readers, n_searchers)
    made.run(work.read, work.search, pool, n_threads)
    work.assert_all_done()
    assert work.most_readers <= min(n_readers, n_threads)
    assert work.most_searchers <= min(n_searchers, n_threads)
    # Tiles do not reach from one piece into another.
    assert sorted(work.tiles) == [tile for piece in pieces for tile in cut(*piece, tile_rows)]


def test_as_many_read_and_search_side_by_side_as_may(pool: ThreadPoolExecutor) -> None:
    """Two readers and two searchers meet; with fewer at a time the barriers would break."""
    reading, searching = threading.Barrier(2), threading.Barrier(2)
    feed = Feed([(0, 1), (1, 2)], [], 1, 2, 2)
    feed.run(lambda a, b: _meet(reading), lambda a, b: _meet(searching), pool, 2)
    assert not reading.broken
    assert not searching.broken


def test_one_searches_while_another_reads(pool: ThreadPoolExecutor) -> None:
    both = threading.Barrier(2)
    feed = Feed([(1, 2)], [(0, 1)], 1, 1, 1)

    def search(start: int, stop: int) -> None:
        if start == 0:
            _meet(both)

    feed.run(lambda a, b: _meet(both), search, pool, 2)
    assert not both.broken


def test_tiles_read_ahead_are_searched_in_their_order(pool: ThreadPoolExecutor) -> None:
    """The small ones are cut last: searched first, they would leave a whole one to wait for."""
    all_read, searched = threading.Event(), []
    feed = Feed([(4, 8), (8, 10), (10, 11)], [(0, 2), (2, 4)], 2, 1, 1)

    def search(start: int, stop: int) -> None:
        searched.append(start)
        assert all_read.wait(10)

    feed.run(lambda a, b: all_read.set() if b == 11 else None, search, pool, 2)
    assert searched == [0, 2, 4, 6, 8, 10]


def _meet(barrier: threading.Barrier) -> None:
    barrier.wait(10)


def test_a_piece_is_searched_as_soon_as_it_is_read(pool: ThreadPoolExecutor) -> None:
    """It is still in the cache. One thread alone takes turns: a piece, and all of its tiles."""
    steps: list[tuple[str, int]] = []
    feed = Feed([(0, 4), (4, 8)], [(8, 10)], 2, 1, 1)
    feed.run(
        lambda a, b: steps.append(("read", a)), lambda a, b: steps.append(("search", a)), pool, 1
    )
    assert steps == [
        ("search", 8),
        *(("read", 0), ("search", 0), ("search", 2)),
        *(("read", 4), ("search", 4), ("search", 6)),
    ]


@given(
    st.booleans(),
    st.integers(0, 99),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(1, 3),
)
@settings(deadline=None, max_examples=100)
def test_an_error_ends_all_threads_and_is_raised(
    pool: ThreadPoolExecutor,
    in_reader: bool,
    bad_row: int,
    n_threads: int,
    n_readers: int,
    n_searchers: int,
) -> None:
    work = Work(100)
    work.fails = lambda reads, span: reads is in_reader and span[0] <= bad_row < span[1]
    feed = Feed(cut(0, 100, 10), [], 4, n_readers, n_searchers)
    what = "read" if in_reader else "search"
    with pytest.raises(OSError, match=rf"^{what} of rows") as caught:
        feed.run(work.read, work.search, pool, n_threads)
    a, b = (int(text) for text in str(caught.value).split()[-1].split(":"))
    assert a <= bad_row < b
    # Nothing is begun once it is known.
    n_steps = work.n_steps
    assert is_idle(pool)
    assert work.n_steps == n_steps


def test_the_first_error_is_the_one_raised(pool: ThreadPoolExecutor) -> None:
    both = threading.Barrier(2)
    later = threading.Event()

    def read(start: int, stop: int) -> None:
        both.wait(10)
        if start:
            later.wait(10)
            raise OSError("the second")
        threading.Timer(0.05, later.set).start()
        raise OSError("the first")

    with pytest.raises(OSError, match="the first"):
        Feed([(0, 1), (1, 2)], [], 1, 2, 1).run(read, lambda a, b: None, pool, 2)


def test_an_error_does_not_keep_the_block(pool: ThreadPoolExecutor) -> None:
    """It would be there until Python looks for circles, beside the next one."""

    class Block:
        def search(self, start: int, stop: int) -> None:
            raise OSError("gone")

    def fail() -> weakref.ref[Block]:
        block = Block()
        with pytest.raises(OSError, match="gone"):
            Feed([], [(0, 1)], 1, 1, 1).run(lambda a, b: None, block.search, pool, 1)
        return weakref.ref(block)

    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


def test_an_interrupt_ends_the_others_too(pool: ThreadPoolExecutor) -> None:
    def search(start: int, stop: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Feed(cut(0, 50, 5), [], 5, 2, 2).run(lambda a, b: None, search, pool, 4)
    assert is_idle(pool)


def test_nothing_to_do_is_done_at_once(pool: ThreadPoolExecutor) -> None:
    work = Work(0)
    Feed([], [], 4, 1, 1).run(work.read, work.search, pool, 4)
    assert work.n_steps == 0


# --- pieces ----------------------------------------------------------------------------------


@given(st.integers(-50, 50), st.integers(0, 200), st.integers(1, 60))
def test_cut_covers_in_steps(start: int, n: int, step: int) -> None:
    spans = cut(start, start + n, step)
    assert [row for span in spans for row in range(*span)] == list(range(start, start + n))
    assert all(b - a == step for a, b in spans[:-1])
    assert all(0 < b - a <= step for a, b in spans)


@given(st.lists(st.integers(0, 300), max_size=20), st.integers(1, 90), st.integers(1, 300))
def test_groups_are_never_cut(inner: list[int], tile_rows: int, n_rows: int) -> None:
    edges = sorted({0, n_rows, *(edge for edge in inner if edge <= n_rows)})
    pieces = pieces_of(Groups(edges), tile_rows)
    assert [row for piece in pieces for row in range(*piece)] == list(range(n_rows))
    assert {row for piece in pieces for row in piece} <= set(edges)
    for a, b in pieces[:-1]:
        assert b - a >= tile_rows
        # The last of its groups was needed: without it the piece is too short.
        assert max(edge for edge in edges if edge < b) - a < tile_rows


def test_a_source_without_rows_has_no_pieces() -> None:
    assert [p for p in pieces_of(Groups([0, 0]), 4) if p[0] < p[1]] == []


@given(st.integers(0, 300), st.integers(1, 50), st.integers(1, 9), st.integers(1, 9))
def test_tapered_spans_are_the_same_rows_and_end_small(
    n_rows: int, step: int, n: int, least: int
) -> None:
    spans = tapered(n_rows, step, n, least)
    rows = [row for a, b in spans for row in range(a, b)]
    assert rows == list(range(n_rows))
    sizes = [b - a for a, b in spans]
    assert all(0 < size <= step for size in sizes)
    for (start, _), size in zip(spans, sizes, strict=True):
        assert size < max((n_rows - start) / (2 * n) + 1, 2 * least)
    # Nothing is smaller than it need be, but where two would not fit in a tile.
    assert all(size >= min(step, least) for size in sizes[:-1])
    assert not sizes or sizes[-1] >= min(least, step, n_rows) or sum(sizes[-2:]) > step


@given(st.integers(0, 99), st.integers(0, 5000), st.integers(1, 3000))
def test_batches_fit_and_are_even(first: int, n_queries: int, most: int) -> None:
    found = batches(first, first + n_queries, most)
    assert [q - first for a, b in found for q in range(a, b)] == list(range(n_queries))
    sizes = [b - a for a, b in found]
    assert all(size <= stride(size, most) <= most for size in sizes)
    assert not sizes or sizes[0] - sizes[-1] < len(sizes)
    assert len(found) <= -(-n_queries // max(1, (most // LINE - 1) * LINE))


@given(st.integers(1, 5000))
def test_rows_of_products_are_an_odd_number_of_lines(n: int) -> None:
    wide = stride(n, 10_000)
    assert n <= wide < n + 2 * LINE
    assert wide % (2 * LINE) == LINE
    assert stride(n, n) in (n, wide)
