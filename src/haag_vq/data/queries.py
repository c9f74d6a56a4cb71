"""Where a dataset's queries come from: its first rows, held-out rows, a sample, or a file."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haag_vq.data.sampling import sample_rows
from haag_vq.errors import UsageError, whole_number
from haag_vq.sources import RangeSource, TakeSource, VectorSource, WithoutSource, open_source
from haag_vq.sources.fileio import FileStamp
from haag_vq.sources.hdf5 import QUERIES_NAME
from haag_vq.sources.open import is_hdf5, list_files
from haag_vq.sources.quantized import is_quantized

# Queries that are drawn and a training sample of one seed must not be the same rows.
HOLDOUT_SALT = 0x5EED
QUERY_SAMPLE_SALT = 0xFACE

KINDS = ("first", "holdout", "sample")


@dataclass(frozen=True, slots=True)
class QuerySpec:
    """``first:N``, ``holdout:N``, ``sample:N``, or a file of queries."""

    kind: str
    """One of first, holdout, sample, file."""
    n: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> QuerySpec:
        """Parse a spec; anything that is none is the path of a file.

        Raises
        ------
        UsageError
            If the number after the colon is not a positive whole one.
        """
        path = os.fspath(text)
        kind, colon, number = path.partition(":")
        if not colon or kind not in KINDS:
            return cls("file", path=path)
        if not number.isdecimal() or int(number) < 1:
            raise UsageError(f"{path!r}: a positive number of queries must follow {kind}:")
        return cls(kind, int(number))


def split_queries(
    source: VectorSource, spec: QuerySpec, limit: int | None, seed: int, column: str | None = None
) -> tuple[VectorSource, VectorSource]:
    """Divide a source into base and queries.

    Parameters
    ----------
    limit : int, optional
        Rows of the base, counted after held-out rows are gone. None: all.
    seed : int
        For holdout and sample.
    column : str, optional
        Embedding column of a file of queries, or its array.

    Returns
    -------
    base, queries : VectorSource
        Queries taken by ``first`` (at most all rows) and ``sample`` are rows of the base too and
        find themselves; rows held out are drawn from the whole source and are not.

    Raises
    ------
    UsageError
        If there are not as many rows, or the seed is negative.
    """
    if seed < 0:
        raise UsageError(f"seed={seed} must be at least 0.")
    if spec.kind == "holdout":
        if spec.n >= source.n_rows:
            raise UsageError(
                f"holdout:{spec.n} would leave nothing of {source.n_rows:,} rows: hold out fewer."
            )
        held = sample_rows(source.n_rows, spec.n, seed ^ HOLDOUT_SALT)
        return limited(WithoutSource(source, held), limit), TakeSource(source, held)
    base = limited(source, limit)
    if spec.kind == "file":
        return base, open_source(spec.path, column or _own_array(spec.path))
    if spec.kind == "first":
        # The loaders' default of 100 must not forbid a limit of 50.
        return base, RangeSource(base, 0, min(spec.n, base.n_rows))
    if spec.n > base.n_rows:
        raise UsageError(f"sample:{spec.n} asked of a base of {base.n_rows:,} rows.")
    return base, TakeSource(base, sample_rows(base.n_rows, spec.n, seed ^ QUERY_SAMPLE_SALT))


def _own_array(path: str) -> str | None:
    """Name the array that is meant of files that hold rows and queries."""
    if is_quantized(path):
        return None
    files = [FileStamp.of(file) for file in list_files(path)]
    return QUERIES_NAME if all(is_hdf5(file) for file in files) else None


def limited(source: VectorSource, limit: int | None) -> VectorSource:
    """Keep the first `limit` rows, or all when it is None or there are no more."""
    if limit is None:
        return source
    limit = whole_number("limit", limit)
    if limit >= source.n_rows:
        return source
    if limit < 1:
        raise UsageError(f"limit={limit} leaves no rows: take at least 1, or None for all.")
    return RangeSource(source, 0, limit)


def as_rows(rows: object, n_rows: int) -> NDArray[np.int64]:
    """Check a user's row numbers, of which negative ones count from the end.

    Raises
    ------
    UsageError
        If they are not one-dimensional integers in ``-n_rows … n_rows - 1``.
    """
    found = np.asarray(rows)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise UsageError(
            f"row numbers must be a one-dimensional array of integers, not {found.dtype} of "
            f"shape {found.shape}."
        )
    outside = found[(found < -n_rows) | (found >= n_rows)]
    if outside.size:
        raise UsageError(
            f"row {int(outside[0]):,} is none of {n_rows:,} rows ({outside.size:,} of the "
            f"{found.size:,} row numbers are outside)."
        )
    out = found.astype(np.int64)
    out[out < 0] += n_rows
    return out
