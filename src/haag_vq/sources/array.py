"""Vectors that are in memory already."""

from __future__ import annotations

import hashlib

import numpy as np

from haag_vq.errors import DataError
from haag_vq.sources.convert import to_float32
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

# What a take copies at a time; as in the row files.
PIECE_BYTES = 1 << 20


class ArraySource(VectorSource):
    """Rows of a two-dimensional NumPy array of float32, float64, float16, int8 or uint8.

    Notes
    -----
    The array is not copied. It travels with the source, so a cluster is better served by a
    file. Memory: none but the array's own, and a piece of 1 MiB for a take that converts.
    """

    def __init__(self, array: AnyArray, first_row: int = 0, name: str = "the array") -> None:
        array = np.asarray(array)
        if array.ndim != 2 or array.dtype.name not in STORED_DTYPES:
            raise DataError(
                f"an array of {array.dtype} and shape {array.shape} is no set of vectors: two "
                f"dimensions of one of {', '.join(STORED_DTYPES)} are needed."
            )
        if array.shape[0] and not array.shape[1]:
            raise DataError(f"an array of shape {array.shape}: rows without dimensions.")
        self._array = array
        self._first_row = first_row
        self._name = name
        self.n_rows, self.dim = (int(n) for n in array.shape)
        self.dtype = array.dtype

    @property
    def edges(self) -> I64:
        return np.array([0, self.n_rows], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        # In native order, which NumPy's pickle turns other ones into.
        native = np.ascontiguousarray(self._array, self.dtype.newbyteorder("="))
        digest = hashlib.sha256(f"{native.shape}{native.dtype}".encode())
        digest.update(native.data if native.size else b"")
        return digest.hexdigest()[:32]

    @property
    def stored_bytes(self) -> int:
        return int(self._array.nbytes)

    @property
    def scratch_bytes(self) -> int:
        return self._piece_rows * self.dim * self.dtype.itemsize

    @property
    def _piece_rows(self) -> int:
        return max(1, PIECE_BYTES // max(1, self.dim * self.dtype.itemsize))

    def read_into(self, start: int, out: F32) -> None:
        check_read(self, start, out)
        self._copy(self._array[start : start + len(out)], out)
        self._check(out, self._first_row + start)

    def take_into(self, rows: I64, out: F32) -> None:
        check_take(self, rows, out)
        whole = self.dtype == np.float32 and out.shape[1] == self.dim
        if whole and self._array.flags.c_contiguous:  # of another, np.take would copy all
            np.take(self._array, rows, axis=0, out=out, mode="clip")
        else:
            # A fancy-indexed copy is made: of a piece, not of a second block.
            for at in range(0, len(rows), self._piece_rows):
                part = rows[at : at + self._piece_rows]
                self._copy(self._array[part, : out.shape[1]], out[at : at + len(part)])
        self._check(out, self._first_row + rows)

    def narrow(self, start: int, stop: int) -> ArraySource:
        check_span(self, start, stop)
        return ArraySource(self._array[start:stop], self._first_row + start, self._name)

    def _copy(self, rows: AnyArray, out: F32) -> None:
        to_float32(rows[:, : out.shape[1]], out)

    def _check(self, out: F32, at: int | I64) -> None:
        check = FiniteCheck(self._name, self.dtype)
        check.look(at, out)
        check.finish()
