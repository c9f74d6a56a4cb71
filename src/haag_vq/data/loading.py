"""Open anything by name or path as a dataset."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from haag_vq.arrays import DEFAULT_CHUNK_BYTES
from haag_vq.data.catalog import CATALOG, CatalogEntry, copy_in
from haag_vq.data.dataset import VectorDataset
from haag_vq.data.located import HubOptions, Located, locate_entry, locate_on_hub, on_disk
from haag_vq.data.queries import QuerySpec, limited, split_queries
from haag_vq.errors import UsageError
from haag_vq.hub import Pin, parse_address
from haag_vq.memory import parse_bytes
from haag_vq.sources import Metric, PrefixSource, SyntheticSource, VectorSource, open_source
from haag_vq.sources.hdf5 import METRIC_OF_NAME, QUERIES_NAME, own_queries
from haag_vq.sources.open import is_hdf5, list_files
from haag_vq.sources.quantized import QUERIES_NAME as QUANTIZED_QUERIES
from haag_vq.sources.quantized import is_quantized, open_quantized

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
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    streaming: bool = True,
) -> VectorDataset:
    """Open a dataset lazily: headers and footers are read, no vectors.

    Parameters
    ----------
    where : str or path-like
        A file, a directory, a glob pattern; a name from the catalog (``haag-vq datasets``); or
        ``synthetic:ROWSxDIM[:SEED]``; or a dataset of the Hugging Face Hub, ``organisation/name``
        or ``hf://datasets/organisation/name[@revision][/pattern]``. A directory laid out as the MS
        MARCO repository is opened with its own queries (but not taken for that set: it has no
        metric of its own). A file of ann-benchmarks (.hdf5) has its queries and metric in itself.
    column : str, optional
        Embedding column of Parquet files; found by itself where there is one. Of HDF5 files the
        array of vectors, ``train`` unless another is named.
    queries : str or path-like, optional
        ``first:N`` (rows of the base, which find themselves), ``holdout:N`` (drawn from the
        whole set by `seed` and removed from the base), ``sample:N`` (drawn, not removed), or a
        file. By default the set's own, where it has any.
    query_column : str, optional
        Embedding column of a Parquet file of queries; of an HDF5 file the array, ``test`` unless
        another is named.
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
    config, split, revision : str, optional
        Which part of a Hub dataset: see `hub.resolve.resolve`. With a revision no local copy is
        looked for.
    streaming : bool
        Read a Hub dataset by ranges where it is (nothing on disk); otherwise its files are staged
        to `cache_dir` first, whole and verified: with `limit`, those that hold these rows. A copy
        on disk is used in either case.

    Returns
    -------
    VectorDataset

    Raises
    ------
    SourceNotFoundError, DataError, UsageError
        If nothing is there, it is malformed, or an argument does not suit it.
    ReadError
        If the Hub fails.
    """
    spec = None if queries is None else QuerySpec.parse(queries)
    # Held-out rows are drawn from the whole set.
    needed = limit if spec is None or spec.kind != "holdout" else None
    options = HubOptions(config, split, revision, streaming, cache_dir, needed, column)
    found = _locate(os.fspath(where), column, options)
    source = found.source
    base, query_source, are_rows, origin = source, None, False, ""
    if spec is not None:
        are_rows = spec.kind != "file"
        if are_rows:
            origin = f"{spec.kind}:{spec.n}" + (f", seed {seed}" if spec.kind != "first" else "")
        base, query_source = split_queries(source, spec, limit, seed, query_column)
    else:
        if found.queries:
            query_source = found.queries.open(query_column)
        base = limited(source, limit)
    if dims is not None or renormalize:
        kept = source.dim if dims is None else dims
        base = PrefixSource(base, kept, renormalize)
        query_source = query_source and PrefixSource(query_source, kept, renormalize)
    return VectorDataset(
        base,
        found.name or str(where),
        query_source,
        metric or found.metric,
        parse_bytes(chunk_size),
        are_rows,
        origin,
        found.pin,
    )


def open_entry(
    entry: CatalogEntry, column: str | None, options: HubOptions
) -> tuple[VectorSource, Located, Pin | None]:
    """Open the vectors of a catalogued set; also where its own queries are, and its commit."""
    vectors, queries = locate_entry(entry, options)
    return vectors.open(column or entry.column), queries, vectors.pin


@dataclass(frozen=True, slots=True)
class _Found:
    """What a name or path stands for, opened."""

    source: VectorSource
    queries: Located = Located()
    """Files of the set's own queries, where it has any."""
    pin: Pin | None = None
    metric: Metric | None = None
    """The publisher's, where it is known."""
    name: str = ""
    """Of a catalogued or quantized set."""


def _locate(where: str, column: str | None, options: HubOptions) -> _Found:
    """Open vectors by name or path."""
    if where in CATALOG and not os.path.exists(where):
        entry = CATALOG[where]
        source, queries, pin = open_entry(entry, column, options)
        own = replace(queries, column=entry.column)
        return _Found(source, own, pin, entry.metric, entry.name)
    synthetic = _SYNTHETIC.fullmatch(where)
    if synthetic:
        n_rows, dim, seed = (int(n or 0) for n in synthetic.groups())
        if not n_rows or not dim:
            raise UsageError(f"{where!r}: rows and dimension must be at least 1.")
        return _Found(SyntheticSource(n_rows, dim, seed))
    address = parse_address(where)
    if address is not None:
        repo, revision, pattern = address
        if revision is not None:
            options = replace(options, revision=revision)
        found = locate_on_hub(repo, options, (pattern,) if pattern else ())
        return _with_own_queries(found.open(column), found)
    path = os.path.expanduser(where)
    if os.path.isdir(path):
        copy = copy_in(CATALOG["msmarco"], Path(path))
        if copy is not None:
            # The column is found by itself: a set of this shape need not be this set.
            return _Found(open_source(copy.files, column), on_disk(copy.query_files))
    if is_quantized(path):
        if column is not None:
            raise UsageError(f"{where} is a quantized set, which has no column {column!r}.")
        coded, codec = open_quantized(path)
        kept = Path(path) / QUANTIZED_QUERIES
        own = on_disk([str(kept)]) if kept.is_file() else Located()
        name = f"{where} ({codec.about['codec']})"
        return _Found(coded, own, metric=codec.about.get("metric"), name=name)
    source = open_source(where, column)
    files = list_files(path)
    return _with_own_queries(source, on_disk(files)) if len(files) == 1 else _Found(source)


def _with_own_queries(source: VectorSource, found: Located) -> _Found:
    """Add what one file of ann-benchmarks says of itself: its queries and its metric."""
    if len(found.files) != 1 or not is_hdf5(found.files[0]):
        return _Found(source, pin=found.pin)
    own = own_queries(found.files[0])
    if own.distance and own.metric is None:
        warnings.warn(
            f"{found.files[0].path} names the metric {own.distance!r}, which is none of "
            f"{', '.join(METRIC_OF_NAME)}: it has no metric here.",
            stacklevel=4,
        )
    queries = replace(found, column=QUERIES_NAME) if own.has_queries else Located()
    return _Found(source, queries, found.pin, own.metric)
