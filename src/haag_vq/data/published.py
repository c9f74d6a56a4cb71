"""The publisher's own neighbours of MS MARCO's queries, as ground truth of the whole corpus."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from numpy.typing import NDArray

from haag_vq.arrays import read_array
from haag_vq.data.catalog import look_up
from haag_vq.data.located import HubOptions, Located, locate_entry, on_disk
from haag_vq.errors import DataError
from haag_vq.groundtruth import GroundTruth
from haag_vq.sources.fileio import StoredFile
from haag_vq.sources.open import list_files
from haag_vq.sources.ranged import header_of

OFFSETS, SIMILARITIES = "top1k_offsets", "top1k_cossim"

# One request of a file on the Hub: its two columns have some 20 MB. Arbitrary.
_PIECE_BYTES = 8 << 20


def load_published_truth(
    where: str | os.PathLike[str] = "msmarco",
    cache_dir: str | os.PathLike[str] | None = None,
    streaming: bool = True,
    revision: str | None = None,
) -> GroundTruth:
    """Load the neighbours that MS MARCO's publisher found by brute force over all passages.

    Parameters
    ----------
    where : str or path-like
        ``msmarco``, or Parquet files of queries with the columns ``emb``, ``top1k_offsets``
        (positions in the shards stacked in order) and ``top1k_cossim``.
    cache_dir, streaming, revision
        As for `open_dataset`.

    Returns
    -------
    GroundTruth
        Of (1,677, 1000) ids, metric cosine. ``n_rows`` is 0, not known: the file does not say it.

    Raises
    ------
    SourceNotFoundError
        If the files are not there.
    DataError
        If the columns are missing or not lists of equal lengths.

    Notes
    -----
    It is truth of the whole corpus: of a prefix it can only tell the heads of the lists
    (`groundtruth.heads`). Its similarities are float32, so that near-ties are in any order.
    """
    options = HubOptions(None, None, revision, streaming, cache_dir)
    if where == "msmarco" and not os.path.exists(where):
        entry = look_up("msmarco-queries")
        located, column = locate_entry(entry, options)[0], entry.column
    else:
        located, column = on_disk(list_files(where)), None
    table = pa.concat_tables([_read(file) for file in located.files])
    ids, similarities = (_lists(table, name, located) for name in (OFFSETS, SIMILARITIES))
    if ids.shape != similarities.shape:
        raise DataError(
            f"{located.files[0].path}: {OFFSETS} is {ids.shape}, {SIMILARITIES} "
            f"{similarities.shape}; one similarity for each neighbour is needed."
        )
    xq = read_array(located.open(column))
    return GroundTruth(
        ids.astype(np.int64),
        similarities.astype(np.float64),
        "cosine",
        0,
        int(xq.shape[1]),
        queries_sha256=hashlib.sha256(xq.data).hexdigest(),
        dataset=os.fspath(where),
        query_source=", ".join(file.path for file in located.files[:3]),
        commit="" if located.pin is None else str(located.pin),
    )


def _read(file: StoredFile) -> pa.Table:
    with header_of(file, _PIECE_BYTES) as opened:
        try:
            names = pq.read_schema(opened).names
            absent = [name for name in (OFFSETS, SIMILARITIES) if name not in names]
            if absent:
                raise DataError(
                    f"{file.path} has no column {' nor '.join(absent)}: it holds no published "
                    f"neighbours. It has: {', '.join(names)}."
                )
            opened.seek(0)
            return pq.read_table(opened, columns=[OFFSETS, SIMILARITIES])
        except pa.ArrowInvalid as error:
            raise DataError(f"{file.path} is not readable as Parquet: {error}") from error


def _lists(table: pa.Table, name: str, located: Located) -> NDArray[Any]:
    """Turn a column of lists of one length into (n_queries, k)."""
    column = table[name].combine_chunks()
    lengths = np.unique(pa.compute.list_value_length(column).to_numpy(zero_copy_only=False))
    if column.null_count or len(lengths) != 1 or column.flatten().null_count:
        raise DataError(
            f"{located.files[0].path}: column {name} holds lists of {lengths[:5].tolist()} values; "
            "lists of one length without nulls are needed."
        )
    values: NDArray[Any] = column.flatten().to_numpy()
    return values.reshape(len(column), int(lengths[0]))
