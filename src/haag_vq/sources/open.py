"""Find out what a path holds and open it as one source."""

from __future__ import annotations

import functools
import glob
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from haag_vq.errors import DataError, SourceNotFoundError
from haag_vq.sources.bigann import BIGANN_DTYPES, open_bigann, suffix_of
from haag_vq.sources.concat import ConcatSource
from haag_vq.sources.fileio import FileStamp, StoredFile
from haag_vq.sources.hdf5 import HDF5_MAGIC, HDF5_SUFFIXES, open_hdf5
from haag_vq.sources.npy import NPY_MAGIC, open_npy
from haag_vq.sources.parquet import open_parquet
from haag_vq.sources.protocol import VectorSource
from haag_vq.sources.quantized import is_quantized, open_quantized
from haag_vq.sources.texmex import TEXMEX_DTYPES, open_texmex

PARQUET_MAGIC = b"PAR1"

# Headers of many shards on a network file system: the wait is latency, not work. Arbitrary.
OPEN_THREADS = 16

# Opened files of a commit that a process keeps, some hundred bytes each.
PINNED_KEPT = 4096

_SUFFIXES = {
    ".npy": "npy",
    ".parquet": "parquet",
    ".pq": "parquet",
    **dict.fromkeys(BIGANN_DTYPES, "bigann"),
    **dict.fromkeys(TEXMEX_DTYPES, "texmex"),
    **dict.fromkeys(HDF5_SUFFIXES, "hdf5"),
}
# Of what a directory stands for: its .hdf5 may be ground truth, and holds queries beside rows.
_STACKED = tuple(suffix for suffix in _SUFFIXES if suffix not in HDF5_SUFFIXES)

# Words in names of files that are not of the base, but lie beside it: queries, training rows.
# In any case between other signs, or as one of the words of testQuery10K.
_NOT_BASE = re.compile(
    r"(?<![a-zA-Z])(?i:query|queries|learn|test)(?![a-zA-Z])|(?:Query|Queries|Learn)(?![a-z])"
)


def open_source(
    where: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], column: str | None = None
) -> VectorSource:
    """Open a file, a directory, a glob pattern or a list of files as one source.

    Parameters
    ----------
    where : path, pattern, or iterable of paths
        Shards are stacked in natural order (``part-2`` before ``part-10``); a list keeps its own.
        A directory stands for the vector files directly inside it, or inside its one
        sub-directory that has any; one that `quantize` wrote, for what its codes stand for.
    column : str, optional
        Embedding column of Parquet files, or array of HDF5 files.

    Returns
    -------
    VectorSource
        Headers and footers have been read, several at a time; no vectors.

    Raises
    ------
    SourceNotFoundError
        If nothing is there.
    DataError
        If formats or dimensions are mixed, a file is malformed, or no rows are found.
    """
    if isinstance(where, str | os.PathLike) and is_quantized(where):
        return open_quantized(where)[0]
    paths = list_files(where)
    kinds = [detect_format(path) for path in paths]
    return _stacked([FileStamp.of(path) for path in paths], kinds, where, column)


def open_stored(files: Sequence[StoredFile], name: str, column: str | None = None) -> VectorSource:
    """Open files that need not be on a file system as one source; suffixes tell the format.

    Parameters
    ----------
    files : sequence of StoredFile
        Shards, in the order in which they are stacked.
    name : str
        What messages call them together.
    column : str, optional
        Embedding column of Parquet files, or array of HDF5 files.

    Returns
    -------
    VectorSource
        Headers and footers have been read, several at a time; no vectors.

    Raises
    ------
    DataError
        As for `open_source`.
    """
    _check_one_part([file.path for file in files], name)
    return _stacked(files, [_kind_by_suffix(file.path) for file in files], name, column)


def _stacked(
    files: Sequence[StoredFile], kinds: Sequence[str], where: object, column: str | None
) -> VectorSource:
    if len(set(kinds)) > 1:
        named = reversed(list(zip(files, kinds, strict=True)))
        examples = {kind: file.path for file, kind in named}
        listed = "; ".join(f"{kind}: {path}" for kind, path in sorted(examples.items()))
        raise DataError(
            f"{_text(where)} mixes formats ({listed}), which would stack the same vectors twice or "
            "unlike ones. Name one format with a pattern, as in 'DIR/*.npy'."
        )
    with ThreadPoolExecutor(min(OPEN_THREADS, len(files))) as pool:
        opened = list(pool.map(lambda file, kind: _open_file(file, kind, column), files, kinds))
    sources = [source for source in opened if source is not None]
    if not any(source.n_rows for source in sources):
        raise DataError(f"{_text(where)} holds no vectors: 0 rows in {len(files):,} file(s).")
    return sources[0] if len(sources) == 1 else ConcatSource(sources)


