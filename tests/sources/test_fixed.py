"""Where pieces of a file lie while they are read: nobody else's memory, and no more than needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq.sources import ahead, fixed, open_source
from haag_vq.sources.convert import to_float32
from haag_vq.sources.fixed import FixedRowSource
from tests.support.files import UNWRITTEN, read_rows

DIM = 8


class FarFile:
    """A file that is not on a file system: every value of it is the same float16."""

    path, size_bytes, local_path = "far.npy", 1 << 20, None

    def __init__(self, value: float, until: threading.Event | None = None) -> None:
        self._bytes = np.float16(value).tobytes()
        self._until = until

    @contextmanager
    def opened(self) -> Iterator[FarFile]:
        yield self

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if self._until is not None:
            self._until.wait(30)
        buffer[:] = self._bytes * (len(buffer) // 2)

    def fingerprint(self, layout: str) -> str:
        return layout


def far_source(value: float, until: threading.Event | None = None) -> FixedRowSource:
    return FixedRowSource(FarFile(value, until), 0, 100, DIM, np.dtype(np.float16))


def test_what_an_interrupted_read_still_fetches_is_in_nobody_elses_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a second Ctrl-C, which ends the wait for what fetches."""
    may_go_on = threading.Event()
    left: list[ThreadPoolExecutor] = []

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            left.append(self)
            raise KeyboardInterrupt

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ahead, "ThreadPoolExecutor", Pool)
        patch.setattr(Future, "result", interrupted)
        with suppress(KeyboardInterrupt):
            read_rows(far_source(1.0, may_go_on))
    out = np.full((100, DIM), UNWRITTEN, np.float32)
    second = far_source(2.0)

    def late(values: NDArray[np.float16], part: NDArray[np.float32]) -> bool:
        may_go_on.set()
        ThreadPoolExecutor.shutdown(left[0])  # all that was on its way has come
        return to_float32(values, part)

    monkeypatch.setattr(fixed, "to_float32", late)
    second.read_into(0, out)
    assert_array_equal(out, np.float32(2.0))


def test_pieces_are_as_many_as_readers_at_one_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed, "_idle", [])
    rows = np.random.default_rng(0).standard_normal((50, DIM)).astype(np.float16)
    np.save(tmp_path / "x.npy", rows)
    source = open_source(tmp_path / "x.npy")
    for _ in range(5):  # each in a thread of its own
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(read_rows, source).result()
        assert_array_equal(found, rows.astype(np.float32))
    assert len(fixed._idle) == 1
    meet = threading.Barrier(3)

    def together(values: NDArray[np.float16], part: NDArray[np.float32]) -> bool:
        meet.wait(30)
        return to_float32(values, part)

    monkeypatch.setattr(fixed, "to_float32", together)
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(read_rows, [source] * 3):
            assert_array_equal(found, rows.astype(np.float32))
    assert len(fixed._idle) == 3


def test_a_piece_comes_back_from_a_read_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed, "_idle", [])
    np.save(tmp_path / "x.npy", np.full((5, DIM), np.nan, np.float16))
    with pytest.raises(ValueError, match="row 0"):
        read_rows(open_source(tmp_path / "x.npy"))
    assert len(fixed._idle) == 1
