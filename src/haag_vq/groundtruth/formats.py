"""Files of ground truth, each by its field's own convention.

===== ========================= ====================================================
file  ids                       distances
===== ========================= ====================================================
hdf5  ``neighbors``, int32      ``distances``, float32, smaller is nearer: Euclidean
      (int64 where needed)      (a root) for l2, 1 − cos for cosine, −x·q for ip
npz   ``ids``, int64            ``distances``, float64, as in memory: lossless
ibin  int32                     float32 after the ids: squared for l2, similarities
                                positive and descending for ip and cosine
===== ========================= ====================================================

hdf5 and npz also keep ``query_rows``, where the queries were rows of the base's own files.
hdf5 is laid out as ann-benchmarks lays it out (attributes ``distance``, ``point_type``,
``dimension``), ibin as big-ann-benchmarks does (uint32 nq, uint32 k, ids, distances).
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.atomic import written_whole
from haag_vq.errors import DataError, SourceNotFoundError, UsageError
from haag_vq.sources.hdf5 import METRIC_OF_NAME, NAME_OF_METRIC, distance_of

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


# What h5py, NumPy and zipfile raise at malformed files.
_MALFORMED = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class TruthFile:
    """What a file of ground truth holds, distances as in memory."""

    ids: I64
    """(nq, k) int64."""
    distances: F64
    """(nq, k): squared distance, or similarity."""
    attributes: dict[str, Any]
    """``metric``, ``n_rows``, ``dim``, ``base_fingerprint``, ``queries_sha256`` where known."""
    query_rows: I64 | None = None
    """(nq,) int64: rows of the base's files that the queries were, where they were such rows."""


def write_truth(truth: TruthFile, path: str | os.PathLike[str]) -> None:
    """Write by the suffix of `path`, whole or not at all.

    Raises
    ------
    UsageError
        If the suffix is none of .hdf5, .h5, .npz, .ibin, or an id does not fit .ibin's int32.
    WriteError
        If the file cannot be written.
    """
    write = _chosen(path)[0]
    if write is _write_ibin:
        _as_int32(truth.ids)
    with written_whole(path) as part:
        write(truth, part)


def read_truth(path: str | os.PathLike[str]) -> TruthFile:
    """Read what `write_truth` or the field's own tools wrote.

    Raises
    ------
    SourceNotFoundError
        If there is no such file.
    DataError
        If it is not such a file, or is truncated.
    """
    if not Path(path).is_file():
        raise SourceNotFoundError(f"no file {os.fspath(path)} (from {os.getcwd()}).")
    read = _chosen(path)[1]
    try:
        truth = read(Path(path))
    except _MALFORMED as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{os.fspath(path)} is not a readable ground-truth file: {error}"
        ) from error
    if truth.ids.dtype.kind not in "iu":
        raise DataError(
            f"{os.fspath(path)}: its ids are {truth.ids.dtype}; ids are rows of the base, whole "
            "numbers. Save them as int32 or int64."
        )
    truth = replace(truth, ids=truth.ids.astype(np.int64))
    if truth.ids.shape != truth.distances.shape or truth.ids.ndim != 2:
        raise DataError(
            f"{os.fspath(path)}: ids have shape {truth.ids.shape}, distances "
            f"{truth.distances.shape}; two equal (queries, k) are needed."
        )
    if not truth.ids.size:
        raise DataError(
            f"{os.fspath(path)} holds {truth.ids.shape[0]:,} queries × k={truth.ids.shape[1]:,}: "
            "no truth of anything. Make it again."
        )
    _check_attributes(truth.attributes, os.fspath(path))
    return truth


# What attributes are, where a file has them.
_KINDS = {
    "metric": str,
    "n_rows": int,
    "dim": int,
    "base_fingerprint": str,
    "queries_sha256": str,
    "dataset": str,
    "query_source": str,
    "excluded_self": bool,
    "software": dict,
    "findings": dict,
    "commit": str,
}


