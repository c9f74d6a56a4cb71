"""Threads of the search: how many, and matrix products that each stay on one core."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import threadpoolctl

from haag_vq.memory import n_cores

_lock = threading.Lock()
_n_inside = 0
_limit: Any = None


def thread_count(n: int | None) -> int:
    """Threads that one search may use: `n`, or where it is None what OMP_NUM_THREADS says.

    A cluster sets that for its workers; without it, as many as the process has cores.
    """
    if n is not None:
        return n
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) else n_cores()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let NumPy's BLAS use one thread a call, in the whole process, meanwhile.

    The search multiplies tiles on threads of its own. The setting is the process's: the first
    search to come in makes it and the last to leave takes it back. (FAISS's own BLAS takes it for
    the calling thread's, and is not asked for anything meanwhile.)
    """
    global _n_inside, _limit
    with _lock:
        if _n_inside == 0:
            _take_control()
            _limit = _controller().limit(limits=1, user_api="blas")
        _n_inside += 1
    try:
        yield
    finally:
        with _lock:
            _n_inside -= 1
            if _n_inside == 0:
                _take_control()
                _limit.restore_original_limits()


def _take_control() -> None:
    """Have threadpoolctl heed this thread.

    Since version 3.8 it does nothing, without a word, for others than the first that ever set
    OpenBLAS's threads.
    """
    controller = threadpoolctl.OpenBLASController
    if hasattr(controller, "clear_controlling_thread"):
        controller.clear_controlling_thread(force=True)


@cache
def _controller() -> threadpoolctl.ThreadpoolController:
    # Looking for the libraries takes milliseconds; they are all loaded by the first search.
    return threadpoolctl.ThreadpoolController()
