"""Loaders of the DBpedia-OpenAI sets."""

from __future__ import annotations

import os

from haag_vq.data.dataset import VectorDataset
from haag_vq.data.loading import open_dataset


def load_dbpedia_openai_1536(
    limit: int | None = 100_000,
    cache_dir: str | os.PathLike[str] | None = None,
    streaming: bool = False,
    num_queries: int = 100,
) -> VectorDataset:
    """Load DBpedia entities embedded by OpenAI's text-embedding-3-large: 1M × 1536.

    Parameters
    ----------
    limit : int, optional
        Vectors to use, from the beginning; None for all of them.
    cache_dir : path-like, optional
        Where the copy is: see `data.catalog.find_local_copy`. By default the Hub's cache.
    streaming : bool
        Where there is no local copy: read from the Hub by ranges, with nothing on disk; otherwise
        its files are staged to `cache_dir` first.
    num_queries : int
        The first so many vectors are the queries; they are in the base and find themselves.
        `open_dataset` offers held-out queries.

    Returns
    -------
    VectorDataset
        Lazy; 6,144 bytes a vector once it is computed (614 MB for the default limit).

    Raises
    ------
    SourceNotFoundError
        If there is no local copy, and none can be had from the Hub.

    References
    ----------
    https://huggingface.co/datasets/Qdrant/dbpedia-entities-openai3-text-embedding-3-large-1536-1M
    """
    return _load("dbpedia-1536", limit, cache_dir, streaming, num_queries)


def load_dbpedia_openai_1536_100k(
    limit: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    streaming: bool = False,
    num_queries: int = 100,
) -> VectorDataset:
    """Load the 100,000 × 1536 subset of DBpedia-OpenAI; 614 MB once it is computed.

    Parameters and errors are those of `load_dbpedia_openai_1536`; all vectors by default.

    References
    ----------
    https://huggingface.co/datasets/Qdrant/dbpedia-entities-openai3-text-embedding-3-large-1536-100K
    """
    return _load("dbpedia-100k", limit, cache_dir, streaming, num_queries)


def load_dbpedia_openai_3072(
    limit: int | None = 100_000,
    cache_dir: str | os.PathLike[str] | None = None,
    streaming: bool = False,
    num_queries: int = 100,
) -> VectorDataset:
    """Load DBpedia-OpenAI at 3072 dimensions: 1M vectors of 12,288 bytes as float32.

    Parameters and errors are those of `load_dbpedia_openai_1536`.

    References
    ----------
    https://huggingface.co/datasets/Qdrant/dbpedia-entities-openai3-text-embedding-3-large-3072-1M
    """
    return _load("dbpedia-3072", limit, cache_dir, streaming, num_queries)


def _load(
    name: str,
    limit: int | None,
    cache_dir: str | os.PathLike[str] | None,
    streaming: bool,
    num_queries: int,
) -> VectorDataset:
    return open_dataset(
        name,
        queries=f"first:{num_queries}" if num_queries else None,
        limit=limit,
        cache_dir=cache_dir,
        streaming=streaming,
    )