def _check_attributes(attributes: Any, path: str) -> None:
    """Raise DataError unless a file's attributes are what `write_truth` would have written."""
    if not isinstance(attributes, dict):
        raise DataError(f"{path}: its attributes are no JSON object but {attributes!r:.60}.")
    for name, kind in _KINDS.items():
        if type(attributes.get(name, kind())) is not kind:
            raise DataError(
                f"{path}: its attribute {name!r} is {attributes[name]!r:.60}; {kind.__name__} is "
                "needed. Make the file again, or load it without attributes (.ibin)."
            )
    metric = attributes.get("metric", "l2")
    if metric not in NAME_OF_METRIC:
        raise DataError(
            f"{path} is of the metric {metric!r:.60}; {', '.join(NAME_OF_METRIC)} are known."
        )


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Raise UsageError now if `path` could not be written later for its suffix."""
    _chosen(path)


def _chosen(path: str | os.PathLike[str]) -> tuple[_Writer, _Reader]:
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise UsageError(
            f"{os.fspath(path)}: ground truth is kept as {', '.join(_FORMATS)}, by suffix."
        )
    return _FORMATS[suffix]


def _write_hdf5(truth: TruthFile, path: Path) -> None:
    metric = truth.attributes["metric"]
    distances = {
        "l2": lambda d: np.sqrt(d),
        "cosine": lambda d: 1 - d,
        "ip": lambda d: -d,
    }[metric](truth.distances)
    fits = int(truth.ids.max(initial=0)) <= np.iinfo(np.int32).max
    import h5py  # 12 MiB, for those who have such files only

    with h5py.File(path, "w") as file:
        file.attrs["type"] = "dense"
        file.attrs["distance"] = NAME_OF_METRIC[metric]
        file.attrs["point_type"] = "float"
        file.attrs["dimension"] = truth.attributes["dim"]
        file.attrs["haag_vq"] = json.dumps(truth.attributes)
        file["neighbors"] = truth.ids.astype(np.int32 if fits else np.int64)
        file["distances"] = distances.astype(np.float32)
        if truth.query_rows is not None:
            file["query_rows"] = truth.query_rows


def _read_hdf5(path: Path) -> TruthFile:
    import h5py  # 12 MiB, for those who have such files only

    with h5py.File(path, "r") as file:
        attributes = json.loads(file.attrs.get("haag_vq", "{}"))
        distance = distance_of(file)
        _check_attributes(attributes, str(path))
        metric = attributes.get("metric") or METRIC_OF_NAME.get(distance)
        if metric is None:
            raise DataError(
                f"{path}: attribute 'distance' is {distance or None!r}; "
                f"{', '.join(METRIC_OF_NAME)} are known."
            )
        ids = file["neighbors"][()]
        stored = file["distances"][()].astype(np.float64)
        query_rows = file["query_rows"][()] if "query_rows" in file else None
    distances = {"l2": stored**2, "cosine": 1 - stored, "ip": -stored}[metric]
    return TruthFile(ids, distances, {**attributes, "metric": metric}, query_rows)


def _write_npz(truth: TruthFile, path: Path) -> None:
    arrays: dict[str, Any] = {
        "ids": truth.ids,
        "distances": truth.distances,
        "attributes": np.array(json.dumps(truth.attributes)),
    }
    if truth.query_rows is not None:
        arrays["query_rows"] = truth.query_rows
    # Through a handle: by name, NumPy would append a suffix to the name beside.
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def _read_npz(path: Path) -> TruthFile:
    # NumPy takes a lone array by this name too, and leaves a broken file open.
    with open(path, "rb") as handle:
        if not zipfile.is_zipfile(handle):
            raise DataError(f"{path} is not a readable ground-truth file: it is no whole zip file.")
        handle.seek(0)
        with np.load(handle, allow_pickle=False) as file:
            for name in ("ids", "distances"):
                if name not in file:
                    has = ", ".join(file) or "none"
                    raise DataError(f"{path} has no array {name!r}; it has {has}.")
            attributes = json.loads(str(file["attributes"])) if "attributes" in file else {}
            return TruthFile(
                file["ids"],
                file["distances"].astype(np.float64),
                attributes,
                file.get("query_rows"),
            )


def _write_ibin(truth: TruthFile, path: Path) -> None:
    with open(path, "wb") as file:
        # Not tofile: on a full disk it tells neither the file nor the cause.
        file.write(np.array(truth.ids.shape, dtype="<u4").tobytes())
        file.write(_as_int32(truth.ids).tobytes())
        file.write(truth.distances.astype("<f4").tobytes())


def _read_ibin(path: Path) -> TruthFile:
    data = path.read_bytes()
    if len(data) < 8:
        raise DataError(
            f"{path} is truncated: its header alone takes 8 bytes, the file has {len(data)}."
        )
    nq, k = (int(n) for n in np.frombuffer(data[:8], "<u4"))
    if len(data) != 8 + 8 * nq * k:
        raise DataError(
            f"{path}: its header promises {nq:,} queries × k={k:,}, ids and distances in "
            f"{8 + 8 * nq * k:,} bytes; the file has {len(data):,}."
        )
    ids = np.frombuffer(data, "<i4", nq * k, 8).reshape(nq, k)
    distances = np.frombuffer(data, "<f4", nq * k, 8 + 4 * nq * k).reshape(nq, k)
    return TruthFile(ids, distances.astype(np.float64), {})


def _as_int32(ids: I64) -> NDArray[np.int32]:
    largest = int(ids.max(initial=0))
    if largest > np.iinfo(np.int32).max:
        raise UsageError(
            f"id {largest:,} does not fit the int32 of an .ibin file; save as .hdf5 or .npz."
        )
    return ids.astype("<i4")


_Writer = Callable[[TruthFile, Path], None]
_Reader = Callable[[Path], TruthFile]
_FORMATS: dict[str, tuple[_Writer, _Reader]] = {
    ".hdf5": (_write_hdf5, _read_hdf5),
    ".h5": (_write_hdf5, _read_hdf5),
    ".npz": (_write_npz, _read_npz),
    ".ibin": (_write_ibin, _read_ibin),
}
