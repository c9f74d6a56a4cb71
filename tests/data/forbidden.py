"""A source that may be looked at but not read: what laziness is proved with."""

from __future__ import annotations

import numpy as np

from haag_vq.sources.protocol import F32, I64, VectorSource


class ForbiddenSource(VectorSource):
    """Describes rows and raises when any is read."""

    def __init__(self, n_rows: int, dim: int) -> None:
        self.n_rows = n_rows
        self.dim = dim
        self.dtype = np.dtype(np.float32)

    @property
    def edges(self) -> I64:
        return np.array([0, self.n_rows], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        return "forbidden"

    @property
    def scratch_bytes(self) -> int:
        return 0

    @property
    def stored_bytes(self) -> int:
        return self.n_rows * self.dim * 4

    def read_into(self, start: int, out: F32) -> None:
        raise AssertionError(f"rows {start}:{start + len(out)} were read")

    def take_into(self, rows: I64, out: F32) -> None:
        raise AssertionError(f"rows {rows} were taken")

    def narrow(self, start: int, stop: int) -> ForbiddenSource:
        return ForbiddenSource(stop - start, self.dim)