def list_files(where: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """List the files that `where` stands for, in the order in which they are stacked."""
    if not isinstance(where, str | os.PathLike):
        paths = [os.fspath(path) for path in where]
        if not paths:
            raise SourceNotFoundError("an empty list of files was given; name at least one.")
        return paths
    text = os.path.expanduser(os.fspath(where))
    if os.path.isdir(text):
        return _directory_files(text)
    if os.path.exists(text):
        return [text]
    if glob.has_magic(text):
        matches = glob.glob(text, recursive=True)
        found = sorted(filter(os.path.isfile, matches), key=natural_key)
        if found:
            _check_one_part(found, text)
            return found
        raise SourceNotFoundError(f"no file matches the pattern {text} (from {os.getcwd()}).")
    raise SourceNotFoundError(
        f"no file or directory {text} (from {os.getcwd()}). Check the path; a pattern such as "
        "'shards/*.npy' must reach the program in quotes."
    )


def natural_key(path: str) -> tuple[list[tuple[int, int | str]], str]:
    """Sort key under which numbers inside names count as numbers.

    The name itself decides between ``part-2`` and ``part-02``: a directory lists them in any
    order, and the same set must have the same rows on every machine.
    """
    pieces: list[tuple[int, int | str]] = [
        (0, int(piece)) if piece.isdecimal() else (1, piece)
        for piece in re.split(r"(\d+)", path)
        if piece
    ]
    return pieces, path


def detect_format(path: str) -> str:
    """Tell a file's format by its first bytes, then by its suffix.

    Returns
    -------
    {"npy", "parquet", "hdf5", "bigann", "texmex"}

    Raises
    ------
    DataError
        If neither tells.
    """
    stamp = FileStamp.of(path)
    try:
        with open(stamp.path, "rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise SourceNotFoundError(f"cannot read {stamp.path}: {error.strerror}.") from error
    if magic.startswith(NPY_MAGIC):
        return "npy"
    if magic.startswith(PARQUET_MAGIC):
        return "parquet"
    if magic.startswith(HDF5_MAGIC):
        return "hdf5"
    return _kind_by_suffix(stamp.path)


def is_hdf5(file: StoredFile) -> bool:
    """Whether a file is opened as HDF5."""
    where = file.local_path
    return (detect_format(where) if where else _kind_by_suffix(file.path)) == "hdf5"


def has_vector_suffix(path: str) -> bool:
    """Whether a name ends as files of vectors do."""
    return suffix_of(path) in _SUFFIXES


def _kind_by_suffix(path: str) -> str:
    kind = _SUFFIXES.get(suffix_of(path))
    if kind is None:
        known = ", ".join(_SUFFIXES)
        raise DataError(
            f"{path} is in no known format: it begins neither as .npy nor as Parquet or HDF5, and "
            f"its suffix is none of {known}."
        )
    return kind


def _open_file(file: StoredFile, kind: str, column: str | None) -> VectorSource | None:
    return (_open_pinned if file.local_path is None else _open_anew)(file, kind, column)


def _open_anew(file: StoredFile, kind: str, column: str | None) -> VectorSource | None:
    if kind == "npy":
        return open_npy(file)
    if kind == "parquet":
        return open_parquet(file, column)
    if kind == "hdf5":
        return open_hdf5(file, column)
    return open_texmex(file) if kind == "texmex" else open_bigann(file)


# A commit's file does not change, and asking for its header costs a round trip.
_open_pinned = functools.lru_cache(maxsize=PINNED_KEPT)(_open_anew)


def _directory_files(directory: str) -> list[str]:
    direct = _vector_files(directory)
    if direct:
        return direct
    below = {
        entry.path: files
        for entry in sorted(os.scandir(directory), key=lambda e: natural_key(e.name))
        if entry.is_dir() and (files := _vector_files(entry.path))
    }
    if len(below) == 1:
        return next(iter(below.values()))
    if below:
        listed = ", ".join(f"{path} ({len(files)})" for path, files in below.items())
        raise DataError(
            f"{directory} has vector files in several sub-directories: {listed}. Name one of them."
        )
    raise SourceNotFoundError(
        f"{directory} holds no vector files ({', '.join(_STACKED)}), nor does a directory in it; "
        f"{' and '.join(HDF5_SUFFIXES)} files are named themselves."
    )


def _vector_files(directory: str) -> list[str]:
    files = sorted(
        (
            entry.path
            for entry in os.scandir(directory)
            if entry.is_file()
            and not entry.name.startswith(".")
            and suffix_of(entry.name) in _STACKED
        ),
        key=natural_key,
    )
    _check_one_part(files, directory)
    return files


def _check_one_part(paths: Sequence[str], where: str) -> None:
    """Raise DataError if files that are to be stacked are named as unlike parts of a set.

    As sift_base.fvecs, sift_learn.fvecs and sift_query.fvecs, which lie in one directory.
    """
    by_part: dict[str, str] = {}
    for path in paths:
        found = _NOT_BASE.search(os.path.basename(path))
        by_part.setdefault(found[0].lower().replace("ies", "y") if found else "", path)
    if len(by_part) > 1:
        names = ", ".join(os.path.basename(path) for path in by_part.values())
        base = by_part.get("", next(iter(by_part.values())))
        raise DataError(
            f"{where} stands for unlike parts of a set, by their names ({names}), which would be "
            f"stacked. Name the one that is meant, as {base}, or a list of files."
        )


def _text(where: object) -> str:
    return str(where) if isinstance(where, str | os.PathLike) else "the list of files"
