"""Exact neighbours of queries within one block of rows: float32 proposes, D64 decides.

Tiles of the block are multiplied with the queries in float32. Where nothing is known yet of a
query's k-th neighbour, FAISS searches the first rows of the block, and its k-th distance and the
proven bound on its error give a ceiling; from then on a compiled scan of each tile's products keeps
every row that can be at or under the ceiling, which falls as rows are found (`scan`). Where it is
low enough, only the leading dimensions are multiplied (`partial`). The candidates that remain are
scored by D64. Nothing is left out on trust, so ties and near-ties need no second look; where
float32 would overflow, D64 scores the tile's every row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import CertificateError
from haag_vq.groundtruth import blas, d64, exact, scan
from haag_vq.groundtruth.listed import empty_lists, part_of
from haag_vq.groundtruth.norms import inverse_roots, longest, measure, safe_queries
from haag_vq.groundtruth.opening import first_ceilings, opening_bytes, opening_rows
from haag_vq.groundtruth.part import Part
from haag_vq.groundtruth.partial import easiest_first, least_rows
from haag_vq.groundtruth.products import PRODUCT_BYTES, Products
from haag_vq.groundtruth.tiles import Feed, Span, cut, pieces_of, tapered
from haag_vq.groundtruth.workspace import Workspace
from haag_vq.sources import Metric, VectorSource

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# A tile is converted, multiplied and scanned while it is in the cache. OpenBLAS multiplies 2048
# rows of d=1024 6% faster than 1024, with 1024 queries at a time (measured); 256 10% slower.
TILE_BYTES = 8 << 20
MOST_TILE_ROWS = 4096
LEAST_TILE_ROWS = 256

# Threads that read at one time: more than this no disk serves faster. Arbitrary.
MOST_READERS = 16


@dataclass(frozen=True, slots=True)
class Queries:
    """Queries with their norms, prepared once a task."""

    x: F32
    """(nq, d) float32."""
    squared_norms: F64
    """(nq,) float64, D64."""

    @classmethod
    def of(cls, x: F32) -> Queries:
        """Prepare (nq, d) float32 queries."""
        return cls(x, exact.squared_norms(x))

    def take(self, order: I64) -> Queries:
        """Copy them in another order."""
        return Queries(self.x[order], self.squared_norms[order])


def search_block(
    x: F32,
    first_id: int,
    queries: Queries,
    k: int,
    metric: Metric,
    *,
    source: VectorSource | None = None,
    ceilings: F64 | None = None,
    known: F64 | None = None,
    n_threads: int = 1,
    workspace: Workspace | None = None,
) -> Part:
    """Find the k rows of a block that are nearest to each query, exactly.

    Parameters
    ----------
    x : (nb, d) float32, C-contiguous
        Rows ``first_id …`` of the base; finite. With a `source`, a buffer to read them into.
    first_id : int
    queries : Queries
        (nq, d).
    k : int
    metric : {"l2", "ip", "cosine"}
    source : VectorSource, optional
        The nb rows, read in pieces while others are searched.
    ceilings : (nq,) float64, optional
        Keys above these are not asked for: upper bounds of the k-th keys, from other rows.
    known : (nq, m) float64, optional
        Keys of such rows themselves: only rows of the block that are among the k nearest of
        both are asked for.
    n_threads : int
        Threads that search; one more reads.
    workspace : Workspace, optional
        Buffers to use again.

    Returns
    -------
    Part
        Lists of up to ``min(k, nb)`` with keys up to the ceiling, complete up to the frontier.

    Raises
    ------
    DataError
        If a row is zero and the metric is cosine.
    CertificateError
        If a float32 distance lies outside its proven bound.

    Notes
    -----
    Memory: `workspace_bytes` beside the block and the queries.
    """
    order = np.arange(len(queries.x))
    if ceilings is not None and len(x) >= least_rows(len(queries.x)):
        order = easiest_first(ceilings, queries.squared_norms, metric)
        queries, ceilings = queries.take(order), ceilings[order]
        known = None if known is None else known[order]
    search = _Search(x, first_id, queries, k, metric, n_threads, workspace or Workspace(), order)
    if ceilings is not None:
        search.lists.ceilings[:] = ceilings
    if known is not None:
        search.lists = search.lists._replace(known=known)
    if len(x) and len(queries.x):
        search.run(source, opens=ceilings is None)
    lists = search.lists._replace(known=np.empty((len(order), 0)))
    # Sorted copies go before the lists are copied.
    del search, queries, known
    return part_of(lists, order, first_id, len(x))


def workspace_bytes(nb: int, nq: int, d: int, k: int, metric: Metric) -> int:
    """Most bytes that `search_block` allocates, with its result and the queries' norms."""
    width = min(k, nb)
    lists = nq * (n_candidates(width) * 8 + width * 24 + 64)
    opening = opening_bytes(nq, d, width, metric)
    unit = nq * d * 4 if metric == "cosine" else 0
    # Where queries are sorted nothing is opened; a copy of them and of known keys takes less.
    # The lists are copied out of the buffers, and masked, only when all else is done.
    return lists + PRODUCT_BYTES + max(opening, nq * width * 25) + unit + nb * 32 + nq * 16


