"""Seeded vectors with the structure of real embeddings, made on demand."""

from __future__ import annotations

import functools

import numpy as np

from haag_vq.errors import UsageError
from haag_vq.sources.protocol import (
    F32,
    I64,
    VectorSource,
    check_read,
    check_span,
    check_take,
)

# Rows are drawn a block at a time from a generator keyed by (seed, block): any row is the
# same whatever is asked for with it.
BLOCK_ROWS = 256
N_CLUSTERS = 64
N_BOILERPLATE = 16

# Shares taken after real sets: a public one of 1M rows has 1.7% exact duplicates, and
# sliding-window passages overlap. The spread gives clusters that touch.
EXACT_SHARE = 0.017
NEAR_SHARE = 0.03
SPREAD = 0.7
NEAR_SPREAD = 0.02


class SyntheticSource(VectorSource):
    """Unit vectors around cluster centres, some nearly and some exactly repeated.

    Parameters
    ----------
    n_rows, dim : int
    seed : int
        Rows depend on (seed, dim, row number) only: a longer set begins with a shorter one.

    Notes
    -----
    Exact duplicates are copies of 16 "boilerplate" vectors and occur all over the set;
    near-duplicates follow an earlier row of their block of 256. Memory: one block a read, and
    the 80 centres, kept by the process.
    """

    def __init__(self, n_rows: int, dim: int, seed: int = 0, first_row: int = 0) -> None:
        if n_rows < 0 or dim < 1 or seed < 0:
            raise UsageError(
                f"a synthetic set needs n_rows ≥ 0, dim ≥ 1 and seed ≥ 0, "
                f"not {n_rows}, {dim}, {seed}"
            )
        self.n_rows = n_rows
        self.dim = dim
        self.dtype = np.dtype(np.float32)
        self._seed = seed
        self._first_row = first_row

    @property
    def edges(self) -> I64:
        return np.array([0, self.n_rows], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        last = self._first_row + self.n_rows
        return f"synthetic-1:{self._seed}:{self.dim}[{self._first_row}:{last}]"

    @property
    def stored_bytes(self) -> int:
        return 0

    @property
    def scratch_bytes(self) -> int:
        return (3 * BLOCK_ROWS + N_CLUSTERS + N_BOILERPLATE) * self.dim * 4

    def read_into(self, start: int, out: F32) -> None:
        check_read(self, start, out)
        first, last = self._first_row + start, self._first_row + start + len(out)
        for block in range(first // BLOCK_ROWS, -(-last // BLOCK_ROWS)):
            base = block * BLOCK_ROWS
            a, b = max(first, base), min(last, base + BLOCK_ROWS)
            rows = _block(self._seed, self.dim, block)[a - base : b - base]
            out[a - first : b - first] = rows[:, : out.shape[1]]

    def take_into(self, rows: I64, out: F32) -> None:
        check_take(self, rows, out)
        wanted = rows + self._first_row
        blocks = wanted // BLOCK_ROWS
        for block in np.unique(blocks):
            a, b = np.searchsorted(blocks, (block, block + 1))
            made = _block(self._seed, self.dim, int(block))[:, : out.shape[1]]
            # Straight into place: a repeated row may be asked for more often than a block has rows.
            np.take(made, wanted[a:b] % BLOCK_ROWS, axis=0, out=out[a:b], mode="clip")

    def narrow(self, start: int, stop: int) -> SyntheticSource:
        check_span(self, start, stop)
        return SyntheticSource(stop - start, self.dim, self._seed, self._first_row + start)


def _block(seed: int, dim: int, block: int) -> F32:
    """Rows ``block · 256 …``: (256, dim) float32."""
    centres, boilerplate = _fixed(seed, dim)
    rng = np.random.Generator(np.random.Philox(key=[seed, block + 1]))
    rows = rng.standard_normal((BLOCK_ROWS, dim), dtype=np.float32)
    rows *= np.float32(SPREAD / np.sqrt(dim))
    rows += centres[rng.integers(0, N_CLUSTERS, BLOCK_ROWS)]
    kind = rng.random(BLOCK_ROWS)
    near = np.flatnonzero((kind < NEAR_SHARE) & (np.arange(BLOCK_ROWS) > 0))
    for row in near:
        noise = rng.standard_normal(dim, dtype=np.float32)
        rows[row] = rows[rng.integers(0, row)] + noise * np.float32(NEAR_SPREAD / np.sqrt(dim))
    _normalize(rows)
    exact = np.flatnonzero(kind > 1 - EXACT_SHARE)
    rows[exact] = boilerplate[rng.integers(0, N_BOILERPLATE, len(exact))]
    return rows


@functools.lru_cache(maxsize=4)
def _fixed(seed: int, dim: int) -> tuple[F32, F32]:
    """Cluster centres (64, dim) and boilerplate vectors (16, dim), all of unit length."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    centres = rng.standard_normal((N_CLUSTERS, dim), dtype=np.float32)
    _normalize(centres)
    boilerplate = centres[:N_BOILERPLATE] + rng.standard_normal(
        (N_BOILERPLATE, dim), dtype=np.float32
    ) * np.float32(SPREAD / np.sqrt(dim))
    _normalize(boilerplate)
    return centres, boilerplate


def _normalize(rows: F32) -> None:
    rows /= np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1, keepdims=True))
