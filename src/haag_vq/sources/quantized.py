"""A quantized set: codes beside the codec that made them, read as the vectors they stand for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from haag_vq.errors import DataError
from haag_vq.sources.codec import StoredCodec
from haag_vq.sources.fileio import FileStamp
from haag_vq.sources.fixed import PIECE_ROWS, RUN_BYTES, FixedRowSource
from haag_vq.sources.npy import open_npy
from haag_vq.sources.protocol import (
    F32,
    I64,
    FiniteCheck,
    VectorSource,
    check_read,
    check_span,
    check_take,
)

# What is in the directory that a quantized set is.
CODEC_NAME = "codec.npz"
CODES_NAME = "codes.npy"
QUERIES_NAME = "queries.npy"

# Decoded at a time, of what is asked for: in the L2 cache. Arbitrary.
PIECE_BYTES = 1 << 20


class QuantizedSource(VectorSource):
    """Rows that codes stand for.

    Parameters
    ----------
    codes : FixedRowSource
        (n_rows, code_bytes) uint8.
    codec : StoredCodec

    Notes
    -----
    Memory: the codec, once a process; for each thread that reads a piece of codes and one of
    decoded rows, up to 1 MiB each, and up to 1.6 MiB for the places of scattered rows.
    """

    def __init__(self, codes: FixedRowSource, codec: StoredCodec) -> None:
        self._codes = codes
        self._codec = codec
        self.n_rows = codes.n_rows
        self.dim = codec.dim
        self.dtype = np.dtype(np.float32)

    @property
    def edges(self) -> I64:
        return self._codes.edges

    @property
    def fingerprint(self) -> str:
        return f"{self._codec.fingerprint}({self._codes.fingerprint})"

    @property
    def stored_as(self) -> str:
        return f"{self._codec.about['codec']} codes"

    @property
    def files(self) -> tuple[str, ...]:
        return self._codes.files

    @property
    def stored_bytes(self) -> int:
        return self._codes.stored_bytes

    @property
    def scratch_bytes(self) -> int:
        # Decoded whole where fewer dimensions are asked for, and looked up a run of them at a time.
        a_row = self._codes.dim + RUN_BYTES + 2 * 4 * self.dim
        return self._codec.nbytes + self._piece_rows * a_row

    @property
    def _piece_rows(self) -> int:
        return max(1, min(PIECE_ROWS, PIECE_BYTES // (4 * self.dim)))

    def read_into(self, start: int, out: F32) -> None:
        check_read(self, start, out)
        self._fill(lambda at, n: np.arange(start + at, start + at + n), out)

    def take_into(self, rows: I64, out: F32) -> None:
        check_take(self, rows, out)
        self._fill(lambda at, n: rows[at : at + n], out)

    def narrow(self, start: int, stop: int) -> QuantizedSource:
        check_span(self, start, stop)
        return QuantizedSource(self._codes.narrow(start, stop), self._codec)

    def _fill(self, rows_of: Callable[[int, int], I64], out: F32) -> None:
        """Decode the rows ``rows_of(at, n)`` into ``out[at : at + n]``, piece by piece."""
        codec, step = self._codec.codec, min(self._piece_rows, len(out))
        codes = np.empty((step, self._codes.dim), np.uint8)
        narrower = out.shape[1] < self.dim
        whole = np.empty((step if narrower else 0, self.dim), np.float32)
        check = FiniteCheck(self._codes.files[0], self.dtype)
        for at in range(0, len(out), max(1, step)):
            rows = rows_of(at, min(step, len(out) - at))
            part = out[at : at + len(rows)]
            self._codes.take_stored(rows, codes[: len(rows)])
            decoded = whole[: len(rows)] if narrower else part
            codec.decode(codes[: len(rows)], decoded)
            if narrower:
                np.copyto(part, decoded[:, : out.shape[1]])
            check.look(self._codes.first_row + rows, part)
        check.finish()


def is_quantized(where: str | os.PathLike[str]) -> bool:
    """Whether a path is a directory of codes, by their codec."""
    return (Path(os.path.expanduser(where)) / CODEC_NAME).is_file()


def open_quantized(where: str | os.PathLike[str]) -> tuple[QuantizedSource, StoredCodec]:
    """Open a quantized set; also its codec, with what is known of the vectors.

    Raises
    ------
    SourceNotFoundError
        If there are no codes beside the codec.
    DataError
        If codes and codec do not belong together, or one of them is malformed.
    """
    home = Path(os.path.expanduser(where))
    codec = StoredCodec.of(home / CODEC_NAME)
    codes = open_npy(FileStamp.of(home / CODES_NAME))
    known = codec.about.get("codes", codes.fingerprint)
    if codes.dtype != np.uint8 or codes.dim != codec.code_bytes or codes.fingerprint != known:
        raise DataError(
            f"{home}: {CODES_NAME} ({codes.n_rows:,} × {codes.dim:,} {codes.dtype}) holds no codes "
            f"of the codec in {CODEC_NAME}, {codec.about['codec']} of {codec.code_bytes:,} uint8 a "
            "vector, or not those that it was kept with. Quantize the vectors again."
        )
    return QuantizedSource(codes, codec), codec
