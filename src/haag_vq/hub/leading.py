"""The files that hold the first rows of a set: all that a prefix of it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from haag_vq.hub.files import HubFile, Repository
from haag_vq.sources.fileio import StoredFile
from haag_vq.sources.open import open_stored
from haag_vq.sources.parquet_footer import read_footer


def leading(
    found: Repository,
    n_rows: int | None,
    stored: Callable[[HubFile], StoredFile],
    column: str | None = None,
) -> Repository:
    """Keep the files that hold the first `n_rows` rows; all of them where it is None.

    Parameters
    ----------
    stored : callable
        Where a file's header or footer is read from, one file after the other until there are
        enough rows.
    column : str, optional
        Array of HDF5 files whose rows are meant.
    """
    if n_rows is None:
        return found
    n_left = n_rows
    for n_files, file in enumerate(found.files, 1):
        n_left -= _count_rows(stored(file), column)
        if n_left <= 0:
            return replace(found, files=found.files[:n_files])
    return found


def _count_rows(file: StoredFile, column: str | None) -> int:
    # A footer counts rows whatever its columns are: which one is meant need not be known yet.
    if file.path.lower().endswith((".parquet", ".pq")):
        return int(read_footer(file).num_rows)
    return open_stored([file], file.path, column).n_rows
