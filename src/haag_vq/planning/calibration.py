"""Measure the rates that plans go by, with the very parts that run: half a minute."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import InsufficientMemoryError, ReadError
from haag_vq.export import export_vectors
from haag_vq.groundtruth import blas, workspace
from haag_vq.groundtruth.inputs import EXTRA
from haag_vq.groundtruth.openblas import this_cpu
from haag_vq.groundtruth.precompile import ensure_compiled
from haag_vq.groundtruth.tasks import BlockTask, Search
from haag_vq.memory import format_bytes, process_allowance
from haag_vq.planning.rates import MEASURED_SPREAD, Rates
from haag_vq.quantizing.kernels import Encoder
from haag_vq.sources import ArraySource, SyntheticSource, VectorSource, open_source
from haag_vq.sources.codec import N_CENTROIDS, ProductCodec

F32 = NDArray[np.float32]

# Queries, dimensions and rows of a block of three searches, each ruled by another rate.
WIDE = 1024
SHAPES = ((1677, WIDE, 4096), (1677, 128, 16384), (8, WIDE, 8192))
K = 100
N_BLOCKS, N_REPEATS = 9, 3

# Of a file that is read from disk, written to it, and converted.
DISK_BYTES, CONVERTED_VALUES = 128 << 20, 1 << 23

STORED = {
    "float16": ("x.npy", "float16"),
    "float32": ("x.fbin", "float32"),
    "float64": ("x.npy", "float64"),
    "int8": ("x.i8bin", "int8"),
    "uint8": ("x.u8bin", "uint8"),
    "parquet-float32": ("x.parquet", "float32"),
    "parquet-float64": ("x.parquet", "float64"),
}

# What a calibration takes beside the process, about: rows, their products, two files' pages.
NEEDED_BYTES = 512 << 20


def calibrate(directory: str | os.PathLike[str] | None = None) -> Rates:
    """Measure this machine: products, scan, scoring, conversions, disk, start.

    Parameters
    ----------
    directory : path-like, optional
        Whose disk is measured; the system's temporary one by default. 512 MiB must be free.

    Raises
    ------
    InsufficientMemoryError
        If 512 MiB are more than this process may use.
    ReadError
        If the small job whose start is timed fails.

    Notes
    -----
    The network is not measured: its rate is assumed.
    """
    allowance = process_allowance()
    if allowance.bytes < NEEDED_BYTES:
        raise InsufficientMemoryError(
            f"calibrating takes {format_bytes(NEEDED_BYTES)}, this process may use "
            f"{format_bytes(allowance.bytes)} ({allowance.origin}). Give it more."
        )
    with tempfile.TemporaryDirectory(prefix="haag-vq-calibrate-", dir=directory) as home:
        # Before anything is searched: float16 as a load converts it. A search is faster.
        convert = {
            kind: _converted(Path(home) / name, dtype) for kind, (name, dtype) in STORED.items()
        }
        convert["synthetic"] = _values_a_second(SyntheticSource(CONVERTED_VALUES // WIDE, WIDE))
        write, read = _disk_rates(Path(home) / "disk")
        start = _start_seconds(Path(home))
    ensure_compiled()
    multiply, scan, rows, scored = _search_rates()
    encoded = _encoded_rate()
    return Rates(
        multiply_flops=multiply,
        scan_pairs=scan,
        row_values=rows,
        scored_values=scored,
        encoded_values=encoded,
        read_bytes=read,
        write_bytes=write,
        start_seconds=start,
        convert=convert,
        cpu=this_cpu().model,
        spread=MEASURED_SPREAD,
        origin="rates measured now",
    )


def _search_rates() -> tuple[float, float, float, float]:
    """Rates of products, scan, rows and scoring, a core.

    A block of n rows takes ``2·nq·n·d/m + nq·n/s + n·d/r`` and its scoring: three shapes, three
    unknowns.
    """
    n_threads = blas.thread_count(None)
    usual, scoring = zip(*(_block_seconds(*shape) for shape in SHAPES), strict=True)
    times = np.array(usual) * n_threads
    shares = np.array([[2.0 * nq * d * n, nq * n, d * n] for nq, d, n in SHAPES])
    # What vanishes beside the others is not infinitely fast: a hundredth of its search's time.
    least = 0.01 * times / np.diag(shares)
    seconds = np.maximum(_not_negative(shares, times), least)
    nq, d, _ = SHAPES[0]
    per_value = max(scoring[0] * n_threads / (nq * (K + EXTRA) * d), 1e-11)
    multiply, scan, rows = (float(1 / x) for x in seconds)
    return multiply, scan, rows, 1 / per_value


def _not_negative(shares: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve ``shares · x = times`` by relative error; what comes out negative is left out."""
    scaled, kept = shares / times[:, None], list(range(shares.shape[1]))
    while True:
        found = np.linalg.lstsq(scaled[:, kept], np.ones(len(times)), rcond=None)[0]
        if (found > 0).all():
            answer = np.zeros(shares.shape[1])
            answer[kept] = found
            return answer
        kept.pop(int(np.argmin(found)))


