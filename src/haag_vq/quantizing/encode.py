"""Encoding a set by blocks, several at a time, each to its place in one file."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np

from haag_vq.arrays import plan_for, run_all
from haag_vq.progress import ProgressLine
from haag_vq.quantizing.kernels import PIECE_BYTES, Encoder
from haag_vq.sources import VectorSource
from haag_vq.sources.codec import U8, Codec
from haag_vq.sources.protocol import F32
from haag_vq.sources.write import write_npy_header


def encode(
    source: VectorSource,
    codec: Codec,
    path: Path,
    chunk_bytes: int,
    n_threads: int,
    progress: bool = False,
) -> float:
    """Write the codes of all rows to `path`, an .npy (n_rows, code_bytes) uint8.

    Returns
    -------
    float
        Σ|x − x̂|² ÷ Σ|x|² over all rows.
    """
    partitions = plan_for(source, chunk_bytes)
    with open(path, "wb") as file:
        shape = (source.n_rows, codec.code_bytes)
        write_npy_header(file, shape, np.dtype(np.uint8))
        file.flush()
        encoding = _Encoding(source, codec, file, partitions.max_rows, progress)
        try:
            run_all(encoding.take, list(partitions), n_threads)
        finally:
            encoding.close()
    return encoding.relative_error()


class _Encoding:
    """One set while it is encoded: what its threads share."""

    def __init__(
        self, source: VectorSource, codec: Codec, file: BinaryIO, max_rows: int, progress: bool
    ) -> None:
        self._source = source
        self._codec = codec
        self._encoder = Encoder(codec)
        self._file = file
        self._offset = file.tell()
        self._max_rows = max_rows
        self._line = ProgressLine("rows", source.n_rows) if progress else None
        self._lock = threading.Lock()
        self._buffers = threading.local()
        self._n_done = 0
        self._losses: dict[int, tuple[float, float]] = {}

    def take(self, span: tuple[int, int]) -> None:
        """Read, encode and write the rows ``start:stop``."""
        start, stop = span
        x, codes = self._own_buffers(stop - start)
        self._source.read_into(start, x)
        self._encoder.encode(x, codes)
        self._write(start, codes)
        self._losses[start] = _lost(self._codec, x, codes)
        with self._lock:
            self._n_done += stop - start
            if self._line is not None:
                self._line(self._n_done)

    def close(self) -> None:
        """End the line of progress."""
        if self._line is not None:
            self._line.close()

    def relative_error(self) -> float:
        """Sum up in the order of the rows, whichever thread came first."""
        lost, whole = (
            math.fsum(self._losses[at][i] for at in sorted(self._losses)) for i in (0, 1)
        )
        return lost / whole if whole else 0.0

    def _own_buffers(self, n: int) -> tuple[F32, U8]:
        """Places for `n` rows and their codes, a thread's own for all its blocks."""
        mine = self._buffers
        if not hasattr(mine, "x"):
            mine.x = np.empty((self._max_rows, self._source.dim), np.float32)
            mine.codes = np.empty((self._max_rows, self._codec.code_bytes), np.uint8)
        return mine.x[:n], mine.codes[:n]

    def _write(self, start: int, codes: U8) -> None:
        """Write codes at their place, whatever other threads write meanwhile."""
        rest, offset = codes.data.cast("B"), self._offset + start * self._codec.code_bytes
        while rest:
            n = os.pwrite(self._file.fileno(), rest, offset)
            rest, offset = rest[n:], offset + n


def _lost(codec: Codec, x: F32, codes: U8) -> tuple[float, float]:
    """Σ|x − x̂|² and Σ|x|² of some rows (n, dim).

    Not by a dot product: BLAS would take all cores for each of the threads that ask it.
    """
    step = max(1, PIECE_BYTES // (4 * codec.dim))
    lost = whole = 0.0
    decoded = np.empty((min(step, len(x)), codec.dim), np.float32)
    for at in range(0, len(x), step):
        some = x[at : at + step]
        found = decoded[: len(some)]
        codec.decode(codes[at : at + step], found)
        squares = np.subtract(some, found, dtype=np.float64)
        lost += float(np.add.reduce(np.square(squares, out=squares), axis=None))
        np.square(some, out=squares, dtype=np.float64)
        whole += float(np.add.reduce(squares, axis=None))
    return lost, whole
