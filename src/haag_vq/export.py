"""Write a dataset to a file, a partition at a time, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haag_vq.atomic import written_whole
from haag_vq.errors import WriteError
from haag_vq.memory import Allowance, Projection, check_fits, format_bytes, process_allowance
from haag_vq.partition import plan_partitions
from haag_vq.sources import VectorSource
from haag_vq.sources.fixed import ROW_DIM
from haag_vq.sources.protocol import F32
from haag_vq.sources.texmex import TEXMEX_DTYPES
from haag_vq.sources.write import open_writer, stored_dtype

DEFAULT_CHUNK_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote."""

    path: str
    n_rows: int
    dim: int
    dtype: str
    written_bytes: int
    projection: Projection


def export_vectors(
    source: VectorSource,
    path: str | os.PathLike[str],
    dtype: str | None = None,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write all rows of a source to .npy, .parquet, big-ann's formats, .fvecs or .bvecs.

    Parameters
    ----------
    source : VectorSource
        A dataset's ``source``.
    path : path-like
        The suffix chooses the format. A file of that name is replaced only by a whole one.
    dtype : {"float32", "float16", "float64", "int8", "uint8"}, optional
        Element type to store; the format's own or float32 by default.
    progress : callable, optional
        Called with rows written and rows in all.

    Raises
    ------
    UsageError
        If suffix and type do not suit each other.
    DataError
        If a value does not fit the type.
    WriteError
        If there is no room, or writing fails; nothing that looks whole is left.

    Notes
    -----
    Memory: two partitions of `chunk_bytes` (one is read while the one before is written), less
    than a third for the rows that are being converted, and the source's scratch.
    """
    target = Path(path)
    stored = stored_dtype(target, dtype)
    size = output_bytes(source, target, stored)
    projection = check_export(source, chunk_bytes, process_allowance())
    check_room(target, size, "Export fewer rows, or a narrower dtype.")
    partitions = list(plan_partitions(source.edges, source.dim * 4, chunk_bytes))

    def read(start: int, stop: int) -> F32:
        rows = np.empty((stop - start, source.dim), np.float32)
        source.read_into(start, rows)
        return rows

    with written_whole(target) as part, ThreadPoolExecutor(1) as reader:
        writer = open_writer(part, target.suffix.lower(), source.n_rows, source.dim, stored)
        try:
            ahead = reader.submit(read, *partitions[0]) if partitions else None
            for i, (_, stop) in enumerate(partitions):
                rows = ahead.result() if ahead else read(0, 0)
                following = partitions[i + 1 : i + 2]
                ahead = reader.submit(read, *following[0]) if following else None
                writer.write(rows)
                if progress is not None:
                    progress(stop, source.n_rows)
            writer.finish()
        finally:
            writer.close()
        written = part.stat().st_size
    return ExportReport(str(target), source.n_rows, source.dim, stored.name, written, projection)


def export_projection(source: VectorSource, chunk_bytes: int) -> Projection:
    """Projected bytes of a process that exports: three partitions, and the source's scratch."""
    return Projection(3 * chunk_bytes, scratch_bytes=source.scratch_bytes)


def check_export(source: VectorSource, chunk_bytes: int, allowance: Allowance) -> Projection:
    """Return the projection of an export; InsufficientMemoryError if it does not fit."""
    projection = export_projection(source, chunk_bytes)
    remedy = f"Use chunk_size={format_bytes(chunk_bytes // 4)!r} or less."
    check_fits("exporting", projection, allowance, remedy)
    return projection


def output_bytes(source: VectorSource, target: Path, stored: np.dtype[Any]) -> int:
    """Bytes of the vectors as an export writes them, without headers."""
    before = ROW_DIM.itemsize if target.suffix.lower() in TEXMEX_DTYPES else 0
    return source.n_rows * (before + source.dim * stored.itemsize)


def check_room(target: Path, size_bytes: int, remedy: str) -> None:
    """Refuse an output that cannot fit on the disk, before hours of writing prove it."""
    try:
        free = shutil.disk_usage(target.absolute().parent).free
    except OSError as error:
        raise WriteError(
            f"cannot write in {target.absolute().parent}: {error.strerror}."
        ) from error
    if size_bytes > free:
        raise WriteError(
            f"{target} would take {format_bytes(size_bytes)}, {target.absolute().parent} has "
            f"{format_bytes(free)} free. {remedy}"
        )
