"""Writers of vectors: .npy, big-ann's and TEXMEX's formats, Parquet; rows in the order given."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from haag_vq.errors import DataError, UsageError
from haag_vq.sources.bigann import BIGANN_DTYPES, HEADER
from haag_vq.sources.fixed import ROW_DIM
from haag_vq.sources.protocol import F32, STORED_DTYPES, AnyArray
from haag_vq.sources.texmex import TEXMEX_DTYPES

# Rows are converted to the stored type in pieces of this many float32 bytes: of a whole
# partition, that would take up to two partitions more.
PIECE_BYTES = 1 << 20

# Rows of a Parquet row group: a compromise between reading few rows and decoding many.
ROW_GROUP_ROWS = 1000

PARQUET_COLUMN = "emb"

# Formats whose suffix tells the type of their values.
_TYPED = BIGANN_DTYPES | TEXMEX_DTYPES


class VectorWriter(ABC):
    """Takes rows in order and writes them to one file.

    Parameters
    ----------
    path : Path
    n_rows, dim : int
        What the header promises.
    dtype : numpy.dtype
        Element type to store.
    """

    def __init__(self, path: Path, n_rows: int, dim: int, dtype: np.dtype[Any]) -> None:
        self._path = path
        self._n_rows = n_rows
        self._dim = dim
        self._dtype = dtype
        self._n_written = 0

    @property
    def _piece_rows(self) -> int:
        """Rows that are converted and appended at a time."""
        return max(1, PIECE_BYTES // (4 * max(1, self._dim)))

    def write(self, rows: F32) -> None:
        """Append rows (n, dim).

        Raises
        ------
        DataError
            If a value does not fit the stored type: the message names row and value.
        """
        for at in range(0, len(rows), self._piece_rows):
            piece = rows[at : at + self._piece_rows]
            self._append(convert(piece, self._dtype, self._n_written))
            self._n_written += len(piece)

    def finish(self) -> None:
        """Complete the file; all promised rows must have been written."""
        if self._n_written != self._n_rows:
            raise DataError(f"{self._n_written:,} rows written of {self._n_rows:,} promised.")
        self.close()

    @abstractmethod
    def _append(self, rows: AnyArray) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Release the file, complete or not."""


class FixedRowWriter(VectorWriter):
    """A header, if there is one, then rows: .npy, big-ann and TEXMEX files."""

    def __init__(
        self, path: Path, n_rows: int, dim: int, dtype: np.dtype[Any], suffix: str
    ) -> None:
        super().__init__(path, n_rows, dim, dtype)
        self._dim_in_rows = suffix in TEXMEX_DTYPES
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115 - closed by close()
        if suffix == ".npy":
            write_npy_header(self._file, (n_rows, dim), dtype)
        elif suffix in BIGANN_DTYPES:
            self._file.write(HEADER.pack(n_rows, dim))

    def _append(self, rows: AnyArray) -> None:
        rows = np.ascontiguousarray(rows)
        if self._dim_in_rows:
            dims = np.full((len(rows), 1), self._dim, ROW_DIM)
            rows = np.hstack((dims.view(np.uint8), rows.view(np.uint8)))
        self._file.write(rows.data.cast("B") if rows.size else b"")

    def close(self) -> None:
        self._file.close()


def write_npy_header(file: BinaryIO, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Begin an .npy file of rows in C order."""
    descr = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


class ParquetWriter(VectorWriter):
    """One column ``emb`` of lists, in row groups of at most 1,000."""

    def __init__(self, path: Path, n_rows: int, dim: int, dtype: np.dtype[Any]) -> None:
        super().__init__(path, n_rows, dim, dtype)
        self._schema = pa.schema([(PARQUET_COLUMN, pa.list_(pa.from_numpy_dtype(dtype)))])
        self._writer = pq.ParquetWriter(path, self._schema)

    @property
    def _piece_rows(self) -> int:
        return ROW_GROUP_ROWS

    def _append(self, rows: AnyArray) -> None:
        offsets = np.arange(0, rows.size + 1, self._dim, dtype=np.int32)
        lists = pa.ListArray.from_arrays(_arrow(offsets), _arrow(rows))
        self._writer.write_table(pa.table([lists], schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _arrow(values: AnyArray) -> pa.Array:
    """View numbers as a flat Arrow array; `pa.array` would import pandas where it is installed."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(flat.dtype), flat.size, [None, pa.py_buffer(flat)]
    )


def stored_dtype(path: str | os.PathLike[str], dtype: str | None) -> np.dtype[Any]:
    """Choose the element type for a file from its suffix and the type asked for.

    Raises
    ------
    UsageError
        If the suffix is unknown, the type is, or the suffix says another.
    """
    suffix = Path(path).suffix.lower()
    if dtype is not None and dtype not in STORED_DTYPES:
        raise UsageError(f"dtype {dtype!r} is none of {', '.join(STORED_DTYPES)}.")
    if suffix in _TYPED:
        own = np.dtype(_TYPED[suffix])
        if dtype is not None and np.dtype(dtype) != own:
            family = TEXMEX_DTYPES if suffix in TEXMEX_DTYPES else BIGANN_DTYPES
            named = {**family, **_TYPED}  # its own first
            fitting = [s for s, name in named.items() if np.dtype(name) == np.dtype(dtype)]
            raise UsageError(
                f"a {suffix} file holds {own}, not {dtype}"
                + (f"; name it {fitting[0]}." if fitting else "; use .npy or .parquet.")
            )
        return own
    if suffix in (".npy", ".parquet"):
        return np.dtype(dtype or "float32").newbyteorder("<")
    raise UsageError(
        f"{os.fspath(path)}: vectors are written as .npy, .parquet, {', '.join(_TYPED)}; "
        "choose by suffix."
    )


def open_writer(
    path: Path, suffix: str, n_rows: int, dim: int, dtype: np.dtype[Any]
) -> VectorWriter:
    """Open the writer for `suffix` (of the final name; `path` may have another)."""
    if suffix == ".parquet":
        return ParquetWriter(path, n_rows, dim, dtype)
    if suffix in BIGANN_DTYPES and n_rows >= 2**32:
        raise UsageError(f"{n_rows:,} rows do not fit the uint32 of a {suffix} header; use .npy.")
    return FixedRowWriter(path, n_rows, dim, dtype, suffix)


def convert(rows: F32, dtype: np.dtype[Any], first_row: int) -> AnyArray:
    """Convert float32 rows to the stored type, refusing values that it cannot hold.

    Rounding to float16 is accepted; overflow is not, nor a fraction or overflow in integers.
    """
    if dtype == np.float32:
        return rows
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            out = rows.astype(dtype)
        bad = np.flatnonzero(~np.isfinite(out).all(axis=1))
    else:
        info = np.iinfo(dtype)
        whole = (rows == np.rint(rows)) & (rows >= info.min) & (rows <= info.max)
        bad = np.flatnonzero(~whole.all(axis=1))
        out = np.where(whole, rows, 0).astype(dtype)
    if len(bad):
        row = rows[bad[0]]
        value = row[np.argmax(np.abs(row))] if dtype.kind == "f" else row[~whole[bad[0]]][0]
        raise DataError(
            f"row {first_row + int(bad[0]):,} holds {value:g}, which {dtype} cannot store "
            f"({len(bad):,} such rows in {first_row:,}:{first_row + len(rows):,}). "
            "Choose a wider dtype."
        )
    return out
