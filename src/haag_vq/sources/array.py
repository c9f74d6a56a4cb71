"""Vectors that are in memory already."""

from __future__ import annotations

import hashlib

import numpy as np

from haag_vq.errors import DataError
from haag_vq.sources.protocol import (
    F32,
    I64,
    STORED_DTYPES,
    AnyArray,
    FiniteCheck,
    VectorSource,
    check_read,
    check_span,
    check_take,
)


class ArraySource(VectorSource):
    """Rows of a two-dimensional NumPy array of float32, float64, float16, int8 or uint8.

    Notes
    -----
    The array is not copied. It travels with the source, so a cluster is better served by a
    file. Memory: none but the array's own.
    """

    def __init__(self, array: AnyArray, first_row: int = 0) -> None:
        array = np.asarray(array)
        if array.ndim != 2 or array.dtype.name not in STORED_DTYPES:
            raise DataError(
                f"an array of {array.dtype} and shape {array.shape} is no set of vectors: two "
                f"dimensions of one of {', '.join(STORED_DTYPES)} are needed."
            )
        self._array = array
        self._first_row = first_row
        self.n_rows, self.dim = (int(n) for n in array.shape)
        self.dtype = array.dtype

    @property
    def edges(self) -> I64:
        return np.array([0, self.n_rows], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self._array.shape}{self.dtype}".encode())
        digest.update(np.ascontiguousarray(self._array).tobytes())
        return digest.hexdigest()[:32]

    @property
    def stored_bytes(self) -> int:
        return int(self._array.nbytes)

    @property
    def scratch_bytes(self) -> int:
        return 0

    def read_into(self, start: int, out: F32) -> None:
        check_read(self, start, out)
        self._copy(self._array[start : start + len(out)], out, start)

    def take_into(self, rows: I64, out: F32) -> None:
        check_take(self, rows, out)
        if self.dtype == np.float32 and out.shape[1] == self.dim:
            np.take(self._array, rows, axis=0, out=out, mode="clip")
            self._check(out, 0)
        else:
            self._copy(self._array[rows], out, 0)

    def narrow(self, start: int, stop: int) -> ArraySource:
        check_span(self, start, stop)
        return ArraySource(self._array[start:stop], self._first_row + start)

    def _copy(self, rows: AnyArray, out: F32, start: int) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(out, rows[:, : out.shape[1]], casting="same_kind")
        self._check(out, start)

    def _check(self, out: F32, start: int) -> None:
        check = FiniteCheck("the array", self.dtype)
        check.look(self._first_row + start, out)
        check.finish()
