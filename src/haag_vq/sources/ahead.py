"""Pieces of a slow file in their order, the next ones on their way while one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Piece = TypeVar("Piece")
Job = Callable[[], None]

# Pieces that are held at once: the one that is used and three on their way. At 8 MiB and 30 ms a
# round trip that keeps a line of 800 MB/s busy; each more costs its size in every read.
N_PIECES = 4
# Jobs of one read at once. The Hub's own bound on a process's requests is below or above it.
N_JOBS = 8


@contextmanager
def fetched_ahead(
    pieces: Iterable[Piece], jobs_of: Callable[[Piece, int], Sequence[Job]]
) -> Iterator[Iterator[tuple[Piece, int]]]:
    """Yield an iterator over (piece, slot), each piece once all its jobs are done.

    Parameters
    ----------
    pieces : iterable
        Taken one at a time, `N_PIECES` ahead at most.
    jobs_of : callable (piece, slot) -> sequence of callables
        What fetches a piece; it may run in several threads. `slot`, 0 to ``N_PIECES - 1``, names
        the memory that the piece may use until the next one is taken from the iterator.

    Raises
    ------
    Exception
        What a job raises, when its piece is due.

    Notes
    -----
    On the way out, with an error or without, jobs that have not begun are dropped and the others
    waited for: they write into memory that the caller owns.
    """
    pool = ThreadPoolExecutor(N_JOBS, thread_name_prefix="haag-vq-ahead")
    try:
        yield _in_turn(iter(pieces), jobs_of, pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_turn(
    pieces: Iterator[Piece],
    jobs_of: Callable[[Piece, int], Sequence[Job]],
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[Piece, int]]:
    coming: deque[tuple[Piece, int, list[Future[None]]]] = deque()
    free = deque(range(N_PIECES))
    while True:
        while free:
            piece = next(pieces, None)
            if piece is None:
                break
            slot = free.popleft()
            coming.append((piece, slot, [pool.submit(job) for job in jobs_of(piece, slot)]))
        if not coming:
            return
        due, slot, futures = coming.popleft()
        for future in futures:
            future.result()
        yield due, slot
        free.append(slot)
