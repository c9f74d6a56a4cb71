"""HDF5 files as ann-benchmarks publishes them: rows in the array ``train``, queries in ``test``.

Only arrays that lie in the file in one piece are read, which are those that h5py writes unless it
is told otherwise: their place is asked for once, and rows are read from there as from any file of
rows, by several threads, without the HDF5 library and its one lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

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
METRIC_OF_NAME: dict[str, Metric] = {"euclidean": "l2", "angular": "cosine", "ip": "ip"}
NAME_OF_METRIC = {metric: name for name, metric in METRIC_OF_NAME.items()}

# Pieces in which a file that is not on a file system is looked through for where arrays lie.
LOOK_BYTES = 64 << 10

# Soft links that are followed on the way to one array: more are a circle. Arbitrary.
MOST_LINKS = 32

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
    with _opened(stamp) as file:
        return _source_of(stamp, file, name or BASE_NAME)


@dataclass(frozen=True, slots=True)
class OwnQueries:
    """What a file of ann-benchmarks says beside its rows."""

    has_queries: bool
    """There is an array of queries, `QUERIES_NAME`."""
    distance: str
    """Its name of the metric; '' where there is none."""

    @property
    def metric(self) -> Metric | None:
        """The metric, if it is one of ours."""
        return METRIC_OF_NAME.get(self.distance)


def own_queries(stamp: StoredFile) -> OwnQueries:
    """Look whether an HDF5 file has queries of its own, and which metric it names.

    Raises
    ------
    DataError
        If it is no HDF5 file.
    """
    with _opened(stamp) as file:
        return OwnQueries(_find(stamp, file, QUERIES_NAME) is not None, distance_of(file))


def distance_of(file: Any) -> str:
    """Read ann-benchmarks' name of the metric off an open file; '' where there is none."""
    named = np.asarray(file.attrs.get("distance", "")).ravel()
    if len(named) != 1:
        return ""
    one = named[0]
    # A string of fixed length, as C writes it.
    return one.decode(errors="replace") if isinstance(one, bytes) else str(one)


@contextmanager
def _opened(stamp: StoredFile) -> Iterator[Any]:
    """Open with the HDF5 library, wherever the file is.

    By a handle: by name the library asks for a lock, which not every network file system has.
    """
    import h5py  # 12 MiB, for those who have such files only

    try:
        with header_of(stamp, LOOK_BYTES) as raw, h5py.File(raw, "r") as file:
            yield file
    except DataError:
        raise
    except _MALFORMED as error:
        raise DataError(f"{stamp.path} is not a readable HDF5 file: {error}") from error


def _find(stamp: StoredFile, file: Any, name: str) -> Any:
    """Return the array of a name; None if there is none.

    Link by link: the library would look for what is linked from another file in this one, which
    is all that it has been given.

    Raises
    ------
    DataError
        If it is a link into another file.
    """
    import h5py

    here, rest = file, name.split("/")
    for _ in range(MOST_LINKS + len(rest)):
        if not rest:
            return here if isinstance(here, h5py.Dataset) else None
        part, rest = rest[0], rest[1:]
        if not part:
            continue
        if not isinstance(here, h5py.Group):
            return None
        link = here.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise DataError(
                f"{stamp.path}: its array {name!r} is a link to {link.path!r} in {link.filename}. "
                "Open that file."
            )
        if isinstance(link, h5py.SoftLink):
            steps = link.path.split("/")
            here, rest = (file if link.path.startswith("/") else here), [*steps, *rest]
        elif link is None:
            return None
        else:
            here = here[part]
    return None


def _source_of(stamp: StoredFile, file: Any, name: str) -> FixedRowSource:
    from h5py import h5t

    array = _find(stamp, file, name)
    where = f"{stamp.path}: its array {name!r}"
    if array is None:
        raise DataError(
            f"{stamp.path} has no array {name!r}; it has {', '.join(_arrays(file)) or 'none'}. Say "
            "which is meant: column= or query_column= (--column, --query-column)."
        )
    if len(array.shape or ()) != 2 or not array.shape[1]:
        raise DataError(f"{where} has shape {array.shape}; vectors are rows of two dimensions.")
    # Of a type that NumPy lacks (bfloat16), the library tells the one that it would convert to.
    is_stored_so = array.id.get_type() == h5t.py_create(array.dtype)
    if not is_stored_so or array.dtype.hasobject or array.dtype.name not in STORED_DTYPES:
        size = array.id.get_type().get_size()
        kind = array.dtype if is_stored_so else f"{size}-byte values of a type that NumPy lacks"
        raise DataError(f"{where} holds {kind}; vectors are read from {', '.join(STORED_DTYPES)}.")
    n_rows, dim = (int(n) for n in array.shape)
    offset = array.id.get_offset() or 0
    elsewhere = _elsewhere(array, offset)
    if n_rows and elsewhere:
        raise DataError(
            f"{where} is stored {elsewhere}, so that no row can be read on its own. Write its file "
            f"with all arrays in one piece: h5repack -l CONTI -f NONE {stamp.path} NEW.hdf5"
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


def _arrays(file: Any) -> list[str]:
    """Arrays of a file, at the top and in groups, with their shapes."""
    import h5py

    found: list[str] = []

    def note(name: Any, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(f"{name!r} {item.shape}")

    file.visititems(note)
    return found
