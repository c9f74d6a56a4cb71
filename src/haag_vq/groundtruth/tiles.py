"""Who does what next in a block: threads read pieces of it and search tiles, side by side.

Tiles are searched in the order in which they were read, so that the small ones, which are cut last,
come last: where reading is slow, that is the one just read, still in the cache. There is no step at
which all threads wait for the slowest, and each multiplies matrices on its own core.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, wait

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth.prefetch import LINE
from haag_vq.sources import VectorSource

I64 = NDArray[np.int64]

Span = tuple[int, int]


def pieces_of(source: VectorSource, tile_rows: int) -> list[Span]:
    """Cut a source into spans that are read at once, of `tile_rows` or little more.

    They end at edges (row groups), where reads start cheaply: nothing is decoded twice.
    """
    spans, start = [], 0
    for edge in source.edges[1:].tolist():
        if edge - start >= tile_rows or edge == source.n_rows:
            spans.append((start, edge))
            start = edge
    return spans


def cut(start: int, stop: int, n: int) -> list[Span]:
    """Cut ``start:stop`` into spans of `n` rows, the last shorter."""
    return [(at, min(at + n, stop)) for at in range(start, stop, n)]


def batches(first: int, last: int, most: int) -> list[Span]:
    """Cut queries into batches of about one size, whose rows of products take up to `most`."""
    n_queries = last - first
    n_lines = most // LINE
    widest = (n_lines - 1 + n_lines % 2) * LINE if n_lines else max(1, most)
    n = -(-n_queries // widest)
    return cut(first, last, -(-n_queries // n)) if n else []


def stride(n: int, most: int) -> int:
    """Elements from one row of products to the next: an odd number of cache lines, if they fit.

    At powers of two the rows meet in the same places of the cache: products of 1,024 queries are
    6% slower than in rows of 1,040 (measured).
    """
    padded = (-(-n // LINE) | 1) * LINE
    return padded if padded <= most else n


def tapered(n_rows: int, most: int, n_threads: int, least: int) -> list[Span]:
    """Cut rows into spans of `most`, and at the end of a share of what is left, down to `least`.

    Threads end at odd moments: the last to end keeps the others waiting for a small tile only
    (guided self-scheduling, Polychronopoulos and Kuck, 1987, with half a thread's share).
    """
    spans, start = [], 0
    while start < n_rows:
        left = n_rows - start
        size = min(most, max(least, -(-left // (2 * n_threads))))
        if left - size < min(least, most - size + 1):
            size = left
        spans.append((start, start + size))
        start += size
    return spans


class Feed:
    """Hands out pieces to read and tiles to search, to any number of threads.

    Parameters
    ----------
    unread : sequence of (start, stop)
        Pieces in the order in which they are read.
    ready : sequence of (start, stop)
        Tiles that can be searched at once.
    tile_rows : int
        Pieces are searched in tiles of so many rows.
    n_readers, n_searchers : int
        The most threads that read, and that search, at one time.
    """

    def __init__(
        self,
        unread: Sequence[Span],
        ready: Sequence[Span],
        tile_rows: int,
        n_readers: int,
        n_searchers: int,
    ) -> None:
        self._unread = deque(unread)
        self._ready = deque(ready)
        self._tile_rows = tile_rows
        self._n_free_readers = n_readers
        self._n_free_searchers = n_searchers
        self._n_unsearched = sum(b - a for a, b in (*unread, *ready))
        self._changed = threading.Condition()
        self._error: BaseException | None = None

    def run(
        self,
        read: Callable[[int, int], None],
        search: Callable[[int, int], None],
        pool: Executor,
        n_threads: int,
    ) -> None:
        """Do all of it on this thread and ``n_threads - 1`` of the pool; raise what one raised."""
        others = [pool.submit(self._work, read, search) for _ in range(n_threads - 1)]
        self._work(read, search)
        wait(others)
        if self._error is not None:
            try:
                raise self._error
            finally:
                # It knows this frame, and so the block: both would be there until Python looks for
                # such circles.
                self._error = None

    def _work(self, read: Callable[[int, int], None], search: Callable[[int, int], None]) -> None:
        try:
            while (step := self._next()) is not None:
                reads, span = step
                (read if reads else search)(*span)
                self._done(reads, span)
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def _next(self) -> tuple[bool, Span] | None:
        """Wait for something to do: (is it to be read, rows), or None when all is done."""
        with self._changed:
            while self._n_unsearched and self._error is None:
                if self._ready and self._n_free_searchers:
                    self._n_free_searchers -= 1
                    return False, self._ready.popleft()
                if self._unread and self._n_free_readers:
                    self._n_free_readers -= 1
                    return True, self._unread.popleft()
                self._changed.wait()
            return None

    def _done(self, read: bool, span: Span) -> None:
        with self._changed:
            if read:
                self._n_free_readers += 1
                self._ready += cut(*span, self._tile_rows)
            else:
                self._n_free_searchers += 1
                self._n_unsearched -= span[1] - span[0]
            self._changed.notify_all()
