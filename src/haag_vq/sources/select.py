"""Subsets of a source's rows: a range, chosen rows, all rows but some."""

from __future__ import annotations

import hashlib

import numpy as np

from haag_vq.errors import UsageError
from haag_vq.sources.protocol import (
    F32,
    I64,
    VectorSource,
    check_read,
    check_span,
    check_take,
)
from haag_vq.sources.wrapper import WrapperSource

# An unordered take is put into the asked order a few columns at a time, within this scratch.
REORDER_BYTES = 4 << 20


class RangeSource(WrapperSource):
    """Rows ``start:stop`` of a source; what `limit` and a slice make."""

    def __init__(self, source: VectorSource, start: int, stop: int) -> None:
        check_span(source, start, stop)
        super().__init__(source, stop - start)
        self._start = start

    @property
    def edges(self) -> I64:
        edges = self._source.edges - self._start
        inside = edges[(edges > 0) & (edges < self.n_rows)]
        return np.concatenate(([0], inside, [self.n_rows]))

    @property
    def fingerprint(self) -> str:
        return self._source.narrow(self._start, self._start + self.n_rows).fingerprint

    def read_into(self, start: int, out: F32) -> None:
        check_read(self, start, out)
        self._source.read_into(self._start + start, out)

    def take_into(self, rows: I64, out: F32) -> None:
        check_take(self, rows, out)
        self._source.take_into(rows + self._start, out)

    def narrow(self, start: int, stop: int) -> VectorSource:
        check_span(self, start, stop)
        return self._source.narrow(self._start + start, self._start + stop)

    def stored_rows(self, rows: I64) -> I64:
        return self._source.stored_rows(rows + self._start)


class TakeSource(WrapperSource):
    """Chosen rows, in the order and with the repeats asked for.

    Parameters
    ----------
    source : VectorSource
    rows : (n,) int64
        Row numbers of `source`, each in ``0 … n_rows - 1``.

    Notes
    -----
    Memory: 8 bytes a row; 4 MiB more a read where the rows do not ascend.
    """

    def __init__(self, source: VectorSource, rows: I64) -> None:
        rows = np.asarray(rows)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise UsageError(
                f"row numbers must be a one-dimensional array of integers, not {rows.dtype} of "
                f"shape {rows.shape}"
            )
        rows = rows.astype(np.int64, copy=False)
        outside = rows[(rows < 0) | (rows >= source.n_rows)]
        if len(outside):
            raise UsageError(
                f"row {int(outside[0]):,} asked of {source!r}, which has rows "
                f"0:{source.n_rows:,} ({len(outside):,} of {len(rows):,} rows are outside)"
            )
        super().__init__(source, len(rows))
        self._rows = rows
        self._ascends = not np.any(rows[1:] < rows[:-1])

    @property
    def edges(self) -> I64:
        if not self._ascends:
            return np.array([0, self.n_rows], dtype=np.int64)
        # Rows of one row group stay together.
        inside = np.searchsorted(self._rows, self._source.edges)
        return np.unique(np.append(inside, (0, self.n_rows)))

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._source.fingerprint.encode())
        digest.update(self._rows.tobytes())
        return digest.hexdigest()[:32]

    @property
    def scratch_bytes(self) -> int:
        return self._source.scratch_bytes + (0 if self._ascends else REORDER_BYTES)

    def read_into(self, start: int, out: F32) -> None:
        check_read(self, start, out)
        self._take(self._rows[start : start + len(out)], out)

    def take_into(self, rows: I64, out: F32) -> None:
        check_take(self, rows, out)
        self._take(self._rows[rows], out)

    def narrow(self, start: int, stop: int) -> VectorSource:
        check_span(self, start, stop)
        rows = self._rows[start:stop]
        if not len(rows):
            return self._source.narrow(0, 0)
        low, high = int(rows.min()), int(rows.max()) + 1
        part = TakeSource(self._source.narrow(low, high), rows - low)
        # A part of an unordered take that happens to ascend has no edges that the whole lacks.
        part._ascends = part._ascends and self._ascends
        return part

    def stored_rows(self, rows: I64) -> I64:
        return self._source.stored_rows(self._rows[rows])

    def _take(self, rows: I64, out: F32) -> None:
        if self._ascends or not np.any(rows[1:] < rows[:-1]):
            self._source.take_into(rows, out)
            return
        order = np.argsort(rows, kind="stable")
        self._source.take_into(rows[order], out)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        # A fancy-indexed copy of all columns at once would double the block.
        width = max(1, REORDER_BYTES // (4 * len(rows)))
        for c in range(0, out.shape[1], width):
            out[:, c : c + width] = out[place, c : c + width]


class WithoutSource(WrapperSource):
    """All rows of a source but some: the base that is left when queries are held out.

    Parameters
    ----------
    source : VectorSource
    removed : (n,) int64
        Row numbers of `source`, strictly ascending.

    Notes
    -----
    Pieces between removed rows are read straight into the caller's buffer. Memory: 8 bytes a
    removed row, and 8 bytes a row of a read that has removed rows inside.
    """

    def __init__(self, source: VectorSource, removed: I64) -> None:
        removed = np.asarray(removed, dtype=np.int64)
        if np.any(removed[1:] <= removed[:-1]):
            raise UsageError("removed rows must be strictly ascending")
        if len(removed) and (removed[0] < 0 or removed[-1] >= source.n_rows):
            raise UsageError(f"removed rows must lie in 0:{source.n_rows:,}")
        super().__init__(source, source.n_rows - len(removed))
        self._removed = removed
        # Row of this source at which each removed row was: rows from there on lie one further.
        self._holes = removed - np.arange(len(removed))

    @property
    def edges(self) -> I64:
        edges = self._source.edges
        kept = edges - np.searchsorted(self._removed, edges)
        return np.unique(np.append(kept, (0, self.n_rows)))

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._source.fingerprint.encode())
        digest.update(b"without" + self._removed.tobytes())
        return digest.hexdigest()[:32]

    def read_into(self, start: int, out: F32) -> None:
        check_read(self, start, out)
        stop = start + len(out)
        a, b = np.searchsorted(self._holes, (start, stop - 1), side="right")
        if a == b:
            self._source.read_into(start + int(a), out)
        else:
            # A take, not one read a piece: it decodes a Parquet row group once however many
            # holes it has, and reads the pieces of a row file where they lie all the same.
            self._source.take_into(self._outer(np.arange(start, stop)), out)

    def take_into(self, rows: I64, out: F32) -> None:
        check_take(self, rows, out)
        self._source.take_into(self._outer(rows), out)

    def narrow(self, start: int, stop: int) -> VectorSource:
        check_span(self, start, stop)
        if start == stop:
            return self._source.narrow(0, 0)
        first, last = (int(r) for r in self._outer(np.array([start, stop - 1])))
        inside = self._removed[(self._removed > first) & (self._removed < last)] - first
        part = self._source.narrow(first, last + 1)
        return WithoutSource(part, inside) if len(inside) else part

    def stored_rows(self, rows: I64) -> I64:
        return self._source.stored_rows(self._outer(rows))

    def _outer(self, rows: I64) -> I64:
        """Rows of the source in which these rows lie."""
        return rows + np.searchsorted(self._holes, rows, side="right")
