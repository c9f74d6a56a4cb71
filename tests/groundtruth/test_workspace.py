"""What a process keeps between blocks: buffers used again, and keys that lower ceilings."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq.groundtruth import workspace
from haag_vq.groundtruth.workspace import Workspace

F64 = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    workspace.release()
    yield
    workspace.release()


# --- buffers ----------------------------------------------------------------------------------


def test_a_buffer_is_used_again_for_whatever_fits() -> None:
    held = Workspace()
    first = held.array("block", (100, 8), np.float32)
    first[:] = 7
    again = held.array("block", (25, 16), np.float64)
    assert again.shape == (25, 16)
    assert again.dtype == np.float64
    assert np.shares_memory(first, again)
    smaller = held.array("block", (3,), np.float32)
    assert smaller.tolist() == [7, 7, 7]
    assert all(a.flags.c_contiguous and a.flags.writeable for a in (first, again, smaller))


def test_buffers_of_two_names_are_two() -> None:
    held = Workspace()
    assert not np.shares_memory(
        held.array("keys", (10,), np.float64), held.array("ids", (10,), np.int64)
    )


def test_a_buffer_that_grows_is_never_there_twice() -> None:
    held = Workspace()
    held.array("block", (1 << 20,), np.uint8)
    tracemalloc.start()
    try:
        # tracemalloc knows only of what was allocated since; so once more.
        held.array("block", (2 << 20,), np.uint8)
        tracemalloc.reset_peak()
        held.array("block", (3 << 20,), np.uint8)
        assert tracemalloc.get_traced_memory()[1] < (3 << 20) + 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(0,), (0, 8), (5, 0)])
def test_empty_arrays_need_no_buffer(shape: tuple[int, ...]) -> None:
    assert Workspace().array("lists", shape, np.int64).shape == shape


def test_a_pool_grows_and_is_used_again() -> None:
    held = Workspace()
    two = held.threads(2)
    assert held.threads(1) is two
    four = held.threads(4)
    barrier = threading.Barrier(4)
    for meeting in [four.submit(barrier.wait, 10) for _ in range(4)]:
        meeting.result()
    held.close()
    with pytest.raises(RuntimeError):
        four.submit(int)
    assert held.threads(2).submit(int, 3).result() == 3
    held.close()


def test_one_at_a_time_has_a_workspace_and_the_next_gets_the_same() -> None:
    with workspace.borrowed("job") as mine:
        with workspace.borrowed("job") as other:
            assert other is not mine
        with workspace.borrowed("job") as again:
            assert again is other
    with workspace.borrowed("job") as first, workspace.borrowed("job") as second:
        assert {id(first), id(second)} == {id(mine), id(other)}


@pytest.mark.parametrize(
    ("error", "stays"), [(OSError("gone"), True), (KeyboardInterrupt(), False)]
)
def test_after_an_interrupt_a_workspace_is_given_up(error: BaseException, stays: bool) -> None:
    """Some thread of it may still write; after an error none does."""
    kept: list[Workspace] = []

    def fail() -> None:
        with workspace.borrowed("job") as held:
            kept.append(held)
            raise error

    with pytest.raises(type(error)):
        fail()
    with workspace.borrowed("job") as held:
        assert (held is kept[0]) == stays


def test_another_job_keeps_only_what_it_has_a_use_for() -> None:
    def sizes(job: str, **shapes: int) -> dict[str, int]:
        with workspace.borrowed(job) as held:
            for name, n in shapes.items():
                held.array(name, (n,), np.uint8)
        return {name: buffer.nbytes for name, buffer in held._buffers.items()}

    assert sizes("one", block=500, lists=300, unit=9) == {"block": 500, "lists": 300, "unit": 9}
    # Within a job the largest stays.
    assert sizes("one", block=100, lists=400) == {"block": 500, "lists": 400, "unit": 9}
    assert sizes("two", block=100, lists=400) == {"block": 100, "lists": 400}


def test_what_is_released_is_given_back() -> None:
    with workspace.borrowed("job") as held:
        buffer = weakref.ref(held.array("block", (1000,), np.uint8).base)
        pool = held.threads(2)
    del held
    workspace.learn("job", 1, 0, 1, np.zeros((2, 3)), 3)
    workspace.release()
    gc.collect()
    assert buffer() is None
    assert workspace.known_keys("job", -1, 0, 3) is None
    with pytest.raises(RuntimeError):
        pool.submit(int)


def test_idle_workspaces_are_given_back_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    release = workspace.release

    def noted() -> None:
        release()
        released.set()

    monkeypatch.setattr(workspace, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(workspace, "_janitor", None)
    monkeypatch.setattr(workspace, "release", noted)
    with workspace.borrowed("job") as held:
        pass
    assert released.wait(10)
    with workspace.borrowed("job") as other:
        assert other is not held


# --- keys of a job ----------------------------------------------------------------------------


def known(job: str, segment: int, width: int) -> list[list[float]] | None:
    found = workspace.known_keys(job, -1, segment, width)
    return None if found is None else [sorted(row) for row in found.tolist()]


def test_keys_are_known_when_there_are_enough() -> None:
    workspace.learn("job", 2, 0, 1, np.array([[1.0, 4.0], [2.0, 3.0]]), 3)
    assert known("job", 0, 3) is None
    workspace.learn("job", 3, 0, 1, np.array([[2.0, 3.0], [5.0, np.inf]]), 3)
    assert known("job", 0, 3) == [[1, 2, 3], [2, 3, 5]]


def test_another_job_knows_nothing_and_ends_the_first() -> None:
    workspace.learn("one", 4, 0, 1, np.zeros((1, 2)), 2)
    assert known("two", 0, 2) is None
    assert known("one", 0, 2) == [[0, 0]]
    workspace.learn("two", 5, 0, 1, np.ones((1, 2)), 2)
    assert known("two", 0, 2) == [[1, 1]]
    assert known("one", 0, 2) is None


def test_a_prefix_learns_nothing_from_rows_after_it() -> None:
    """A bound from later rows could leave out what the prefix's own truth needs."""
    workspace.learn("job", 6, 1, 3, np.array([[1.0, 2.0]]), 2)
    assert known("job", 0, 2) is None
    assert known("job", 1, 2) == known("job", 2, 2) == [[1, 2]]
    workspace.learn("job", 7, 2, 3, np.array([[0.5, 0.6]]), 2)
    workspace.learn("job", 8, 0, 3, np.array([[3.0, 1.5]]), 2)
    assert known("job", 0, 2) == [[1.5, 3]]
    assert known("job", 1, 2) == [[1, 1.5]]
    assert known("job", 2, 2) == [[0.5, 0.6]]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=8),
    st.integers(1, 8),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=150)
