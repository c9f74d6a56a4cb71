"""A stored file as the file object that other libraries read, with windows fetched ahead."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO

from haag_vq.sources.fileio import FileReader, StoredFile

# One request of a column's bytes: at 100 MB/s it takes three times a round trip of 30 ms.
WINDOW_BYTES = 8 << 20
# The one that is used and the one that is on its way.
N_WINDOWS = 2
# Bytes of other columns that are read rather than asked around: less than what a round trip
# costs. Chunks of 1,000 rows lie farther apart, so that of them nothing else is read.
GAP_BYTES = 64 << 10

Window = tuple[int, int]


def windows_of(spans: Iterable[Window]) -> list[Window]:
    """Cut and join byte spans (first, end), ascending, into requests of up to `WINDOW_BYTES`."""
    windows: list[Window] = []
    for start, stop in spans:
        begin = start
        if windows:
            first, end = windows[-1]
            if start - end <= GAP_BYTES and start - first < WINDOW_BYTES:
                begin = min(stop, first + WINDOW_BYTES)
                windows[-1] = (first, begin)
        windows += [(at, min(at + WINDOW_BYTES, stop)) for at in range(begin, stop, WINDOW_BYTES)]
    return windows


class RangedFile(io.RawIOBase):
    """Positioned reads behind a file position; serves one thread, for one call.

    Parameters
    ----------
    reader : FileReader
    size_bytes : int
    windows : sequence of (first, end)
        Bytes that will be read in order: while one window is used the next is fetched. Other
        bytes are read as they are asked for.

    Notes
    -----
    Memory: `N_WINDOWS` of the windows' size.
    """

    def __init__(self, reader: FileReader, size_bytes: int, windows: Sequence[Window] = ()) -> None:
        self._reader = reader
        self._size_bytes = size_bytes
        self._windows = windows
        self._position = 0
        self._at = -1
        self._held = bytearray()
        self._coming: Future[bytearray] | None = None
        self._pool = ThreadPoolExecutor(1) if windows else None

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset` (bytes) from the start, the position or the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Position in bytes."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the file goes; returns the number of bytes."""
        target = memoryview(buffer).cast("B")[: max(0, self._size_bytes - self._position)]
        done = 0
        while done < len(target):
            part = target[done:]
            held = self._window_at(self._position)
            if held is None:
                # Up to the next window: what lies in one is fetched once, with it.
                ahead = [a - self._position for a, _ in self._windows if a > self._position]
                part = part[: min(ahead, default=len(part))]
                self._reader.read_into(self._position, part)
            else:
                part = part[: len(held)]
                part[:] = held[: len(part)]
            done += len(part)
            self._position += len(part)
        return done

    def close(self) -> None:
        """Wait for what is on its way, and let go of it."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        super().close()

    def _window_at(self, position: int) -> memoryview | None:
        """Bytes from `position` to the end of the window that holds it; None outside of all."""
        for i in range(max(0, self._at), len(self._windows)):
            first, end = self._windows[i]
            if position < first:
                return None
            if position < end:
                if i != self._at:
                    self._turn_to(i)
                return memoryview(self._held)[position - first :]
        return None

    def _turn_to(self, i: int) -> None:
        coming = self._coming if i == self._at + 1 else None
        self._held = bytearray()
        self._held = coming.result() if coming else self._fetch(i)
        self._at = i
        more = self._pool is not None and i + 1 < len(self._windows)
        self._coming = self._pool.submit(self._fetch, i + 1) if more and self._pool else None

    def _fetch(self, i: int) -> bytearray:
        first, end = self._windows[i]
        held = bytearray(end - first)
        self._reader.read_into(first, memoryview(held))
        return held


@contextmanager
def header_of(file: StoredFile, n_bytes: int) -> Iterator[BinaryIO]:
    """Yield a file object to parse a header from, that reads pieces of `n_bytes`."""
    if file.local_path is not None:
        with file.opened(), open(file.local_path, "rb") as opened:
            yield opened
        return
    with file.opened() as reader:
        raw = RangedFile(reader, file.size_bytes)
        with io.BufferedReader(raw, n_bytes) as buffered:
            yield buffered
