"""What a process keeps from one block of a job to the next: buffers, threads and ceilings.

Touching fresh memory costs as much as searching it (10–17 µs a row of 1024 measured, against 14 for
1,677 queries), so the buffers of a block are those of the block before. And what the blocks
already searched by this process say of a query's k-th neighbour spares the next ones most of
their work.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

F64 = NDArray[np.float64]

# Buffers are kept so long for the next block or job; then the memory is for others. Arbitrary.
IDLE_SECONDS = 30.0


class Workspace:
    """Buffers and threads of one search at a time."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}
        self._job = ""
        self._stale: set[str] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_size = 0

    def begin(self, job: str) -> None:
        """Serve a block of a job: what another job left is kept only as far as this one asks."""
        if job != self._job:
            self._job, self._stale = job, set(self._buffers)

    def end(self) -> None:
        """Let go of what the block had no use for."""
        for name in self._stale:
            del self._buffers[name]
        self._stale = set()

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an uninitialized array in the buffer of this name, which grows if need be."""
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        buffer = self._buffers.get(name)
        too_large = name in self._stale and buffer is not None and buffer.nbytes > n_bytes
        self._stale.discard(name)
        if buffer is None or buffer.nbytes < n_bytes or too_large:
            # Let go of the old one first: both at once were never projected.
            self._buffers.pop(name, None)
            del buffer
            buffer = self._buffers[name] = np.empty(n_bytes, np.uint8)
        return buffer[:n_bytes].view(dtype).reshape(shape)

    def threads(self, n: int) -> Executor:
        """Return a pool of at least `n` threads."""
        if self._pool is None or self._pool_size < n:
            self.close()
            self._pool = ThreadPoolExecutor(n, thread_name_prefix="haag-vq-search")
            self._pool_size = n
        return self._pool

    def close(self) -> None:
        """Let the threads end."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None


class _Ceilings:
    """The nearest keys that this process has met, for one job."""

    def __init__(self, job: str) -> None:
        self.job = job
        self._nearest: dict[int, F64] = {}
        self._blocks: set[int] = set()

    def learn(self, block: int, segment: int, keys: F64, width: int, n_segments: int) -> None:
        """Take in the keys of a finished block (nq, w); those of one row count once."""
        if block in self._blocks:
            return
        self._blocks.add(block)
        # A bound for a prefix may come from its own rows only, not from rows after it.
        for s in range(segment, n_segments):
            known = self._nearest.get(s)
            both = keys if known is None else np.concatenate((known, keys), axis=1)
            if both.shape[1] > width:
                # A copy: a view would keep all of it, and the search is compiled for whole rows.
                both = np.partition(both, width - 1, axis=1)[:, :width].copy()
            self._nearest[s] = both

    def get(self, block: int, segment: int, width: int) -> F64 | None:
        """Nearest `width` keys of each query up to this segment; None if there are not so many.

        None too for a block whose own keys may be among them: Dask searches a block again where
        its result was lost with another process.
        """
        known = None if block in self._blocks else self._nearest.get(segment)
        return None if known is None or known.shape[1] < width else known


_lock = threading.Lock()
_idle: list[Workspace] = []
_ceilings = _Ceilings("")
_n_borrowed = 0
_last_use = 0.0
_janitor: threading.Timer | None = None


@contextmanager
def borrowed(job: str) -> Iterator[Workspace]:
    """Yield a workspace that nobody else uses meanwhile, for a block of a job.

    After an interrupt it is given up: some thread may still write into its buffers. After an error
    none does, and threads that go on are sounder than new ones beside what ended ones have left:
    allocators that keep memory for each thread, as Arrow's, are at their weakest there.
    """
    global _last_use, _n_borrowed
    with _lock:
        workspace = _idle.pop() if _idle else Workspace()
        _n_borrowed += 1
    workspace.begin(job)
    sound = True
    try:
        yield workspace
    except BaseException as error:
        sound = isinstance(error, Exception)
        raise
    finally:
        with _lock:
            _n_borrowed -= 1
            _last_use = time.monotonic()
            if sound:
                workspace.end()
                _idle.append(workspace)
                _watch()
            else:
                workspace.close()


def _watch() -> None:
    """Have idle workspaces given back, `IDLE_SECONDS` after the last block of a job."""
    global _janitor
    if _janitor is None:
        _janitor = threading.Timer(IDLE_SECONDS, _give_back)
        _janitor.daemon = True
        _janitor.start()


def _give_back() -> None:
    global _janitor
    with _lock:
        _janitor = None
        if _n_borrowed or time.monotonic() - _last_use < IDLE_SECONDS:
            _watch()
            return
    release()


def known_keys(job: str, block: int, segment: int, width: int) -> F64 | None:
    """Nearest keys (nq, width) of a job's queries in other blocks that this process finished.

    Parameters
    ----------
    block : int
        Its first row.
    segment : int
        Which of the asked prefixes is the smallest that contains the block.
    """
    with _lock:
        return _ceilings.get(block, segment, width) if _ceilings.job == job else None


def learn(job: str, block: int, segment: int, n_segments: int, keys: F64, width: int) -> None:
    """Remember what a finished block says; of the last job only."""
    global _ceilings
    with _lock:
        if _ceilings.job != job:
            _ceilings = _Ceilings(job)
        _ceilings.learn(block, segment, keys, width, n_segments)


def ceilings_bytes(nq: int, width: int, n_segments: int) -> int:
    """Bytes that the ceilings of a job take, also while a block's are taken in."""
    # Those known and those of the block joined, their partition, and a copy of half of it.
    return (n_segments + 5) * nq * width * 8


def release() -> None:
    """Give back the memory of idle workspaces."""
    global _ceilings
    with _lock:
        for workspace in _idle:
            workspace.close()
        _idle.clear()
        _ceilings = _Ceilings("")