def tile_rows(nb: int, d: int, n_threads: int) -> int:
    """Rows of a tile: as many as multiply well, and a few tiles for each thread."""
    share = max(LEAST_TILE_ROWS, -(-nb // (4 * n_threads)))
    return max(1, min(share, MOST_TILE_ROWS, TILE_BYTES // (4 * d)))


def n_candidates(k: int) -> int:
    """Length of a query's buffer of candidates: compacting one costs about what filling it did."""
    return 2 * k + 64


@dataclass(frozen=True, slots=True)
class _Tile:
    """Rows that are searched at once, as the scan takes them."""

    start: int
    """Row of the block."""
    weights: F32
    """(m,) float32; a value is ``product · weight − offset``."""
    offsets: F32
    """(m,) float32."""
    x_norm: float
    """No row is longer."""
    safe: NDArray[np.bool_]
    """(nq,): queries that float32 can compare with them."""

    def after(self, row: int) -> _Tile:
        """Return the rows from `row` on."""
        weights, offsets = self.weights[row:], self.offsets[row:]
        return replace(self, start=self.start + row, weights=weights, offsets=offsets)


class _Search:
    """One block while it is searched."""

    def __init__(
        self,
        x: F32,
        first_id: int,
        queries: Queries,
        k: int,
        metric: Metric,
        n_threads: int,
        workspace: Workspace,
        order: I64,
    ) -> None:
        nb, d = x.shape
        self._first_id = first_id
        self._order = order
        self._metric = metric
        self._code = exact.METRIC_CODES[metric]
        self._n_threads = n_threads
        self._workspace = workspace
        self._xq = queries.x if metric != "cosine" else self._unit(queries)
        self._q_norms = np.sqrt(queries.squared_norms)
        self._rows = scan.Rows(
            x,
            workspace.array("squared norms", (nb,), np.float32),
            queries.x,
            queries.squared_norms,
            d64.hash_multipliers(d),
            workspace.array("hashes of rows", (nb,), np.uint64),
        )
        self._rows.hashes[:] = 0
        width = min(k, nb)
        self.lists = empty_lists(workspace, len(queries.x), k, width, n_candidates(width))
        # Threads add to the candidates of a slab of queries one after the other.
        n_slabs = max(1, min(2 * n_threads, len(queries.x) // scan.WIDTH))
        cuts = np.linspace(0, len(queries.x), n_slabs + 1).astype(int).tolist()
        self._slabs = list(zip(cuts[:-1], cuts[1:], strict=True))
        self._locks = [threading.Lock() for _ in self._slabs]
        self._n_opening = opening_rows(self.lists.keys.shape[1])

    def _unit(self, queries: Queries) -> F32:
        out = self._workspace.array("unit queries", queries.x.shape, np.float32)
        # Divided in float64 and rounded once, without a float64 copy.
        norms = np.sqrt(queries.squared_norms)[:, None]
        np.divide(queries.x, norms, out=out, casting="same_kind")
        return out

    def run(self, source: VectorSource | None, opens: bool) -> None:
        """Read and search the block, then settle every query's list."""
        nb, d = self._rows.x.shape
        step = tile_rows(nb, d, self._n_threads)
        products = Products(self._xq, nb, self._n_threads, self._workspace, informed=not opens)
        if source is None or source.starts_anywhere:
            pieces = tapered(nb, step, self._n_threads, LEAST_TILE_ROWS)
        else:
            pieces = pieces_of(source, step)
        n_ready = len(pieces) if source is None else 0

        def read(start: int, stop: int) -> None:
            if source is not None:
                source.read_into(start, self._rows.x[start:stop])

        if opens and nb >= 2 * self._n_opening:
            n_ready = max(n_ready, self._open(pieces, read))
        ready = [tile for piece in pieces[:n_ready] for tile in cut(*piece, step)]
        at_once, n_workers = 0, self._n_threads
        if source is not None:
            at_once = n_readers(self._n_threads, source.scratch_bytes, self._rows.x.nbytes)
            n_workers += 1  # where reading waits, the cores do not
        feed = Feed(pieces[n_ready:], ready, step, at_once, self._n_threads)
        pool = self._workspace.threads(self._n_threads)
        with blas.one_blas_thread():
            feed.run(read, partial(self._search_tile, products), pool, n_workers)
        # Some take far longer than others, so the shares are smaller than slabs.
        nq = len(self._xq)
        settling = [
            pool.submit(scan.settle, self._code, a, b, self._rows, self.lists)
            for a, b in cut(0, nq, -(-nq // (8 * self._n_threads)))
        ]
        wait(settling)
        for done in settling:
            done.result()
        self._check()

    def _open(self, pieces: list[Span], read: Callable[[int, int], None]) -> int:
        """Read some pieces and let FAISS find ceilings in them; returns how many pieces."""
        n_open = 0
        while not n_open or pieces[n_open - 1][1] < self._n_opening:
            read(*pieces[n_open])
            n_open += 1
        self.lists.ceilings[:] = first_ceilings(
            self._rows.x[: self._n_opening],
            self._measure(0, self._n_opening),
            self._xq,
            self._q_norms,
            self.lists.keys.shape[1],
            self._metric,
            self._workspace,
        )
        return n_open

    def _measure(self, start: int, stop: int) -> F32:
        norms = self._rows.squared_norms[start:stop]
        measure(self._rows.x[start:stop], self._first_id + start, self._metric, norms)
        return norms

    def _search_tile(self, products: Products, start: int, stop: int) -> None:
        """Add to every query's candidates the rows of a tile that can be among its nearest."""
        norms = self._measure(start, stop)
        d = self._rows.x.shape[1]
        safe = safe_queries(norms, d, self._q_norms, self._metric)
        if not safe.all():
            self._score_tile(start, stop, np.flatnonzero(~safe))
        if not safe.any():
            return
        weights, offsets = np.ones_like(norms), np.zeros_like(norms)
        if self._metric == "l2":
            np.divide(norms, 2, out=offsets)
        elif self._metric == "cosine":
            weights = inverse_roots(norms)
        x_norm = longest(norms, d)
        x = self._rows.x[start:stop]

        def floors_of(queries: I64) -> F32:
            floors: F32 = scan.least_values(self._code, queries, x_norm, self._rows, self.lists)
            floors[~safe[queries]] = np.inf
            return floors

        products.choose(x, weights, offsets, floors_of)
        tile = _Tile(start, weights, offsets, x_norm, safe)
        for multiplied in products.of(x):
            for row, a, b in self._scan(tile, *multiplied):
                for again in products.whole(multiplied[0], x[row:], a, b):
                    self._scan(tile.after(row), *again)

    def _scan(
        self, tile: _Tile, leading: scan.Leading, a: int, b: int, product: F32
    ) -> list[tuple[int, int, int]]:
        """Scan products of a tile and queries ``a:b``.

        Returns the rows from which on they are of no use, each with the queries of which.
        """
        left = []
        for slab, (first, last) in enumerate(self._slabs):
            lo, hi = max(a, first), min(b, last)
            if lo < hi:
                with self._locks[slab]:
                    n = scan.scan(
                        self._code,
                        product,
                        lo - a,
                        lo,
                        hi,
                        tile.start,
                        tile.weights,
                        tile.offsets,
                        tile.x_norm,
                        tile.safe,
                        leading,
                        self._rows,
                        self.lists,
                    )
                if n < len(product):
                    left.append((n, lo, hi))
        return left

    def _score_tile(self, start: int, stop: int, chosen: I64) -> None:
        for slab, (first, last) in enumerate(self._slabs):
            with self._locks[slab]:
                for q in chosen[(chosen >= first) & (chosen < last)].tolist():
                    scan.score_all(self._code, q, start, stop, self._rows, self.lists)

    def _check(self) -> None:
        """Raise CertificateError if a scored pair lay outside its bound."""
        share = self.lists.largest_error
        bad = np.flatnonzero(~(share <= 1))
        if len(bad):
            q = int(bad[0])
            row = int(self.lists.broken[q])
            key = d64.keys(
                self._rows.x[row : row + 1],
                self._rows.q[q],
                self._metric,
                float(self._rows.q_squared_norms[q]),
            )
            raise CertificateError(
                f"row {self._first_id + row:,}, query {self._order[q]}, {self._metric}: the "
                f"float32 distance is off D64 {float(key[0])!r} by {share[q]!r} times its proven "
                "bound. The bound or this machine's arithmetic is broken; please report it with "
                f"|q|²={self._rows.q_squared_norms[q]!r}, "
                f"|x|²={self._rows.squared_norms[row]!r}, d={self._rows.x.shape[1]}."
            )


def n_readers(n_threads: int, scratch_bytes: int, block_bytes: int) -> int:
    """Threads that read at one time: as many as have scratch in a quarter of the block."""
    return max(1, min(n_threads, MOST_READERS, block_bytes // (4 * max(1, scratch_bytes))))
