"""Loaders of Cohere's MS MARCO v2.1: 113,520,750 passages (listed as ~53M), 1,677 queries."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from haag_vq.arrays import read_array
from haag_vq.data.catalog import look_up
from haag_vq.data.dataset import VectorDataset
from haag_vq.data.loading import open_dataset, open_entry
from haag_vq.data.located import HubOptions
from haag_vq.data.queries import limited


def load_cohere_msmarco_passages(
    limit: int | None = 100_000,
    cache_dir: str | os.PathLike[str] | None = None,
    streaming: bool = True,
    num_queries: int = 100,
) -> VectorDataset:
    """Load MS MARCO v2.1 passages embedded by Cohere's embed-english-v3: 113,520,750 × 1024.

    The float16 .npy shards are taken where they are there, else the Parquet files.

    Parameters
    ----------
    limit : int, optional
        Passages to use, from the beginning; None for all of them. Rows are ordered by document
        id, so the first ones are a biased sample: prefer ``dataset.sample(n, seed)``.
    cache_dir : path-like, optional
        Where the copy is: see `data.catalog.find_local_copy`. By default the Hub's cache.
    streaming : bool
        Where there is no local copy: read from the Hub by ranges, with nothing on disk; otherwise
        the files (232 GB) are staged to `cache_dir` first.
    num_queries : int
        The first so many passages are the queries; they are in the base and find themselves.
        The set's real queries come from `load_cohere_msmarco_queries`.

    Returns
    -------
    VectorDataset
        Lazy; 4,096 bytes a passage once it is computed (410 MB for the default limit, 465 GB
        for all).

    Raises
    ------
    SourceNotFoundError
        If there is no local copy, and none can be had from the Hub.

    References
    ----------
    https://huggingface.co/datasets/Cohere/msmarco-v2.1-embed-english-v3
    """
    return open_dataset(
        "msmarco",
        queries=f"first:{num_queries}" if num_queries else None,
        limit=limit,
        cache_dir=cache_dir,
        streaming=streaming,
    )


def load_cohere_msmarco_queries(
    limit: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    streaming: bool = False,
) -> NDArray[np.float32]:
    """Load the embedded queries of MS MARCO v2.1: (1,677, 1024) float32, 6.9 MB.

    Parameters
    ----------
    limit : int, optional
        The first so many; None for all.
    cache_dir, streaming
        As for `load_cohere_msmarco_passages`.
    """
    options = HubOptions(streaming=streaming, cache_dir=cache_dir)
    source, _, _ = open_entry(look_up("msmarco-queries"), None, options)
    return read_array(limited(source, limit))
