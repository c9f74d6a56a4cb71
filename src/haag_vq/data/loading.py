"""Open anything by name or path as a dataset."""

from __future__ import annotations

import os
import re
from pathlib import Path

from haag_vq.arrays import DEFAULT_CHUNK_BYTES
from haag_vq.data.catalog import CATALOG, CatalogEntry, LocalCopy, copy_in, find_local_copy
from haag_vq.data.dataset import VectorDataset
from haag_vq.data.queries import QuerySpec, limited, split_queries
from haag_vq.errors import UsageError
from haag_vq.memory import parse_bytes
from haag_vq.sources import Metric, PrefixSource, SyntheticSource, VectorSource, open_source

_SYNTHETIC = re.compile(r"synthetic:(\d+)x(\d+)(?::(\d+))?")


def open_dataset(
    where: str | os.PathLike[str],
    column: str | None = None,
    *,
    queries: str | os.PathLike[str] | None = None,
    query_column: str | None = None,
    limit: int | None = None,
    dims: int | None = None,
    renormalize: bool = False,
    metric: Metric | None = None,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    chunk_size: int | str = DEFAULT_CHUNK_BYTES,
) -> VectorDataset:
    """Open a dataset lazily: headers and footers are read, no vectors.

    Parameters
    ----------
    where : str or path-like
        A file, a directory, a glob pattern; a name from the catalog (``haag-vq datasets``); or
        ``synthetic:ROWSxDIM[:SEED]``. A directory laid out as the MS MARCO repository is opened
        with its own queries (but not taken for that set: it has no metric of its own).
    column : str, optional
        Embedding column of Parquet files; found by itself where there is one.
    queries : str or path-like, optional
        ``first:N`` (rows of the base, which find themselves), ``holdout:N`` (drawn from the
        whole set by `seed` and removed from the base), ``sample:N`` (drawn, not removed), or a
        file. By default the set's own, where it has any.
    query_column : str, optional
        Embedding column of a Parquet file of queries.
    limit : int, optional
        Rows of the base, counted after held-out rows are gone. None: all.
    dims : int, optional
        Keep the first so many dimensions, of vectors and queries.
    renormalize : bool
        Scale vectors and queries to unit length, whether `dims` shortens them or not.
    metric : {"l2", "ip", "cosine"}, optional
        The set's own, for ``metric="auto"``; a catalogued set has its publisher's.
    seed : int
        For holdout and sample.
    cache_dir : path-like, optional
        Where copies of catalogued sets are; see `data.catalog.find_local_copy`.
    chunk_size : int or str
        The most bytes of one block of ``vectors``.

    Returns
    -------
    VectorDataset

    Raises
    ------
    SourceNotFoundError, DataError, UsageError
        If nothing is there, it is malformed, or an argument does not suit it.
    """
    source, query_files, entry = _locate(os.fspath(where), column, cache_dir)
    base, query_source, are_rows, origin = source, None, False, ""
    if queries is not None:
        spec = QuerySpec.parse(queries)
        are_rows = spec.kind != "file"
        if are_rows:
            origin = f"{spec.kind}:{spec.n}" + (f", seed {seed}" if spec.kind != "first" else "")
        base, query_source = split_queries(source, spec, limit, seed, query_column)
    else:
        if query_files:
            own_column = entry.column if entry else None
            query_source = open_source(query_files, query_column or own_column)
        base = limited(source, limit)
    if dims is not None or renormalize:
        kept = source.dim if dims is None else dims
        base = PrefixSource(base, kept, renormalize)
        query_source = query_source and PrefixSource(query_source, kept, renormalize)
    name = entry.name if entry else str(where)
    own_metric = metric or (entry.metric if entry else None)
    block_bytes = parse_bytes(chunk_size)
    return VectorDataset(base, name, query_source, own_metric, block_bytes, are_rows, origin)


def open_entry(
    entry: CatalogEntry, column: str | None, cache_dir: str | os.PathLike[str] | None
) -> tuple[VectorSource, LocalCopy]:
    """Open the vectors of a catalogued set from its local copy."""
    copy = find_local_copy(entry, cache_dir)
    return open_source(copy.files, column or entry.column), copy


def _locate(
    where: str, column: str | None, cache_dir: str | os.PathLike[str] | None
) -> tuple[VectorSource, tuple[str, ...], CatalogEntry | None]:
    """Open vectors by name or path; also the files of the set's own queries, and its entry."""
    if where in CATALOG and not os.path.exists(where):
        entry = CATALOG[where]
        source, copy = open_entry(entry, column, cache_dir)
        return source, copy.query_files, entry
    synthetic = _SYNTHETIC.fullmatch(where)
    if synthetic:
        n_rows, dim, seed = (int(n or 0) for n in synthetic.groups())
        if not n_rows or not dim:
            raise UsageError(f"{where!r}: rows and dimension must be at least 1.")
        return SyntheticSource(n_rows, dim, seed), (), None
    directory = Path(os.path.expanduser(where))
    if directory.is_dir():
        entry = CATALOG["msmarco"]
        found = copy_in(entry, directory)
        if found is not None:
            # The column is found by itself: a set of this shape need not be this set.
            return open_source(found.files, column), found.query_files, None
    return open_source(where, column), (), None
