"""A read allocates no more beside its output than the source says."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from haag_vq.sources import (
    ArraySource,
    ConcatSource,
    PrefixSource,
    SyntheticSource,
    TakeSource,
    VectorSource,
    WithoutSource,
    open_source,
)
from haag_vq.sources.codec import save_codec
from haag_vq.sources.protocol import F32
from haag_vq.sources.quantized import CODEC_NAME, CODES_NAME
from tests.support.codecs import product_codec
from tests.support.files import vectors, write_npy, write_parquet, write_texmex

# 12 MiB as float32: many times the pieces that are read, and than what is allowed below.
N, DIM = 12_288, 256

# Row numbers, their order and places: documented with the sources that have them.
PER_ROW_BYTES = 48
INTERPRETER_BYTES = 256 << 10


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("scratch")
    write_npy(path / "f4.npy", vectors(N, DIM))
    write_npy(path / "f2.npy", vectors(N, DIM, "float16"))
    write_npy(path / "f8.npy", vectors(N, DIM, "float64"))
    write_texmex(path / "f4.fvecs", vectors(N, DIM))
    write_parquet(path / "f4.parquet", vectors(N, DIM), row_group_size=N)
    write_parquet(path / "f8.parquet", vectors(N, DIM, "float64"), row_group_size=1_000)
    return path


@pytest.fixture
def arrow_pool() -> Iterator[pa.MemoryPool]:
    """Arrow's allocations of one test, counted on their own."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    yield pool
    pa.set_memory_pool(usual)


Make = Callable[[Path], VectorSource]


def quantized(path: Path) -> VectorSource:
    """Codes of 32 bytes, beside their codec of 256 KiB."""
    home = path / "quantized"
    if not home.exists():
        home.mkdir()
        np.save(home / CODES_NAME, vectors(N, 32, "uint8"))
        save_codec(home / CODEC_NAME, product_codec(32, 8), {})
    return open_source(home)


_ALL_BUT_SOME = np.arange(5, N, 17)
_SHUFFLED = np.random.default_rng(0).permutation(N)


def narrow(path: Path) -> VectorSource:
    """As many values in rows of two: what is held a row shows."""
    home = path / "narrow"
    if not home.exists():
        home.mkdir()
        np.save(home / CODES_NAME, vectors(N * DIM // 2, 1, "uint8"))
        save_codec(home / CODEC_NAME, product_codec(1, 2), {})
    return open_source(home)


SOURCES: dict[str, Make] = {
    **{
        name: (lambda path, name=name: open_source(path / name))  # type: ignore[misc]
        for name in ("f4.npy", "f2.npy", "f8.npy", "f4.fvecs", "f4.parquet", "f8.parquet")
    },
    "array": lambda path: ArraySource(np.load(path / "f4.npy", mmap_mode="r")),
    "array of float16": lambda path: ArraySource(np.load(path / "f2.npy", mmap_mode="r")),
    "array by columns": lambda path: ArraySource(np.load(path / "f4.npy", mmap_mode="r")[:, ::-1]),
    "synthetic": lambda path: SyntheticSource(N, DIM),
    "concat": lambda path: ConcatSource(
        [open_source(path / "f2.npy"), open_source(path / "f4.parquet")]
    ).narrow(N // 2, N // 2 + N),
    "quantized": quantized,
    "prefix of quantized": lambda path: PrefixSource(quantized(path), 200),
    "take": lambda path: TakeSource(open_source(path / "f2.npy"), _SHUFFLED),
    "take repeats": lambda path: TakeSource(SyntheticSource(N, DIM), np.repeat(3, N)),
    "without": lambda path: WithoutSource(open_source(path / "f2.npy"), _ALL_BUT_SOME),
    "without parquet": lambda path: WithoutSource(open_source(path / "f4.parquet"), _ALL_BUT_SOME),
    "prefix": lambda path: PrefixSource(open_source(path / "f4.npy"), 64),
    "prefix of unit length": lambda path: PrefixSource(open_source(path / "f4.npy"), 250, True),
    "prefix of a prefix": lambda path: PrefixSource(
        PrefixSource(open_source(path / "f4.npy"), 250, True), 200
    ),
}


def peak_bytes(action: Callable[[], None], pool: pa.MemoryPool) -> int:
    """Most that NumPy, Python and Arrow had allocated during `action`, beyond the start."""
    action()  # footers, centres and imports are the process's, not a read's
    gc.collect()
    before = pool.max_memory()
    arrow = pa.proxy_memory_pool(pool)
    pa.set_memory_pool(arrow)
    tracemalloc.start()
    try:
        base, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        action()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(pool)
    assert before <= pool.max_memory()
    return int(peak - base + arrow.max_memory())


@pytest.mark.parametrize("name", list(SOURCES))
def test_a_read_stays_within_its_scratch(name: str, files: Path, arrow_pool: pa.MemoryPool) -> None:
    source = SOURCES[name](files)
    out: F32 = np.empty((source.n_rows, source.dim), np.float32)
    limit = source.scratch_bytes + PER_ROW_BYTES * source.n_rows + INTERPRETER_BYTES
    assert limit < out.nbytes or "parquet" in str(source.files)
    assert peak_bytes(lambda: source.read_into(0, out), arrow_pool) <= limit


@pytest.mark.parametrize("name", list(SOURCES))
def test_a_take_stays_within_its_scratch(name: str, files: Path, arrow_pool: pa.MemoryPool) -> None:
    source = SOURCES[name](files)
    rows = np.arange(0, source.n_rows, 2)
    out: F32 = np.empty((len(rows), source.dim), np.float32)
    limit = source.scratch_bytes + PER_ROW_BYTES * len(rows) + INTERPRETER_BYTES
    assert peak_bytes(lambda: source.take_into(rows, out), arrow_pool) <= limit


def test_rows_of_two_dimensions_take_no_numbers_of_their_own(
    files: Path, arrow_pool: pa.MemoryPool
) -> None:
    source = narrow(files)
    out: F32 = np.empty((source.n_rows, source.dim), np.float32)
    limit = source.scratch_bytes + INTERPRETER_BYTES
    assert limit < out.nbytes / 3
    assert peak_bytes(lambda: source.read_into(0, out), arrow_pool) <= limit
