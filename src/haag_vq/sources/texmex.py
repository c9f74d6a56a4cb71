"""The vector files of TEXMEX (SIFT, GIST, Deep1B): each row is int32 dim, then dim values.

Layout as published at http://corpus-texmex.irisa.fr (fvecs, bvecs). Its ``.ivecs`` hold ids, not
vectors: `groundtruth` reads them.
"""

from __future__ import annotations

import os

import numpy as np

from haag_vq.errors import DataError
from haag_vq.sources.fileio import StoredFile
from haag_vq.sources.fixed import ROW_DIM, FixedRowSource
from haag_vq.sources.ranged import header_of

TEXMEX_DTYPES: dict[str, str] = {".fvecs": "<f4", ".bvecs": "|u1"}


def open_texmex(stamp: StoredFile) -> FixedRowSource:
    """Open an .fvecs or .bvecs file. Reads the dimension of its first row, 4 bytes.

    Raises
    ------
    DataError
        If the dimension is none, or the file does not hold a whole number of rows of it.
    """
    suffix = os.path.splitext(stamp.path)[1].lower()
    dtype = np.dtype(TEXMEX_DTYPES[suffix])
    if stamp.size_bytes < ROW_DIM.itemsize:
        raise DataError(
            f"{stamp.path} holds no vectors: {stamp.size_bytes} bytes, where the dimension of its "
            f"first row alone takes {ROW_DIM.itemsize}."
        )
    with header_of(stamp, ROW_DIM.itemsize) as file:
        dim = int(np.frombuffer(file.read(ROW_DIM.itemsize), ROW_DIM)[0])
    if dim < 1:
        raise DataError(f"{stamp.path}: its first row says dimension {dim:,}; is it {suffix}?")
    row_bytes = ROW_DIM.itemsize + dim * dtype.itemsize
    n_rows, rest = divmod(stamp.size_bytes, row_bytes)
    if rest:
        raise DataError(
            f"{stamp.path} is truncated, or no {suffix} file: its first row says dimension "
            f"{dim:,}, so that rows take {row_bytes:,} bytes each; the file has "
            f"{stamp.size_bytes:,} bytes, {n_rows:,} rows and {rest:,} bytes more. Fetch or write "
            "it again."
        )
    return FixedRowSource(stamp, 0, n_rows, dim, dtype, dim_in_rows=True)