def test_what_is_known_is_the_nearest_of_all_blocks_up_to_the_segment(
    blocks: list[tuple[int, int]], width: int, seed: int
) -> None:
    workspace.release()
    rng = np.random.default_rng(seed)
    learnt: list[tuple[int, F64]] = []
    for block, (segment, n) in enumerate(blocks):
        keys = np.sort(rng.integers(0, 9, (2, n)).astype(float), axis=1)
        workspace.learn("job", block, segment, 4, keys, width)
        learnt.append((segment, keys))
    for segment in range(4):
        of_segment = [keys for s, keys in learnt if s <= segment]
        whole = np.sort(np.concatenate([np.empty((2, 0)), *of_segment], axis=1), axis=1)
        found = workspace.known_keys("job", -1, segment, width)
        if whole.shape[1] < width:
            assert found is None
        else:
            assert found is not None
            assert_array_equal(np.sort(found, axis=1), whole[:, :width])


def test_known_keys_are_of_the_kind_that_the_search_is_compiled_for() -> None:
    """A view of some columns would be another: a worker would compile all of it anew."""
    for block in range(3):
        workspace.learn("job", block, 0, 1, np.zeros((4, 3)), 5)
    found = workspace.known_keys("job", -1, 0, 5)
    assert found is not None
    assert found.flags.c_contiguous
    assert found.flags.writeable


def test_a_block_that_is_still_searched_keeps_the_keys_it_was_given() -> None:
    workspace.learn("job", 11, 0, 1, np.array([[4.0, 5.0]]), 2)
    found = workspace.known_keys("job", -1, 0, 2)
    assert found is not None
    before = found.copy()
    workspace.learn("job", 12, 0, 1, np.array([[1.0, 2.0]]), 2)
    assert_array_equal(found, before)


@pytest.mark.parametrize("n_segments", [1, 3])
def test_what_is_known_keeps_to_its_memory(n_segments: int) -> None:
    nq, width = 500, 100
    rng = np.random.default_rng(0)
    blocks = [rng.random((nq, width)) for _ in range(4)]
    tracemalloc.start()
    try:
        for i, block in enumerate(blocks):
            workspace.learn("job", i, 0, n_segments, block, width)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= workspace.ceilings_bytes(nq, width, n_segments) + 10_000


def test_a_block_that_is_searched_again_is_not_told_its_own_keys() -> None:
    """Dask does so where its result was lost with another process: rows would count twice."""
    workspace.learn("job", 5, 0, 1, np.array([[1.0, 2.0]]), 2)
    assert workspace.known_keys("job", 5, 0, 2) is None
    workspace.learn("job", 5, 0, 1, np.array([[1.0, 2.0]]), 2)
    assert known("job", 0, 2) == [[1, 2]]
