"""Files of search results: what an index returned, in the forms that tools write it.

===== ======================================= ==============================================
file  ids                                     distances, where there are any
===== ======================================= ==============================================
npz   ``ids``, any integers                   ``distances``, as in memory
npy   the array                               none
ibin  int32 after uint32 nq, uint32 k         float32 after the ids (DiskANN may write none)
ivecs int32 k and then k ids, query by query  none
hdf5  ``neighbors``                           ``distances``, if an attribute ``distance``
                                              says of which metric
===== ======================================= ==============================================
"""

from __future__ import annotations

import json
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import DataError, SourceNotFoundError, UsageError
from haag_vq.groundtruth.formats import read_truth
from haag_vq.groundtruth.lists import as_ids
from haag_vq.sources.npy import read_npy_header

I64 = NDArray[np.int64]

# What h5py, NumPy and zipfile raise at malformed files.
_MALFORMED = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """What a search returned for each query, best first."""

    ids: I64
    """(nq, m) int64; -1 where nothing was found."""
    distances: Any = None
    """(nq, m) at the precision they were written with, squared for l2; None where unknown."""
    metric: str | None = None
    """Of the distances, where the file says."""


def read_results(path: str | os.PathLike[str]) -> SearchResult:
    """Read a result of .npz, .npy, .ibin, .ivecs, .hdf5 or .h5, by suffix.

    Raises
    ------
    UsageError
        If the suffix is none of these.
    SourceNotFoundError, DataError
        If there is no such file, it is malformed or truncated, or its ids are no integers.
    """
    where = Path(path)
    read = _READERS.get(where.suffix.lower())
    if read is None:
        raise UsageError(f"{where}: results are read from {', '.join(_READERS)}, by suffix.")
    if not where.is_file():
        raise SourceNotFoundError(f"no file {where} (from {os.getcwd()}).")
    try:
        result = read(where)
    except DataError:
        raise
    except UsageError as error:  # of the ids' type and shape, which here are the file's fault
        raise DataError(str(error)) from error
    except _MALFORMED as error:
        raise DataError(f"{where} is not a readable file of results: {error}") from error
    if result.distances is not None and result.distances.shape != result.ids.shape:
        raise DataError(
            f"{where}: ids have shape {result.ids.shape}, distances {result.distances.shape}."
        )
    return result


def _read_npz(path: Path) -> SearchResult:
    # NumPy takes a lone array by this name too, and leaves a broken file open.
    with open(path, "rb") as handle:
        if not zipfile.is_zipfile(handle):
            raise DataError(f"{path} is not a readable file of results: it is no whole zip file.")
        handle.seek(0)
        with np.load(handle, allow_pickle=False) as file:
            if "ids" not in file:
                raise DataError(f"{path} has no array 'ids'; it has {', '.join(file) or 'none'}.")
            # Files of our own say their metric; NumPy's mapping gives None for what is missing.
            attributes = json.loads(str(file.get("attributes", "{}")))
            return SearchResult(
                as_ids(file["ids"], str(path)), file.get("distances"), attributes.get("metric")
            )


def _read_npy(path: Path) -> SearchResult:
    with open(path, "rb") as file:
        shape, _, dtype = read_npy_header(file)
        size = file.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
        found = os.fstat(file.fileno()).st_size
        if not dtype.hasobject and found != size:
            raise DataError(
                f"{path}: its header promises {dtype} of shape {shape}, {size:,} bytes in all; "
                f"the file has {found:,}."
            )
        file.seek(0)
        ids = np.load(file, allow_pickle=False)
    return SearchResult(as_ids(ids, str(path)))


def _read_ibin(path: Path) -> SearchResult:
    with open(path, "rb") as file:
        head = np.frombuffer(file.read(8), "<u4")
    if len(head) < 2:
        raise DataError(f"{path} is truncated: its header alone takes 8 bytes.")
    nq, m = (int(n) for n in head)
    if path.stat().st_size == 8 + 4 * nq * m:
        ids = np.fromfile(path, "<i4", offset=8).reshape(nq, m)
        return SearchResult(ids.astype(np.int64))
    truth = read_truth(path)
    return SearchResult(truth.ids, truth.distances.astype(np.float32))


def _read_ivecs(path: Path) -> SearchResult:
    data = np.fromfile(path, "<i4")
    size = path.stat().st_size
    m = int(data[0]) if len(data) else 0
    if m < 1 or size % (4 * (m + 1)):
        raise DataError(
            f"{path}: its first query has {m:,} neighbours; queries of {4 * (m + 1):,} bytes do "
            f"not fill the file's {size:,}."
        )
    rows = data.reshape(-1, m + 1)
    ragged = np.flatnonzero(rows[:, 0] != m)
    if len(ragged):
        raise DataError(
            f"{path}: query 0 has {m:,} neighbours, query {int(ragged[0]):,} has "
            f"{int(rows[ragged[0], 0]):,}: one k for all is needed."
        )
    return SearchResult(rows[:, 1:].astype(np.int64))


def _read_hdf5(path: Path) -> SearchResult:
    import h5py  # 12 MiB, for those who have such files only

    with h5py.File(path, "r") as file:
        if "neighbors" not in file:
            raise DataError(f"{path} has no 'neighbors'; it has {', '.join(file) or 'nothing'}.")
        ids = as_ids(file["neighbors"][()], str(path))
        weighed = "distances" in file and "distance" in file.attrs
    if not weighed:
        return SearchResult(ids)
    truth = read_truth(path)
    return SearchResult(ids, truth.distances.astype(np.float32), truth.attributes["metric"])


_READERS: dict[str, Callable[[Path], SearchResult]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".ibin": _read_ibin,
    ".ivecs": _read_ivecs,
    ".hdf5": _read_hdf5,
    ".h5": _read_hdf5,
}
