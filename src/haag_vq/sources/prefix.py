"""The first m dimensions of every vector, as Matryoshka embeddings are shortened."""

from __future__ import annotations

import numpy as np

from haag_vq.errors import DataError, UsageError, whole_number
from haag_vq.sources.protocol import (
    F32,
    I64,
    VectorSource,
    check_read,
    check_span,
    check_take,
)
from haag_vq.sources.wrapper import WrapperSource

# Norms are computed in float64 over pieces of this many float32 bytes.
PIECE_BYTES = 1 << 20


class PrefixSource(WrapperSource):
    """Columns ``0:dims`` of a source.

    Parameters
    ----------
    source : VectorSource
    dims : int
        How many dimensions to keep, ``1 … source.dim``.
    renormalize : bool
        Scale every shortened vector to unit length (computed in float64, rounded once).

    Raises
    ------
    UsageError
        If `dims` is outside that range.
    DataError
        On reading, if a vector to be renormalized is zero in all its first dimensions.

    Notes
    -----
    Whole rows are read, since no format stores a column on its own; every source delivers the
    first columns straight into the narrower buffer. Memory: 5 MiB a read when renormalizing.
    """

    def __init__(self, source: VectorSource, dims: int, renormalize: bool = False) -> None:
        dims = whole_number("dims", dims)
        if not 1 <= dims <= source.dim:
            raise UsageError(f"dims={dims} of vectors of dimension {source.dim}: take 1 to that.")
        super().__init__(source, source.n_rows)
        self._renormalize = renormalize
        self.dim = dims

    @property
    def fingerprint(self) -> str:
        unit = "unit" if self._renormalize else "as-is"
        return f"{self._source.fingerprint}[:, :{self.dim}]{unit}"

    @property
    def scratch_bytes(self) -> int:
        return self._source.scratch_bytes + (5 * PIECE_BYTES if self._renormalize else 0)

    def read_into(self, start: int, out: F32) -> None:
        check_read(self, start, out)
        if self._renormalize and out.shape[1] < self.dim:
            self._take_narrower(np.arange(start, start + len(out)), out)
            return
        self._source.read_into(start, out)
        if self._renormalize:
            self._to_unit_length(out, np.arange(start, start + len(out)))

    def take_into(self, rows: I64, out: F32) -> None:
        check_take(self, rows, out)
        if self._renormalize and out.shape[1] < self.dim:
            self._take_narrower(rows, out)
            return
        self._source.take_into(rows, out)
        if self._renormalize:
            self._to_unit_length(out, rows)

    def narrow(self, start: int, stop: int) -> PrefixSource:
        check_span(self, start, stop)
        return PrefixSource(self._source.narrow(start, stop), self.dim, self._renormalize)

    def stored_rows(self, rows: I64) -> I64:
        return self._source.stored_rows(rows)

    def _take_narrower(self, rows: I64, out: F32) -> None:
        """Deliver the first dimensions of vectors whose length all `dim` of them make."""
        piece = max(1, PIECE_BYTES // (4 * self.dim))
        for at in range(0, len(rows), piece):
            part = rows[at : at + piece]
            whole = np.empty((len(part), self.dim), np.float32)
            self._source.take_into(part, whole)
            self._to_unit_length(whole, part)
            out[at : at + len(part)] = whole[:, : out.shape[1]]

    def _to_unit_length(self, out: F32, rows: I64) -> None:
        piece = max(1, PIECE_BYTES // (4 * out.shape[1]))
        for at in range(0, len(out), piece):
            wide = out[at : at + piece].astype(np.float64)
            norms = np.sqrt(np.square(wide).sum(axis=1))
            zero = np.flatnonzero(norms == 0)
            if len(zero):
                stored = int(self.stored_rows(rows[at + zero[:1]])[0])
                where = self.files[0] if self.files else "the source"
                raise DataError(
                    f"{where}: a vector is zero in its first {self.dim} dimensions and cannot be "
                    f"renormalized (row {stored:,} of those this task reads). Keep more dimensions."
                )
            wide /= norms[:, None]
            out[at : at + piece] = wide
