"""NumPy's .npy files: a header, then rows in C order."""

from __future__ import annotations

import os
import tokenize
from typing import Any, BinaryIO

import numpy as np

from haag_vq.errors import DataError
from haag_vq.parsing import undisturbed
from haag_vq.sources.fileio import StoredFile
from haag_vq.sources.fixed import FixedRowSource, check_body
from haag_vq.sources.protocol import STORED_DTYPES, AnyArray
from haag_vq.sources.ranged import header_of

NPY_MAGIC = b"\x93NUMPY"

# More than any header that NumPy writes for plain numbers (128 bytes), in one read.
HEADER_BYTES = 4096


def read_npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read shape, whether it is Fortran's order, and dtype; `file` is at the values then.

    Raises
    ------
    ValueError, SyntaxError, tokenize.TokenError
        If it is no header. The last two come from NumPy's second look, as one of Python 2.
    """
    start = file.tell()

    def read() -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        file.seek(start)
        version = np.lib.format.read_magic(file)
        # Versions 2.0 and 3.0 differ only in the text encoding of field names, which an array of
        # plain numbers has none of.
        of_version = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        return of_version(file)

    return undisturbed(read)


def load_npy(path: str | os.PathLike[str]) -> AnyArray:
    """Read a whole file of our own into memory, as `numpy.load` does."""
    found: AnyArray = undisturbed(lambda: np.load(path, allow_pickle=False))
    return found


def open_npy(stamp: StoredFile) -> FixedRowSource:
    """Open a two-dimensional .npy file of float32, float64, float16, int8 or uint8.

    Reads the header only. Object arrays are refused and never unpickled.

    Raises
    ------
    DataError
        If the header is not one of a two-dimensional C-ordered array of such a type, or
        promises other bytes than the file has.
    """
    with header_of(stamp, HEADER_BYTES) as file:
        try:
            shape, fortran_order, dtype = read_npy_header(file)
        except (ValueError, SyntaxError, tokenize.TokenError) as error:
            raise DataError(f"{stamp.path} is not a readable .npy file: {error}") from error
        offset = file.tell()
    if dtype.hasobject:
        raise DataError(
            f"{stamp.path} holds Python objects (dtype object), which can only be unpickled, "
            "and a pickle can run any code: it is refused. Save the vectors as one "
            "two-dimensional float32 array."
        )
    if dtype.name not in STORED_DTYPES:
        raise DataError(
            f"{stamp.path} holds {dtype.name}; vectors are read from {', '.join(STORED_DTYPES)}."
        )
    if len(shape) != 2:
        raise DataError(
            f"{stamp.path} has shape {shape}; vectors are rows of a two-dimensional array."
        )
    if fortran_order and min(shape) > 1:
        raise DataError(
            f"{stamp.path} is stored column by column (fortran_order), so that no row can be "
            "read on its own. Save numpy.ascontiguousarray(x) instead."
        )
    n_rows, dim = (int(n) for n in shape)
    if n_rows < 0 or dim < 0 or (n_rows and not dim):
        raise DataError(f"{stamp.path} has shape {shape}: rows without dimensions are no vectors.")
    check_body(stamp, offset, n_rows, dim, dtype)
    return FixedRowSource(stamp, offset, n_rows, dim, dtype)
