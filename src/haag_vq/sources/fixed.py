"""Files of rows of one size: the body that .npy, HDF5, big-ann and TEXMEX files share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from haag_vq.errors import DataError
from haag_vq.sources.ahead import N_JOBS, N_PIECES, Job, fetched_ahead
from haag_vq.sources.convert import to_float32
from haag_vq.sources.fileio import FileReader, StoredFile
from haag_vq.sources.protocol import (
    F32,
    I64,
    AnyArray,
    FiniteCheck,
    VectorSource,
    check_read,
    check_span,
    check_take,
)
from haag_vq.sources.ranged import WINDOW_BYTES

# Rows that lie one after the other in the file: first row, how many, place in the output.
Run = tuple[int, int, int]
# Where the rows of a piece are read to, by its runs and its slot.
TargetOf = Callable[[list[Run], int], AnyArray]

# Measured on float16 d=1024: pieces that stay in the L2 cache between the read and the
# conversion are 13% faster than a memory map; 256 KiB to 2 MiB make no difference.
PIECE_BYTES = 1 << 20

# Pieces that no read uses now, for the next ones: as many as ever were read at one time.
_idle: list[AnyArray] = []

# Scattered rows are runs of Python's integers: 400 bytes each, measured, two pieces' at once.
# The bound matters to short rows only.
PIECE_ROWS = 4096
RUN_BYTES = 400

# Of a body whose rows are read straight into the caller's block. From the page cache, float32 rows
# behind a header of 8 bytes come at 2.1–2.6 GB/s so and at 5 through a piece (measured; d=768,
# a fresh block): the kernel copies to where the bytes lie otherwise in a word.
ALIGNMENT = 64

# TEXMEX's files have the dimension before each row.
ROW_DIM = np.dtype("<i4")

# What a request holds beside its target: the pieces of a body as they come, TLS, the headers.
REQUEST_BYTES = 256 << 10


class FixedRowSource(VectorSource):
    """Rows of one file, each `dim` elements of `dtype`, one after the other.

    Parameters
    ----------
    stamp : StoredFile
        The file, as it was when its header was read.
    offset_bytes : int
        Where row 0 starts in the file.
    n_rows, dim, dtype
        From the header.
    first_row : int
        Row of the file that is this source's row 0 (a narrowed source starts later).
    dim_in_rows : bool
        Whether `dim` stands before each row too, as `ROW_DIM`; it is checked as rows are read.

    Notes
    -----
    Memory: one piece of about 1 MiB for each thread that reads at one time, kept for the next
    reads, none where float32 rows are read straight into the block (.npy, the Hub); up to 1.6 MiB
    for the places of scattered rows. Of a file that is not on a file system, `N_PIECES` pieces of
    up to 8 MiB: one is converted while the others come. Rows are read by positioned reads, so any
    row is a cheap place to start.
    """

    def __init__(
        self,
        stamp: StoredFile,
        offset_bytes: int,
        n_rows: int,
        dim: int,
        dtype: np.dtype[Any],
        first_row: int = 0,
        dim_in_rows: bool = False,
    ) -> None:
        self._stamp = stamp
        self._offset_bytes = offset_bytes
        self._first_row = first_row
        self._before_row = ROW_DIM.itemsize if dim_in_rows else 0
        self.n_rows = n_rows
        self.dim = dim
        self.dtype = dtype

    @property
    def first_row(self) -> int:
        """Row of the file that is row 0 here."""
        return self._first_row

    @property
    def edges(self) -> I64:
        return np.array([0, self.n_rows], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        # What the header says; its bytes are among those that are sampled.
        layout = f"rows:{self._offset_bytes}:{self.dim}:{self.dtype.str}"
        if self._before_row:
            layout += f":{self._before_row}"
        rows = f"[{self._first_row}:{self._first_row + self.n_rows}]"
        return self._stamp.fingerprint(layout) + rows

    @property
    def files(self) -> tuple[str, ...]:
        return (self._stamp.path,)

    @property
    def stored_bytes(self) -> int:
        return self.n_rows * self._row_bytes

    @property
    def scratch_bytes(self) -> int:
        run = self._piece_rows * self._row_bytes
        taken = self._taken_rows * (self._row_bytes + RUN_BYTES)
        piece = max(run, taken)
        return N_PIECES * piece + N_JOBS * REQUEST_BYTES if self._is_remote else piece

    @property
    def _row_bytes(self) -> int:
        return self._before_row + self.dim * self.dtype.itemsize

    @property
    def _is_remote(self) -> bool:
        return self._stamp.local_path is None

    @property
    def _piece_rows(self) -> int:
        # A request each: as large as what is fetched at once of other formats.
        n_bytes = WINDOW_BYTES if self._is_remote else PIECE_BYTES
        return max(1, n_bytes // max(1, self._row_bytes))

    @property
    def _taken_rows(self) -> int:
        return min(PIECE_ROWS, self._piece_rows)

    def read_into(self, start: int, out: F32) -> None:
        check_read(self, start, out)
        piece = self._piece_rows
        places = range(0, len(out), piece)
        self._fill(([(start + at, min(piece, len(out) - at), at)] for at in places), out)

    def take_into(self, rows: I64, out: F32) -> None:
        check_take(self, rows, out)
        piece = self._taken_rows
        places = range(0, len(rows), piece)
        # Lazily: the runs of scattered rows take more memory than their numbers.
        self._fill((_runs(rows, at, piece) for at in places), out, rows)

    def take_stored(self, rows: I64, out: AnyArray) -> None:
        """Fill `out` (n, dim), of the type stored, with rows as they are stored, unchecked.

        Of a piece at most: `rows` (n,) ascend, and their places take `RUN_BYTES` each.
        """
        with self._stamp.opened() as reader:
            self._read(reader, _runs(rows, 0, len(rows)), out, 0)

    def narrow(self, start: int, stop: int) -> FixedRowSource:
        check_span(self, start, stop)
        return FixedRowSource(
            self._stamp,
            self._offset_bytes,
            stop - start,
            self.dim,
            self.dtype,
            self._first_row + start,
            bool(self._before_row),
        )

    def _fill(self, pieces: Iterable[list[Run]], out: F32, taken: I64 | None = None) -> None:
        """Read pieces, each a list of runs, convert and check each.

        `taken` has the row numbers (n,) where a piece is more than one run.
        """
        if not len(out):
            return
        dim = out.shape[1]
        as_asked = self.dtype == np.float32 and self.dtype.isnative and dim == self.dim
        straight = self._is_remote or self._offset_bytes % ALIGNMENT == 0
        in_place = as_asked and straight and not self._before_row
        rows = 0 if in_place else min(self._piece_rows, len(out))
        check = FiniteCheck(self._stamp.path, self.dtype)

        def target_of(runs: list[Run], slot: int) -> AnyArray:
            first, last = _extent(runs)
            return out[first:last] if in_place else scratch[slot][: last - first]

        with (
            self._places(rows, len(out)) as scratch,
            self._stamp.opened() as reader,
            self._fetched(reader, pieces, target_of) as fetched,
        ):
            for runs, slot in fetched:
                first, last = _extent(runs)
                part = out[first:last]
                numbers = self._first_row + (runs[0][0] if taken is None else taken[first:last])
                finite = False
                if not in_place:
                    stored = self._values(target_of(runs, slot), numbers)
                    finite = to_float32(stored[:, :dim], part)
                check.look(numbers, part, finite)
        check.finish()

    def _values(self, records: AnyArray, rows: int | I64) -> AnyArray:
        """View records as read, (n, row bytes) uint8, as values (n, dim); `rows` numbers them."""
        if self._before_row:
            dims = records[:, : self._before_row].view(ROW_DIM)[:, 0]
            wrong = np.flatnonzero(dims != self.dim)
            if len(wrong):
                at = int(wrong[0])
                row = rows + at if isinstance(rows, int) else int(rows[at])
                raise DataError(
                    f"{self._stamp.path}: row {row:,} says that it has {dims[at]:,} dimensions, "
                    f"row 0 says {self.dim:,} ({len(wrong):,} such rows among {len(dims):,}). The "
                    "file is damaged, or its rows are of unlike lengths. Fetch or write it again."
                )
        return records[:, self._before_row :].view(self.dtype)

    @contextmanager
    def _places(self, n_piece_rows: int, n_rows: int) -> Iterator[list[AnyArray]]:
        """Yield bytes (rows, row bytes) for each piece that is held in a read of `n_rows`."""
        shape = (n_piece_rows, self._row_bytes)
        n_bytes = math.prod(shape)
        if self._is_remote or not 0 < n_bytes <= PIECE_BYTES:
            # A read's own: what fetches may go on writing for a while after an interrupt.
            n = min(N_PIECES, -(-n_rows // self._piece_rows)) if self._is_remote else 1
            yield [np.empty(shape, np.uint8) for _ in range(n)]
            return
        # In fresh memory a tenth of a local read goes to the faults of its pages (measured).
        try:
            piece = _idle.pop()
        except IndexError:
            piece = np.empty(PIECE_BYTES, np.uint8)
        try:
            yield [piece[:n_bytes].reshape(shape)]
        finally:
            _idle.append(piece)

    @contextmanager
    def _fetched(
        self, reader: FileReader, pieces: Iterable[list[Run]], target_of: TargetOf
    ) -> Iterator[Iterator[tuple[list[Run], int]]]:
        """Yield an iterator over (piece, slot), each read when it is due or, if remote, before."""

        def jobs_of(runs: list[Run], slot: int) -> list[Job]:
            # Scattered rows are a request each: shared out, so that their round trips overlap.
            target = target_of(runs, slot)
            shares = [runs[i::N_JOBS] for i in range(min(N_JOBS, len(runs)))]
            return [partial(self._read, reader, share, target, runs[0][2]) for share in shares]

        if self._is_remote:
            with fetched_ahead(pieces, jobs_of) as fetched:
                yield fetched
        else:
            yield self._read_in_turn(reader, pieces, target_of)

    def _read_in_turn(
        self, reader: FileReader, pieces: Iterable[list[Run]], target_of: TargetOf
    ) -> Iterator[tuple[list[Run], int]]:
        for runs in pieces:
            self._read(reader, runs, target_of(runs, 0), runs[0][2])
            yield runs, 0

    def _read(self, reader: FileReader, runs: list[Run], target: AnyArray, first: int) -> None:
        """Read runs of the piece whose place in the output is `first` into its `target`."""
        if target.size == 0:
            return
        for row, n, place in runs:
            offset = self._offset_bytes + (self._first_row + row) * self._row_bytes
            part = target[place - first : place - first + n]
            reader.read_into(offset, part.data.cast("B"))


def _extent(runs: list[Run]) -> tuple[int, int]:
    """Places of a piece in the output: the first, and the one after its last."""
    return runs[0][2], runs[-1][2] + runs[-1][1]


def _runs(rows: I64, at: int, n: int) -> list[Run]:
    """Split ``rows[at:at + n]`` into runs of consecutive rows: (first row, length, place)."""
    part = rows[at : at + n]
    starts = np.concatenate(([0], np.flatnonzero(np.diff(part) != 1) + 1))
    ends = np.append(starts[1:], len(part))
    return [(int(part[a]), int(b - a), at + int(a)) for a, b in zip(starts, ends, strict=True)]


def check_body(
    stamp: StoredFile, offset_bytes: int, n_rows: int, dim: int, dtype: np.dtype[Any]
) -> None:
    """Raise DataError unless the file has exactly the bytes that its header promises.

    A file that is too long is refused as well: it is a header that does not belong to it.
    """
    expected = offset_bytes + n_rows * dim * dtype.itemsize
    if stamp.size_bytes == expected:
        return
    row_bytes = max(1, dim * dtype.itemsize)
    held = max(0, stamp.size_bytes - offset_bytes) // row_bytes
    verb = "is truncated" if stamp.size_bytes < expected else "is longer than its header says"
    raise DataError(
        f"{stamp.path} {verb}: its header promises {n_rows:,} rows × {dim} {dtype} "
        f"({expected:,} bytes in all), the file has {stamp.size_bytes:,} bytes, enough for "
        f"{held:,} rows. Fetch or write the file again."
    )
