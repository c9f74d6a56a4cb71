"""What every source of stored vectors offers, and the checks that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import DataError, UsageError

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
AnyArray = NDArray[Any]

Metric = Literal["l2", "ip", "cosine"]

# Element types that become float32 without doubt about their meaning. float64 is rounded to
# nearest; int32 and wider are refused, because float32 cannot hold them.
STORED_DTYPES = ("float32", "float64", "float16", "int8", "uint8")


def check_metric(metric: Any) -> Metric:
    """Return `metric` if it is one; UsageError otherwise."""
    if metric not in get_args(Metric):
        raise UsageError(f"metric {metric!r} is none of 'l2', 'ip', 'cosine' (or 'auto').")
    return cast(Metric, metric)


class VectorSource(ABC):
    """Rows of stored vectors, read on demand into memory that the caller owns.

    Constructing one reads headers or footers only. A source pickles (no open handles travel)
    and may be read by several threads at once.

    Attributes
    ----------
    n_rows : int
    dim : int
        Length of every vector.
    dtype : numpy.dtype
        Element type as stored; every read delivers float32.
    """

    n_rows: int
    dim: int
    dtype: np.dtype[Any]

    @property
    @abstractmethod
    def edges(self) -> I64:
        """Rows at which a read starts cheaply, ascending: 0, shard and row-group starts, n_rows."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identity of the content, as a short hex string."""

    @property
    @abstractmethod
    def scratch_bytes(self) -> int:
        """The most that one read allocates beside its output, in bytes."""

    @property
    @abstractmethod
    def stored_bytes(self) -> int:
        """Bytes that the vectors take where they are stored."""

    @abstractmethod
    def read_into(self, start: int, out: F32) -> None:
        """Fill `out` with rows ``start … start + len(out)``, in one pass.

        Parameters
        ----------
        start : int
            First row.
        out : (n, m) float32, C-contiguous, 1 ≤ m ≤ dim
            Filled in place with the first m dimensions; undefined when an error is raised.

        Raises
        ------
        DataError
            If rows are malformed or not finite: the message names the file and the rows.
        FileChangedError
            If the file is no longer the one whose header was read.
        """

    @abstractmethod
    def take_into(self, rows: I64, out: F32) -> None:
        """Fill `out` with the given rows, reading only the units of storage that hold them.

        Parameters
        ----------
        rows : (n,) int64
            Row numbers in ascending order; repeats are allowed.
        out : (n, m) float32, C-contiguous, 1 ≤ m ≤ dim
        """

    @abstractmethod
    def narrow(self, start: int, stop: int) -> VectorSource:
        """Return rows ``start:stop`` as a source that carries only the files it touches.

        This is what a task is given, so it pickles small. It forgets where the rows lie in
        the whole: use `RangeSource` for a subset that must map back.
        """

    def stored_rows(self, rows: I64) -> I64:
        """Map rows of this source to rows of the files it was opened from, stacked in order."""
        return rows

    @property
    def starts_anywhere(self) -> bool:
        """Whether any row is as cheap a place to start as an edge: rows of one fixed size."""
        return True

    @property
    def stored_as(self) -> str:
        """What is stored of a vector, for people: its element type, or codes."""
        return self.dtype.name

    @property
    def files(self) -> tuple[str, ...]:
        """Absolute paths read from, in order; empty when the rows are not in files."""
        return ()

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.n_rows:,} × {self.dim} {self.dtype}, "
            f"{len(self.files)} files)"
        )


def check_read(source: VectorSource, start: int, out: F32) -> None:
    """Raise UsageError unless `out` is a buffer for rows of `source` from `start` on."""
    _check_out(source, out)
    if start < 0 or start + len(out) > source.n_rows:
        raise UsageError(
            f"rows {start:,}:{start + len(out):,} asked of {source!r}, which has rows "
            f"0:{source.n_rows:,}"
        )


def check_take(source: VectorSource, rows: I64, out: F32) -> None:
    """Raise UsageError unless `rows` ascend within `source` and `out` has a place for each."""
    _check_out(source, out)
    if rows.ndim != 1 or len(rows) != len(out):
        raise UsageError(f"{rows.shape} row numbers for a buffer of {len(out):,} rows")
    if len(rows) and (rows[0] < 0 or rows[-1] >= source.n_rows):
        raise UsageError(
            f"rows from {rows[0]:,} to {rows[-1]:,} asked of {source!r}, which has rows "
            f"0:{source.n_rows:,}"
        )
    if np.any(rows[1:] < rows[:-1]):
        raise UsageError("row numbers must be in ascending order")


def check_span(source: VectorSource, start: int, stop: int) -> None:
    """Raise UsageError unless ``start:stop`` is a range of rows of `source`."""
    if not 0 <= start <= stop <= source.n_rows:
        raise UsageError(
            f"rows {start:,}:{stop:,} asked of {source!r}, which has rows 0:{source.n_rows:,}"
        )


def _check_out(source: VectorSource, out: F32) -> None:
    if (
        out.dtype != np.float32
        or out.ndim != 2
        or not 1 <= out.shape[1] <= source.dim
        or not out.flags.c_contiguous
    ):
        raise UsageError(
            f"a C-contiguous float32 buffer of shape (n, {source.dim}), or of its first "
            f"dimensions, is needed, not "
            f"{out.dtype} {out.shape}"
        )


class FiniteCheck:
    """Finds NaN and infinity piece by piece, while a piece is still in the CPU's cache.

    All rows of a read are looked at before `finish` raises, so that the message can count.
    """

    def __init__(self, where: str, dtype: np.dtype[Any]) -> None:
        self._where = where
        self._needed = dtype.kind == "f"
        self._n_bad = 0
        self._n_seen = 0
        self._first = -1
        self._range = (0, 0)

    def look(self, at: int | I64, rows: F32, finite: bool = False) -> None:
        """Look at `rows` (n, dim): rows ``at …`` of the file, or, of a take, its rows `at` (n,).

        Where it is known that they are `finite`, they are only counted.
        """
        if not self._needed or not len(rows):
            return
        first, last = (at, at + len(rows)) if isinstance(at, int) else (int(at[0]), int(at[-1]) + 1)
        self._range = (self._range[0] if self._n_seen else first, last)
        self._n_seen += len(rows)
        if finite:
            return
        # NaN and infinity always survive a sum; a finite sum that overflows only costs the
        # exact look below. One reduction is several times cheaper than isfinite + all.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(np.add.reduce(rows, axis=None)):
                return
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad) and self._first < 0:
            self._first = at + int(bad[0]) if isinstance(at, int) else int(at[bad[0]])
        self._n_bad += len(bad)

    def finish(self) -> None:
        """Raise DataError if any row looked at was not finite."""
        if self._n_bad:
            raise DataError(
                f"{self._where} holds NaN or infinity (as float32): {self._n_bad:,} of the "
                f"{self._n_seen:,} rows read from rows {self._range[0]:,}:{self._range[1]:,}, "
                f"the first is row {self._first:,}. Distances to such rows have no meaning; "
                "remove them, or write the set again without them."
            )
