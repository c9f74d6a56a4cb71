"""FAISS: the one module that imports it, because how it is imported decides its speed."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth import openblas

F32 = NDArray[np.float32]


with openblas.kernel_for_this_cpu() as _choice:
    import faiss as _faiss

faiss: Any = _faiss

# FAISS multiplies matrices only where nq·d is above this; its other path is 5 times slower at
# 100 queries of 1024 dimensions (measured), and no faster at one.
faiss.cvar.distance_compute_blas_threshold = 1

# FAISS computes distances in tiles of this many queries and rows (its defaults).
TILE_QUERIES = 4096
TILE_ROWS = 1024


def knn(xq: F32, xb: F32, k: int, similarity: bool) -> tuple[F32, NDArray[np.int64]]:
    """Search `xb` (nb, d) for the k rows nearest to each of `xq` (nq, d), without an index.

    Returns
    -------
    D : (nq, k) float32
        Squared distances ascending, or inner products descending.
    I : (nq, k) int64
        Row numbers in `xb`; -1 where FAISS found fewer than k.
    """
    check_blas()
    metric = faiss.METRIC_INNER_PRODUCT if similarity else faiss.METRIC_L2
    found: tuple[F32, NDArray[np.int64]] = faiss.knn(xq, xb, k, metric=metric)
    return found


def use_threads(n: int) -> None:
    """Let FAISS use `n` threads in the calling thread: its setting is a thread's own."""
    faiss.omp_set_num_threads(n)


def blas_report() -> openblas.BlasReport:
    """Compare the BLAS kernels that FAISS and NumPy got with this process's CPU."""
    return openblas.BlasReport(openblas.this_cpu(), _choice, openblas.loaded_libraries())


@cache
def check_blas() -> None:
    """Warn, once a process, where a BLAS kernel is older than the CPU: the search is slow then.

    One that a user named, or the machine's keeper, is no surprise: only the doctor tells of it.
    """
    report = blas_report()
    complaint = report.complaint()
    if complaint is not None and not report.choice.by_user:
        warnings.warn(complaint, stacklevel=2)