def _block_seconds(nq: int, d: int, n_rows: int) -> tuple[float, float]:
    """Seconds of a block without its scoring, and of scoring a whole list of each query.

    The j-th block of a job scores a j-th of its lists: the times fall to what the rest takes.
    """
    made = np.empty((N_BLOCKS * n_rows + nq, d), np.float32)
    SyntheticSource(len(made), d).read_into(0, made)
    xq, x = made[:nq], made[nq:]
    took = np.full(N_BLOCKS, np.inf)
    for _ in range(N_REPEATS):
        search = Search(f"calibrate-{uuid.uuid4().hex}", K + EXTRA, "l2", None)
        for j in range(N_BLOCKS):
            start = j * n_rows
            task = BlockTask(ArraySource(x[start : start + n_rows], start), start, 0, search)
            # What else the machine does only adds to it.
            took[j] = min(took[j], _seconds(partial(task, xq)))
    workspace.release()
    # The first touches fresh buffers, and opens.
    shares = np.array([[1, 1 / j] for j in range(2, N_BLOCKS + 1)])
    rest, scoring = np.linalg.lstsq(shares, took[1:], rcond=None)[0]
    least = float(took.min()) / 2
    return max(float(rest), least), max(float(scoring), 0.0)


def _encoded_rate() -> float:
    """Elements a second that one thread encodes by a product codec of 16 dimensions a byte."""
    x = np.empty((2048, WIDE), np.float32)
    SyntheticSource(len(x), WIDE).read_into(0, x)
    encoder = Encoder(ProductCodec(x[:N_CENTROIDS].reshape(WIDE // 16, N_CENTROIDS, 16)))
    codes = np.empty((len(x), WIDE // 16), np.uint8)
    encoder.encode(x[:1], codes[:1])  # compiled
    return x.size / median(_seconds(partial(encoder.encode, x, codes)) for _ in range(3))


def _converted(path: Path, dtype: str) -> float:
    made: VectorSource = SyntheticSource(CONVERTED_VALUES // WIDE, WIDE)
    if dtype.endswith("int8"):
        values = np.random.default_rng(0).integers(0, 100, (made.n_rows, WIDE), np.uint8)
        made = ArraySource(values)
    export_vectors(made, path, dtype)
    rate = _values_a_second(open_source(path))
    path.unlink()
    return rate


def _values_a_second(source: VectorSource) -> float:
    """Elements a second that one thread delivers, from the page cache."""
    out = np.empty((source.n_rows, source.dim), np.float32)
    source.read_into(0, out)
    return out.size / median(_seconds(lambda: source.read_into(0, out)) for _ in range(3))


def _disk_rates(path: Path) -> tuple[float, float]:
    """Bytes a second written to disk, and read with nothing in the page cache."""
    piece = np.random.default_rng(0).bytes(8 << 20)

    def write() -> None:
        with open(path, "wb") as file:
            for _ in range(DISK_BYTES // len(piece)):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    def read() -> None:
        with open(path, "rb", buffering=0) as file:
            buffer = bytearray(len(piece))
            while file.readinto(buffer):
                pass

    written = DISK_BYTES / _seconds(write)
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return written, DISK_BYTES / _seconds(read)


def _start_seconds(home: Path) -> float:
    """Seconds of a whole command that has next to nothing to do."""
    command = [sys.executable, "-m", "haag_vq.cli", "ground-truth", "synthetic:200x16"]
    command += ["--queries", "first:3", "--k", "3", "--quiet", "--out", str(home / "t.npz")]

    def run() -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ReadError(f"a job of 200 rows failed: {done.stderr.strip()[-300:]}")

    return min(_seconds(run) for _ in range(2))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
