"""Parquet files with one list-typed embedding column; the other columns are never read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from haag_vq.errors import DataError
from haag_vq.sources.convert import to_float32
from haag_vq.sources.fileio import StoredFile
from haag_vq.sources.parquet_footer import (
    FOOTER_GROWTH,
    FOOTERS_KEPT,
    choose_column,
    dimension,
    explained,
    group_starts,
    layout,
    leaf_index,
    list_type_of,
    opened_column,
    read_footer,
    read_schema,
)
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
from haag_vq.sources.ranged import N_WINDOWS, WINDOW_BYTES

# Measured, 1536 × float64, snappy, row groups of 1,000 and of 20,000 rows: batches of 1 MiB
# decode as fast as larger ones and stay 60–70 MiB over the output.
BATCH_BYTES = 1 << 20

# What one reader holds beside the batch: compressed and decoded pages (1 MiB by the format's
# default, some writers use more), the stream's buffer, a dictionary, Arrow's builders.
READER_BYTES = 32 << 20


class ParquetSource(VectorSource):
    """The embedding column of one Parquet file, any row-group size.

    Made by `open_parquet`. A narrowed source carries the file, the column and a row range;
    the table of row groups stays behind, because the reader has the footer in hand anyway.

    Notes
    -----
    The smallest unit that can be read is a row group: a read that starts inside one decodes
    it from its first row. Memory: `READER_BYTES` and four batches of 1 MiB a read, whatever
    the row-group size.
    """

    def __init__(
        self, stamp: StoredFile, column: str, dim: int, dtype: np.dtype[Any], start: int, stop: int
    ) -> None:
        self._stamp = stamp
        self._column = column
        self._start = start
        self.dim = dim
        self.dtype = dtype
        self.n_rows = stop - start

    @property
    def column(self) -> str:
        """Name of the embedding column."""
        return self._column

    @property
    def edges(self) -> I64:
        starts = group_starts(self._stamp) - self._start
        inside = starts[(starts > 0) & (starts < self.n_rows)]
        return np.concatenate(([0], inside, [self.n_rows]))

    @property
    def fingerprint(self) -> str:
        # The footer holds every page's place and every column's statistics; its rows and
        # groups stand for it here, beside the bytes that are sampled of the file.
        how = f"parquet:{self._column}:{self.dim}:{layout(self._stamp)[0]}"
        return f"{self._stamp.fingerprint(how)}[{self._start}:{self._start + self.n_rows}]"

    @property
    def starts_anywhere(self) -> bool:
        return False

    @property
    def files(self) -> tuple[str, ...]:
        return (self._stamp.path,)

    @property
    def stored_bytes(self) -> int:
        metadata = read_footer(self._stamp)
        with explained(self._stamp, "the footer"):
            leaf = leaf_index(read_schema(self._stamp), self._column)
        starts = group_starts(self._stamp)
        first, last = self._groups(0, self.n_rows)
        return sum(
            int(metadata.row_group(g).column(leaf).total_compressed_size)
            for g in range(first, last)
            if starts[g + 1] > starts[g]
        )

    @property
    def scratch_bytes(self) -> int:
        footers = FOOTERS_KEPT * FOOTER_GROWTH * layout(self._stamp)[1]
        ahead = 0 if self._stamp.local_path else N_WINDOWS * WINDOW_BYTES
        batches = 4 * self._batch_rows * self.dim * self.dtype.itemsize
        return READER_BYTES + footers + ahead + batches

    @property
    def _batch_rows(self) -> int:
        return max(1, BATCH_BYTES // max(1, self.dim * self.dtype.itemsize))

    def read_into(self, start: int, out: F32) -> None:
        check_read(self, start, out)
        if len(out):
            check = FiniteCheck(self._stamp.path, self.dtype)
            self._copy_range(self._start + start, out, check)
            check.finish()

    def take_into(self, rows: I64, out: F32) -> None:
        check_take(self, rows, out)
        if not len(rows):
            return
        wanted = rows + self._start
        starts = group_starts(self._stamp)
        group_of = np.searchsorted(starts, wanted, side="right") - 1
        # Consecutive row groups are streamed by one reader, others are stepped over.
        breaks = np.flatnonzero(np.diff(group_of) > 1) + 1
        check = FiniteCheck(self._stamp.path, self.dtype)
        for part in np.split(np.arange(len(wanted)), breaks):
            first, last = int(wanted[part[0]]), int(wanted[part[-1]]) + 1
            at = first
            for row, values in self._stream(first, last):
                at = min(row + len(values), last)
                a, b = np.searchsorted(wanted, (row, row + len(values)))
                if b > a:
                    _pick(values, wanted[a:b] - row, out[a:b])
                    check.look(wanted[a:b], out[a:b])
            self._check_end(first, at, last)
        check.finish()

    def narrow(self, start: int, stop: int) -> ParquetSource:
        check_span(self, start, stop)
        first = self._start
        return ParquetSource(
            self._stamp, self._column, self.dim, self.dtype, first + start, first + stop
        )

    def _groups(self, start: int, stop: int) -> tuple[int, int]:
        """Row groups ``first:last`` that hold rows ``start:stop`` of this source."""
        starts = group_starts(self._stamp)
        first = int(np.searchsorted(starts, self._start + start, side="right")) - 1
        last = int(np.searchsorted(starts, self._start + stop, side="left"))
        return first, max(first, last)

    def _copy_range(self, first: int, out: F32, check: FiniteCheck) -> None:
        last = first + len(out)
        at = first
        for row, values in self._stream(first, last):
            a, b = max(row, first), min(row + len(values), last)
            if a != at:
                break
            target = out[a - first : b - first]
            finite = to_float32(values[a - row : b - row, : out.shape[1]], target)
            check.look(a, target, finite)
            at = b
        self._check_end(first, at, last)

    def _check_end(self, first: int, at: int, last: int) -> None:
        """Raise DataError if decoding rows ``first:last`` came to its end at row `at`."""
        if at != last:
            raise DataError(
                f"{self._stamp.path}: its footer promises rows {first:,}:{last:,}, its pages end "
                f"at row {at:,}. Fetch or write the file again."
            )

    def _stream(self, first: int, last: int) -> Iterator[tuple[int, AnyArray]]:
        """Decode the row groups that hold file rows ``first:last``; yield (file row, values).

        Batches that end before `first` are decoded, as the format demands, and not looked at.
        """
        starts = group_starts(self._stamp)
        groups = self._groups(first - self._start, last - self._start)
        row = int(starts[groups[0]])
        with explained(self._stamp, f"rows {first:,}:{last:,} of column {self._column!r}"):
            with opened_column(self._stamp, self._column, groups) as file:
                for batch in file.iter_batches(
                    batch_size=self._batch_rows,
                    row_groups=list(range(*groups)),
                    columns=[self._column],
                    use_threads=False,
                ):
                    n = batch.num_rows
                    if row + n > first:
                        yield row, self._values(batch.column(0), row)
                    row += n
                    if row >= last:
                        return

    def _values(self, lists: pa.Array, row: int) -> AnyArray:
        """View a batch as (n, dim) without a copy, or say which row forbids it."""
        if isinstance(lists, pa.ExtensionArray):
            lists = lists.storage
        path, column = self._stamp.path, self._column
        if lists.null_count:
            bad = np.flatnonzero(lists.is_null().to_numpy(zero_copy_only=False))
            raise DataError(
                f"{path}: null embedding in column {column!r} at row {row + int(bad[0]):,} "
                f"({len(bad):,} in rows {row:,}:{row + len(lists):,}). Drop rows without a vector."
            )
        if not pa.types.is_fixed_size_list(lists.type):
            wide = pa.types.is_large_list(lists.type)
            lengths = np.diff(_view(lists.offsets, np.dtype(np.int64 if wide else np.int32)))
            bad = np.flatnonzero(lengths != self.dim)
            if len(bad):
                raise DataError(
                    f"{path}: ragged lists in column {column!r}: row {row + int(bad[0]):,} has "
                    f"{int(lengths[bad[0]]):,} values where others have {self.dim:,} "
                    f"({len(bad):,} such rows in rows {row:,}:{row + len(lists):,}). "
                    "Remove them or write the set again."
                )
        flat = lists.flatten()
        if flat.null_count:
            bad = np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False)) // self.dim
            raise DataError(
                f"{path}: null value inside the embedding at row {row + int(bad[0]):,} of column "
                f"{column!r} ({len(np.unique(bad)):,} such rows in rows "
                f"{row:,}:{row + len(lists):,}). Drop rows without a whole vector."
            )
        return _view(flat, self.dtype).reshape(-1, self.dim)


def _pick(values: AnyArray, rows: I64, out: F32) -> None:
    """Copy chosen rows of a batch, as many at a time as a batch has: repeats take no more."""
    for at in range(0, len(rows), len(values)):
        part = rows[at : at + len(values)]
        whole = bool(np.all(np.diff(part) == 1))
        picked = values[part[0] : part[-1] + 1] if whole else values[part]
        to_float32(picked[:, : out.shape[1]], out[at : at + len(part)])


def open_parquet(stamp: StoredFile, column: str | None = None) -> ParquetSource | None:
    """Open the embedding column of one Parquet file. Reads its footer only.

    Parameters
    ----------
    stamp : StoredFile
    column : str, optional
        Name of a column of lists of float64, float32, float16, int8 or uint8 (fixed-size or
        not). Found by itself where there is exactly one, or one has a usual name.

    Returns
    -------
    ParquetSource or None
        None for a file without rows whose lists carry no dimension.

    Raises
    ------
    DataError
        If the file is no whole Parquet file, or has no such column, or several: the message
        lists the columns that are there.
    """
    with explained(stamp, "the footer"):
        schema = read_schema(stamp)
    field = choose_column(stamp.path, schema, column)
    list_type = list_type_of(field.type)
    if list_type is None:
        raise DataError(
            f"{stamp.path}: column {field.name!r} is {field.type}; an embedding column is a list "
            f"of one of {', '.join(STORED_DTYPES)}."
        )
    dtype = np.dtype(list_type.value_type.to_pandas_dtype())
    n_rows = int(group_starts(stamp)[-1])
    layout(stamp)  # like the line above, kept while the footer is at hand
    with explained(stamp, "the footer"):
        dim = dimension(stamp, schema, field.name, list_type)
    return ParquetSource(stamp, field.name, dim, dtype, 0, n_rows) if dim else None


def _view(array: pa.Array, dtype: np.dtype[Any]) -> AnyArray:
    """View an Arrow array of plain numbers without nulls as (n,) of `dtype`, read-only.

    Arrow's own `to_numpy` imports pandas where it is installed: 0.2 s and 50 MiB (measured).
    """
    if not len(array):
        return np.empty(0, dtype)
    offset = array.offset * dtype.itemsize
    return np.frombuffer(array.buffers()[-1], dtype, len(array), offset)
