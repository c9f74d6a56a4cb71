"""How fast this process multiplies, searches and converts: what `haag_vq.doctor` measures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import psutil
from numpy.typing import NDArray

from haag_vq.groundtruth import blas, engine
from haag_vq.memory import Allowance, Projection, check_fits
from haag_vq.sources.convert import to_float32

F32 = NDArray[np.float32]

# MS MARCO's queries and dimension, and the usual k: what figures elsewhere are given for.
N_QUERIES, DIM, K = 1677, 1024, 100

# Whole tiles of FAISS's. The most are 169 MiB with their products; with fewer than the least,
# keeping the k nearest is most of FAISS's time.
LEAST_ROWS, MOST_ROWS = 2 * engine.TILE_ROWS, 16 * engine.TILE_ROWS
N_REPEATS = 3

# Seconds that FAISS shall take over its repeats together.
SECONDS, QUICK_SECONDS = 2.0, 0.2

# Rows of the conversion: 16 MiB of float32, more than a core's own cache.
HALF_ROWS = 4 * engine.TILE_ROWS


@dataclass(frozen=True, slots=True)
class Speeds:
    """Medians of a few interleaved repeats, with the threads a search would use."""

    n_queries: int
    n_rows: int
    dim: int
    queries_by_rows_gflops: float
    """NumPy's sgemm, Q @ Xᵀ, in 10⁹ operations a second; 2·nq·n·d count for all."""
    rows_by_queries_gflops: float
    """NumPy's sgemm, X @ Qᵀ."""
    faiss_gflops: float
    """FAISS's search for the k=100 nearest by squared L2."""
    half_rows_per_second: float
    """float16 rows of `dim` converted to float32 by one thread."""

    @property
    def faiss_share(self) -> float:
        """FAISS's speed as a share of Q @ Xᵀ: what selecting and a poorer kernel leave of it."""
        return self.faiss_gflops / self.queries_by_rows_gflops


def measure_speeds(allowance: Allowance, quick: bool = False) -> Speeds:
    """Measure for some seconds, on random vectors.

    Memory: within `allowance`, at most 250 MiB beside the process; fewer rows where it is small.

    Raises
    ------
    InsufficientMemoryError
        If not even two tiles of rows fit.
    """
    most = _affordable_rows(allowance)
    rng = np.random.default_rng(0)
    xq = rng.standard_normal((N_QUERIES, DIM), dtype=np.float32)
    xb = rng.standard_normal((most, DIM), dtype=np.float32)
    engine.use_threads(blas.thread_count(None))
    tile = xb[: engine.TILE_ROWS]
    _seconds(lambda: engine.knn(xq, tile, K, False))  # threads start, buffers are touched
    a_tile = _seconds(lambda: engine.knn(xq, tile, K, False))
    wanted = (QUICK_SECONDS if quick else SECONDS) / N_REPEATS / a_tile
    n_rows = min(most, max(LEAST_ROWS, int(wanted) * engine.TILE_ROWS))
    return _measure(xq, xb[:n_rows])


def _affordable_rows(allowance: Allowance) -> int:
    """The most rows whose measurement fits: whole tiles."""

    def projection(n_rows: int) -> Projection:
        return Projection(
            buffer_bytes=n_rows * DIM * 4,
            scratch_bytes=HALF_ROWS * DIM * 2,
            # Queries, the product; FAISS's tile and what both BLAS pack.
            search_bytes=N_QUERIES * (DIM + n_rows) * 4 + (64 << 20),
            process_bytes=psutil.Process().memory_info().rss,
        )

    n_rows = MOST_ROWS
    while n_rows > LEAST_ROWS and projection(n_rows).total_bytes > allowance.bytes:
        n_rows -= engine.TILE_ROWS
    remedy = "Give this process more memory to have its speed measured."
    check_fits("Measuring", projection(n_rows), allowance, remedy)
    return n_rows


def _measure(xq: F32, xb: F32) -> Speeds:
    product = np.empty(len(xq) * len(xb), np.float32)
    q_by_x, x_by_q = product.reshape(len(xq), len(xb)), product.reshape(len(xb), len(xq))
    half = xb[:HALF_ROWS].astype(np.float16)
    ways: list[Callable[[], object]] = [
        lambda: np.matmul(xq, xb.T, out=q_by_x),
        lambda: np.matmul(xb, xq.T, out=x_by_q),
        lambda: engine.knn(xq, xb, K, False),
        lambda: to_float32(half, xb[: len(half)]),
    ]
    for way in ways[:2]:
        way()
    # Interleaved: what else the machine does is then the same for all.
    runs = [[_seconds(way) for way in ways] for _ in range(N_REPEATS)]
    took = [median(run[i] for run in runs) for i in range(len(ways))]
    gigaflop = 2e-9 * len(xq) * len(xb) * xb.shape[1]
    return Speeds(
        n_queries=len(xq),
        n_rows=len(xb),
        dim=xb.shape[1],
        queries_by_rows_gflops=gigaflop / took[0],
        rows_by_queries_gflops=gigaflop / took[1],
        faiss_gflops=gigaflop / took[2],
        half_rows_per_second=len(half) / took[3],
    )


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
