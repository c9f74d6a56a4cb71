"""HDF5 files as ann-benchmarks publishes them: rows in the array ``train``, queries in ``test``.

Only arrays that lie in the file in one piece are read, which are those that h5py writes unless it
is told otherwise: their place is asked for once, and rows are read from there as from any file of
rows, by several threads, without the HDF5 library and its one lock.
"""

from __future__ import annotations

from typing import Any

from haag_vq.errors import DataError
from haag_vq.sources.fileio import StoredFile
from haag_vq.sources.fixed import FixedRowSource
from haag_vq.sources.protocol import STORED_DTYPES, Metric
from haag_vq.sources.ranged import header_of

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
HDF5_SUFFIXES = (".hdf5", ".h5")

BASE_NAME = "train"
QUERIES_NAME = "test"

# ann-benchmarks' names of metrics.
METRICS: dict[str, Metric] = {"euclidean": "l2", "angular": "cosine", "ip": "ip"}

# Pieces in which a file that is not on a file system is looked through for where arrays lie.
LOOK_BYTES = 64 << 10

# What h5py raises at malformed files.
_MALFORMED = (OSError, RuntimeError, KeyError, ValueError, TypeError)


def open_hdf5(stamp: StoredFile, name: str | None = None) -> FixedRowSource:
    """Open one array of an HDF5 file. Its description is read, no vectors.

    Parameters
    ----------
    name : str, optional
        Of the array; ``train`` when not given.

    Raises
    ------
    DataError
        If it is no HDF5 file, has no such array, or the array is not of two dimensions, of no
        type that vectors have, or not in one piece in this file.
    """
    import h5py  # 12 MiB, for those who have such files only

    try:
        with header_of(stamp, LOOK_BYTES) as raw, h5py.File(raw, "r") as file:
            return _source_of(stamp, file, name or BASE_NAME)
    except DataError:
        raise
    except _MALFORMED as error:
        raise DataError(f"{stamp.path} is not a readable HDF5 file: {error}") from error


def _source_of(stamp: StoredFile, file: Any, name: str) -> FixedRowSource:
    import h5py

    array = file.get(name)
    where = f"{stamp.path}: its array {name!r}"
    link = file.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):  # which is not followed: the place is in that file
        raise DataError(f"{where} is a link to {link.path!r} in {link.filename}. Open that file.")
    if not isinstance(array, h5py.Dataset):
        arrays = [f"{key!r} {item.shape}" for key, item in _arrays(file).items()]
        raise DataError(
            f"{stamp.path} has no array {name!r}; it has {', '.join(arrays) or 'none'}. Say which "
            "holds the vectors: column=…, or --column."
        )
    if len(array.shape or ()) != 2 or not array.shape[1]:
        raise DataError(f"{where} has shape {array.shape}; vectors are rows of two dimensions.")
    if array.dtype.hasobject or array.dtype.name not in STORED_DTYPES:
        raise DataError(
            f"{where} holds {array.dtype}; vectors are read from {', '.join(STORED_DTYPES)}."
        )
    n_rows, dim = (int(n) for n in array.shape)
    offset = array.id.get_offset() or 0
    elsewhere = _elsewhere(array, offset)
    if n_rows and elsewhere:
        raise DataError(
            f"{where} is stored {elsewhere}, so that no row can be read on its own. Write it in "
            f"one piece: h5repack -l {name}:CONTI -f {name}:NONE {stamp.path} NEW.hdf5"
        )
    end = offset + n_rows * dim * array.dtype.itemsize
    if end > stamp.size_bytes:
        raise DataError(
            f"{where}, {n_rows:,} × {dim} {array.dtype}, ends at byte {end:,}, the file has "
            f"{stamp.size_bytes:,}: it is truncated. Fetch or write it again."
        )
    return FixedRowSource(stamp, offset, n_rows, dim, array.dtype)


def _elsewhere(array: Any, offset: int) -> str:
    """Say how an array is stored if it does not lie in the file in one piece, at `offset`."""
    from h5py import h5d

    layout = array.id.get_create_plist().get_layout()
    if array.external:
        return "in another file"
    if layout == h5d.CONTIGUOUS:
        return "" if offset else "nowhere: nothing was ever written to it"
    ways = {h5d.CHUNKED: "in chunks", h5d.COMPACT: "in its own description"}
    return ways.get(layout, "in pieces of other files")


def _arrays(file: Any) -> dict[str, Any]:
    """Arrays at the top of a file, by name."""
    import h5py

    found = ((key, file.get(key)) for key in file)
    return {key: item for key, item in found if isinstance(item, h5py.Dataset)}


def is_hdf5(path: str) -> bool:
    """Whether a path is an HDF5 file: by its first bytes, or by suffix where others come first."""
    try:
        with open(path, "rb") as file:
            if file.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
                return True
    except OSError:
        return False
    if not path.lower().endswith(HDF5_SUFFIXES):
        return False
    import h5py

    return bool(h5py.is_hdf5(path))


def own_queries_and_metric(path: str) -> tuple[bool, Metric | None]:
    """Whether an HDF5 file has an array of queries of its own, and which metric it names."""
    import h5py

    try:
        # By a handle, as `open_hdf5`: by name HDF5 asks for a lock, which some file systems lack.
        with open(path, "rb") as raw, h5py.File(raw, "r") as file:
            has_queries = isinstance(file.get(QUERIES_NAME), h5py.Dataset)
            return has_queries, METRICS.get(distance_of(file))
    except _MALFORMED as error:
        raise DataError(f"{path} is not a readable HDF5 file: {error}") from error


def distance_of(file: Any) -> str:
    """Read ann-benchmarks' name of the metric off an open file; '' where there is none."""
    named = file.attrs.get("distance", "")
    if isinstance(named, bytes):  # a string of fixed length, as C writes it
        named = named.decode(errors="replace")
    return str(named)
