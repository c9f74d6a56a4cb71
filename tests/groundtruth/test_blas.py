"""One BLAS thread a call while anything is searched, and what there was before afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Thread

import pytest
from threadpoolctl import threadpool_limits

from haag_vq.groundtruth import engine, openblas
from haag_vq.groundtruth.blas import one_blas_thread


def blas_threads() -> int:
    """NumPy's."""
    (library,) = (lib for lib in openblas.loaded_libraries() if "NumPy" in lib.users)
    return library.n_threads


@pytest.fixture
def two() -> Iterator[None]:
    """Two threads each, set by somebody else."""
    assert engine.faiss
    with threadpool_limits(2, user_api="blas"):
        yield
        assert blas_threads() == 2


@pytest.mark.usefixtures("two")
def test_the_first_to_come_may_be_the_first_to_leave() -> None:
    inside, leave, left = Event(), Event(), Event()

    def first() -> None:
        with one_blas_thread():
            inside.set()
            assert leave.wait(60)
        left.set()
        # It lives on, as a worker's threads do.
        assert over.wait(60)

    over = Event()
    thread = Thread(target=first)
    thread.start()
    assert inside.wait(60)
    with one_blas_thread():
        leave.set()
        assert left.wait(60)
        assert blas_threads() == 1
    assert blas_threads() == 2
    over.set()
    thread.join()


@pytest.mark.usefixtures("two")
def test_each_thread_is_heeded() -> None:
    with one_blas_thread():
        assert blas_threads() == 1
    seen: list[int] = []

    def another() -> None:
        with one_blas_thread():
            seen.append(blas_threads())
        seen.append(blas_threads())

    thread = Thread(target=another)
    thread.start()
    thread.join()
    assert seen == [1, 2]
