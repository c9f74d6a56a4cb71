"""What a Parquet file's footer tells: schema, row groups, layout; parsed once a process."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from haag_vq.errors import DataError, HaagVQError
from haag_vq.sources.fileio import StoredFile
from haag_vq.sources.protocol import I64
from haag_vq.sources.ranged import RangedFile, windows_of

# Column chunks are read through a stream of this size: pre-buffered whole they take 250 MiB at
# 1536 × float64 and gain nothing on a local file (measured).
STREAM_BYTES = 1 << 20

# Footers that a process keeps parsed, and how much more they take than as stored: 3 times was
# measured, for 1,000 row groups of one column.
FOOTERS_KEPT = 4
FOOTER_GROWTH = 4

# Where several columns are lists of numbers, one of these names decides.
USUAL_NAMES = ("emb", "embedding", "embeddings", "vector", "vectors")


def choose_column(path: str, schema: pa.Schema, column: str | None) -> pa.Field:
    """Find the embedding column: the one asked for, the only one, or the one usually so named."""
    if column is not None:
        if column not in schema.names:
            raise DataError(f"{path} has no column {column!r}. It has: {_columns_text(schema)}.")
        return schema.field(column)
    candidates = [field for field in schema if list_type_of(field.type) is not None]
    named = [field for field in candidates if field.name in USUAL_NAMES]
    for fields in (candidates, named):
        if len(fields) == 1:
            return fields[0]
    names = ", ".join(repr(field.name) for field in candidates)
    problem = (
        f"has several columns that could be the embeddings: {names}"
        if candidates
        else "has no column of lists of numbers to take for embeddings"
    )
    raise DataError(
        f"{path} {problem}. Choose one with column= (--column). It has: {_columns_text(schema)}."
    )


def _columns_text(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name!r} ({field.type})" for field in schema)


def list_type_of(kind: pa.DataType) -> Any | None:
    """Return `kind` (or its storage) if it is a list of a type that vectors are read from."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    if not is_list:
        return None
    value = kind.value_type
    if not (pa.types.is_floating(value) or value in (pa.int8(), pa.uint8())):
        return None
    return kind


def dimension(stamp: StoredFile, schema: pa.Schema, column: str, list_type: Any) -> int:
    """Dimension of the vectors, from the footer alone; 0 where no row tells it.

    A column chunk counts its leaf values, and a null or empty list counts as one: the
    quotient by its rows is the dimension where every row is whole. Where none of the first
    groups divides, the nearest integer is taken and reading will name the row that is at fault.
    """
    if pa.types.is_fixed_size_list(list_type):
        return int(list_type.list_size)
    metadata = read_footer(stamp)
    leaf = leaf_index(schema, column)
    guess = 0
    for g in range(min(metadata.num_row_groups, 16)):
        group = metadata.row_group(g)
        if group.num_rows:
            quotient, rest = divmod(group.column(leaf).num_values, group.num_rows)
            if not rest and quotient > 1:
                return int(quotient)
            guess = guess or round(group.column(leaf).num_values / group.num_rows)
    return int(guess)


def leaf_index(schema: pa.Schema, column: str) -> int:
    """Index, among the file's leaf columns, of the values of list column `column`.

    Leaves are stored in the order of the fields that contain them.
    """
    before = schema.types[: schema.names.index(column)]
    return sum(map(_n_leaves, before))


def _n_leaves(kind: pa.DataType) -> int:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return sum(_n_leaves(kind.field(i).type) for i in range(kind.num_fields)) or 1


@contextmanager
def opened_column(
    stamp: StoredFile, column: str, groups: tuple[int, int]
) -> Iterator[pq.ParquetFile]:
    """Open a file to decode one column of row groups ``first:last``; its footer is at hand."""
    if stamp.local_path is not None:
        with stamp.opened(), _reader(stamp, stamp.local_path) as file:
            yield file
        return
    leaf = leaf_index(read_schema(stamp), column)
    metadata = read_footer(stamp)
    spans = [_span(metadata.row_group(g).column(leaf)) for g in range(*groups)]
    with stamp.opened() as reader:
        ranged = RangedFile(reader, stamp.size_bytes, windows_of(spans))
        with ranged, _reader(stamp, pa.PythonFile(ranged, "r")) as file:
            yield file


def _span(chunk: Any) -> tuple[int, int]:
    """First byte of a column chunk, and the byte after its last."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    return start, start + chunk.total_compressed_size


def _reader(stamp: StoredFile, where: Any) -> pq.ParquetFile:
    return pq.ParquetFile(
        where,
        metadata=read_footer(stamp),
        memory_map=False,
        pre_buffer=False,
        buffer_size=STREAM_BYTES,
        page_checksum_verification=True,  # of the pages whose writer left one
    )


def read_schema(stamp: StoredFile) -> pa.Schema:
    """Arrow schema of a file.

    Never by way of `FileMetaData.schema`: the two refer to each other, and opening 1,000 shards
    left 1 GiB of footers to Python's cycle collector (measured).
    """
    with stamp.opened() as reader:
        where = stamp.local_path or pa.PythonFile(RangedFile(reader, stamp.size_bytes), "r")
        with _reader(stamp, where) as file:
            return file.schema_arrow


@functools.lru_cache(maxsize=FOOTERS_KEPT)
def read_footer(stamp: StoredFile) -> pq.FileMetaData:
    """Parsed footer of a stamped file.

    Cached: a worker reads many blocks of one shard, and parsing a footer of thousands of
    row groups takes milliseconds.
    """
    with explained(stamp, "the footer"), stamp.opened() as reader:
        where = stamp.local_path or pa.PythonFile(RangedFile(reader, stamp.size_bytes), "r")
        return pq.read_metadata(where)


@functools.lru_cache(maxsize=4096)
def layout(stamp: StoredFile) -> tuple[str, int]:
    """A line that identifies a file's layout, and the bytes of its footer."""
    metadata = read_footer(stamp)
    size = int(metadata.serialized_size)
    return f"{metadata.num_rows}:{metadata.num_row_groups}:{size}", size


@functools.lru_cache(maxsize=4096)
def group_starts(stamp: StoredFile) -> I64:
    """Rows at which the row groups start, and the number of rows: (n_groups + 1,) int64."""
    metadata = read_footer(stamp)
    counts = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
    return np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))


@contextmanager
def explained(stamp: StoredFile, what: str) -> Iterator[None]:
    """Turn Arrow's errors into ours, with the file and what was being read of it."""
    try:
        yield
    except HaagVQError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{stamp.path} cannot be read as Parquet ({what}): {error}. It may be truncated or "
            "damaged; fetch or write it again."
        ) from error
