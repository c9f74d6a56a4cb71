"""The vector files of big-ann-benchmarks: uint32 n, uint32 dim, then n rows.

The element type is told by the suffix alone; layout as published at
https://big-ann-benchmarks.com (fbin, u8bin, i8bin) with DiskANN's f16bin.
"""

from __future__ import annotations

import os
import re
import struct

import numpy as np

from haag_vq.errors import DataError
from haag_vq.sources.fileio import StoredFile
from haag_vq.sources.fixed import FixedRowSource, check_body
from haag_vq.sources.ranged import header_of

BIGANN_DTYPES: dict[str, str] = {
    ".fbin": "<f4",
    ".f16bin": "<f2",
    ".u8bin": "|u1",
    ".i8bin": "|i1",
}
HEADER = struct.Struct("<II")

# What big-ann-benchmarks calls the first rows of a set: base.1B.u8bin.crop_nb_10000000.
_CROP = re.compile(r"\.crop_nb_\d+$")


def suffix_of(path: str) -> str:
    """Suffix of a file of vectors, in lower case; that of a crop is its set's."""
    return os.path.splitext(_CROP.sub("", path))[1].lower()


def open_bigann(stamp: StoredFile) -> FixedRowSource:
    """Open an .fbin, .f16bin, .u8bin or .i8bin file. Reads its 8 bytes of header.

    Raises
    ------
    DataError
        If the file has other bytes than its header promises (a crop of a larger file often
        keeps the larger file's header), or the dimension is 0.
    """
    suffix = suffix_of(stamp.path)
    dtype = np.dtype(BIGANN_DTYPES[suffix])
    if stamp.size_bytes < HEADER.size:
        raise DataError(
            f"{stamp.path} is truncated: {stamp.size_bytes} bytes, the header alone takes "
            f"{HEADER.size}."
        )
    with header_of(stamp, HEADER.size) as file:
        header = file.read(HEADER.size)
    n_rows, dim = HEADER.unpack(header)
    if dim == 0:
        raise DataError(f"{stamp.path}: its header says dimension 0; is it an {suffix} file?")
    check_body(stamp, HEADER.size, n_rows, dim, dtype)
    return FixedRowSource(stamp, HEADER.size, n_rows, dim, dtype)
