"""Sources of a shape that refuse to be read, and sites that are no machine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.planning import Site
from haag_vq.sources import VectorSource

GIB = 1 << 30


class Shape(VectorSource):
    """Rows that nobody has: whoever reads them fails."""

    def __init__(self, n_rows: int, dim: int, dtype: str = "float16", scratch: int = 1 << 20):
        self.n_rows, self.dim, self.dtype = n_rows, dim, np.dtype(dtype)
        self._scratch = scratch

    @property
    def edges(self) -> NDArray[np.int64]:
        return np.array([0, self.n_rows], np.int64)

    @property
    def fingerprint(self) -> str:
        raise AssertionError("a fingerprint reads rows")

    @property
    def scratch_bytes(self) -> int:
        return self._scratch

    @property
    def stored_bytes(self) -> int:
        return self.n_rows * self.dim * self.dtype.itemsize

    @property
    def files(self) -> tuple[str, ...]:
        return ("/nowhere/x.npy",)

    def read_into(self, start: int, out: NDArray[np.float32]) -> None:
        raise AssertionError("a plan reads no rows")

    def take_into(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        raise AssertionError("a plan reads no rows")

    def narrow(self, start: int, stop: int) -> Shape:
        return Shape(stop - start, self.dim, self.dtype.name, self._scratch)


def site(gib: float, n_workers: int = 1, cores: int = 2, **more: Any) -> Site:
    """Workers with so much memory each."""
    return Site("there", n_workers, cores, int(gib * GIB), "the test", **more)
