"""Products of tiles and queries in float32, as much of them as is needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth.partial import best_head, least_rows, most_finished, rests, sampled
from haag_vq.groundtruth.scan import Leading
from haag_vq.groundtruth.tiles import batches, stride
from haag_vq.groundtruth.workspace import Workspace

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

# Of all threads together; a thread's share is cut into batches of queries. Twice as much a thread
# is 2% faster (measured).
PRODUCT_BYTES = 32 << 20
MOST_PRODUCT_BYTES = 10 << 20


class Products:
    """Multiplies the tiles of a block with the queries, on any number of threads.

    Parameters
    ----------
    xq : (nq, d) float32
        As they are to be multiplied; those that are likely to need fewer dimensions first.
    n_rows : int
        Of the block.
    n_threads : int
        That multiply, and one more.
    workspace : Workspace
        Has the products: `PRODUCT_BYTES` at most.
    informed : bool
        Ceilings are known from other rows, so that it is worth choosing at once.
    """

    def __init__(
        self, xq: F32, n_rows: int, n_threads: int, workspace: Workspace, informed: bool
    ) -> None:
        nq, d = xq.shape
        self._xq = xq
        self._share = min(MOST_PRODUCT_BYTES, PRODUCT_BYTES // (n_threads + 1))
        self._workspace = workspace
        self._local = threading.local()
        self._n_buffers = 0
        self._lock = threading.Lock()
        self._whole = Leading(d, xq, np.zeros(0, np.float32), np.zeros(nq, np.float32), 0.0)
        # What is multiplied of the first so many queries.
        self._easy, self._n_easy = self._whole, 0
        # Rows to search until the next choice; there is none in a block too small for it.
        self._least_use = self._choose_every = least_rows(nq)
        first = 0 if informed else self._choose_every
        self._until_choice = first if n_rows >= self._choose_every else np.inf

    def choose(self, x: F32, weights: F32, offsets: F32, floors_of: Callable[[I64], F32]) -> None:
        """Choose anew, now and then, how many dimensions are multiplied of which queries.

        Parameters
        ----------
        x : (m, d) float32
            A tile; `weights` and `offsets` (m,) make values of its products.
        floors_of : callable
            Gives the least values of interest to some queries, by their numbers.
        """
        with self._lock:
            self._until_choice -= len(x)
            if self._until_choice > 0:
                return
            self._until_choice = self._choose_every
            # Ceilings fall less and less.
            self._choose_every *= 2
        nq = len(self._xq)
        rows, queries = sampled(len(x)), sampled(nq)
        # Contiguous: compiled code takes no other.
        numbers = np.arange(nq)[queries].copy()
        head, n = best_head(
            x[rows], self._xq[queries], weights[rows], offsets[rows], floors_of(numbers)
        )
        share = most_finished(x.shape[1], head)
        easy = self._whole._replace(head=head, q_rests=rests(self._xq, head), most_finished=share)
        n_easy = nq if n == len(numbers) else int(numbers[n])
        with self._lock:
            self._easy, self._n_easy = easy, n_easy

    def of(self, x: F32) -> Iterator[tuple[Leading, int, int, F32]]:
        """Yield what was multiplied of a tile (m, d), and the queries ``a:b`` it is of.

        The products are (m, n) with n ≥ b − a, and overwritten by the next.
        """
        with self._lock:
            easy, n_easy = self._easy, self._n_easy
        for leading, first, last in ((easy, 0, n_easy), (self._whole, n_easy, len(self._xq))):
            yield from self._multiply(x, leading, first, last)

    def whole(
        self, left: Leading, x: F32, first: int, last: int
    ) -> Iterator[tuple[Leading, int, int, F32]]:
        """Yield the same of all dimensions, for queries ``first:last``.

        For rows of which too many products that `left` describes had to be finished: whole ones
        are multiplied until the next choice, unless another thread has chosen since.
        """
        with self._lock:
            if left.q_rests is self._easy.q_rests:
                self._easy, self._n_easy = self._whole, 0
                self._choose_every = self._until_choice = self._least_use
        yield from self._multiply(x, self._whole, first, last)

    def _multiply(
        self, x: F32, leading: Leading, first: int, last: int
    ) -> Iterator[tuple[Leading, int, int, F32]]:
        buffer = self._buffer()
        most = len(buffer) // len(x)
        taken = slice(0, leading.head)
        leading = leading._replace(x_rests=rests(x, leading.head))
        for a, b in batches(first, last, most):
            width = stride(b - a, most)
            product = buffer[: len(x) * width].reshape(len(x), width)
            with np.errstate(all="ignore"):  # queries that float32 cannot compare
                np.matmul(x[:, taken], self._xq[a:b, taken].T, out=product[:, : b - a])
            yield leading, a, b, product

    def _buffer(self) -> F32:
        """Return this thread's own."""
        if not hasattr(self._local, "buffer"):
            with self._lock:
                self._n_buffers += 1
                name = f"product {self._n_buffers}"
                self._local.buffer = self._workspace.array(name, (self._share // 4,), np.float32)
        buffer: F32 = self._local.buffer
        return buffer
