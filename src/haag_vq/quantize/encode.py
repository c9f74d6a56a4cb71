"""Encoding a set by blocks, several at a time, each to its place in one file."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from haag_vq.arrays import plan_for, run_all
from haag_vq.errors import WriteError
from haag_vq.progress import ProgressLine
from haag_vq.quantize.kernels import Encoder
from haag_vq.quantize.needs import PIECE_BYTES
from haag_vq.sources import VectorSource
from haag_vq.sources.codec import Codec
from haag_vq.sources.protocol import F32

U8 = NDArray[np.uint8]


def encode(
    source: VectorSource,
    codec: Codec,
    path: Path,
    chunk_bytes: int,
    n_threads: int,
    progress: bool,
) -> float:
    """Write the codes of all rows; returns the share of their squared norms that is lost."""
    partitions = plan_for(source, chunk_bytes)
    encoder = Encoder(codec)
    line = ProgressLine("rows", source.n_rows) if progress else None
    lock, local, n_done = threading.Lock(), threading.local(), 0
    losses: dict[int, tuple[float, float]] = {}

    def work(span: tuple[int, int]) -> None:
        nonlocal n_done
        start, stop = span
        if not hasattr(local, "x"):  # each thread's own, for all its blocks
            local.x = np.empty((partitions.max_rows, source.dim), np.float32)
            local.codes = np.empty((partitions.max_rows, codec.code_bytes), np.uint8)
        x, codes = local.x[: stop - start], local.codes[: stop - start]
        source.read_into(start, x)
        encoder.encode(x, codes)
        _write(file.fileno(), offset + start * codec.code_bytes, codes, path)
        losses[start] = _lost(codec, x, codes)
        with lock:
            n_done += stop - start
            if line is not None:
                line(n_done)

    try:
        with open(path, "wb") as file:
            header = {
                "descr": "|u1",
                "fortran_order": False,
                "shape": (source.n_rows, codec.code_bytes),
            }
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            offset = file.tell()
            run_all(work, list(partitions), n_threads)
    finally:
        if line is not None:
            line.close()
    # In the order of the rows, whichever thread came first.
    lost, whole = (math.fsum(losses[at][i] for at in sorted(losses)) for i in (0, 1))
    return lost / whole if whole else 0.0


def _lost(codec: Codec, x: F32, codes: U8) -> tuple[float, float]:
    """Σ|x − x̂|² and Σ|x|² of some rows (n, dim)."""
    step = max(1, PIECE_BYTES // (4 * codec.dim))
    lost = whole = 0.0
    decoded = np.empty((min(step, len(x)), codec.dim), np.float32)
    for at in range(0, len(x), step):
        some = x[at : at + step]
        found = decoded[: len(some)]
        codec.decode(codes[at : at + step], found)
        gaps = np.subtract(some, found, dtype=np.float64)
        lost += float(np.vdot(gaps, gaps))
        wide = some.astype(np.float64)
        whole += float(np.vdot(wide, wide))
    return lost, whole


def _write(fd: int, offset: int, codes: U8, path: Path) -> None:
    """Write codes at their place, whatever other threads write meanwhile."""
    rest = codes.data.cast("B")
    try:
        while rest:
            n = os.pwrite(fd, rest, offset)
            rest, offset = rest[n:], offset + n
    except OSError as error:
        raise WriteError(
            f"writing {path} failed: {error.strerror}. Nothing is left of it."
        ) from error
