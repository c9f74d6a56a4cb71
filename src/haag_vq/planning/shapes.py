"""A set of which only the shape is known: to plan with before there is a file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import DataError
from haag_vq.sources import VectorSource


class ShapeSource(VectorSource):
    """Rows that cannot be read.

    Parameters
    ----------
    n_rows, dim : int
    dtype : str
        As they would be stored.
    file : str
        Name of a file of the format that is meant: ``x.npy``, ``x.parquet``.
    scratch_bytes : int
        What a read would allocate beside its output: 1 MiB of row files, some 36 MiB of Parquet.
    group_rows : int, optional
        Rows of a Parquet row group.
    """

    def __init__(
        self,
        n_rows: int,
        dim: int,
        dtype: str = "float16",
        file: str = "x.npy",
        scratch_bytes: int = 1 << 20,
        group_rows: int | None = None,
    ) -> None:
        self.n_rows, self.dim, self.dtype = n_rows, dim, np.dtype(dtype)
        self._file = file
        self._scratch_bytes = scratch_bytes
        self._group_rows = group_rows

    @property
    def edges(self) -> NDArray[np.int64]:
        step = self._group_rows or max(1, self.n_rows)
        return np.append(np.arange(0, self.n_rows, step, dtype=np.int64), self.n_rows)

    @property
    def starts_anywhere(self) -> bool:
        return self._group_rows is None

    @property
    def fingerprint(self) -> str:
        raise DataError(f"{self!r} has a shape alone: it has no content that could be told.")

    @property
    def scratch_bytes(self) -> int:
        return self._scratch_bytes

    @property
    def stored_bytes(self) -> int:
        return self.n_rows * self.dim * self.dtype.itemsize

    @property
    def files(self) -> tuple[str, ...]:
        return (self._file,)

    def read_into(self, start: int, out: NDArray[np.float32]) -> None:
        raise DataError(f"{self!r} has a shape alone: it can be planned with, not read.")

    def take_into(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        self.read_into(0, out)

    def narrow(self, start: int, stop: int) -> ShapeSource:
        return ShapeSource(
            stop - start,
            self.dim,
            self.dtype.name,
            self._file,
            self._scratch_bytes,
            self._group_rows,
        )
