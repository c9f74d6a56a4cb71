"""A seeded set for trying things, without any files."""

from __future__ import annotations

from haag_vq.data.dataset import VectorDataset
from haag_vq.data.queries import QuerySpec, split_queries
from haag_vq.sources import SyntheticSource


def load_dummy_dataset(
    num_samples: int = 10_000, dim: int = 128, seed: int = 0, num_queries: int = 100
) -> VectorDataset:
    """Make a lazy set of unit vectors with clusters, near-duplicates and exact duplicates.

    Parameters
    ----------
    num_samples, dim : int
    seed : int
        A set is the same for its (dim, seed) under one version of NumPy; a longer one begins
        with a shorter one.
    num_queries : int
        The first so many vectors are the queries, at most all.

    Returns
    -------
    VectorDataset
        Nothing is made before it is asked for; ``4·dim`` bytes a vector then.
    """
    source = SyntheticSource(num_samples, dim, seed)
    spec = QuerySpec("first", num_queries)
    name = f"dummy-{num_samples}x{dim}"
    if not num_queries:
        return VectorDataset(source, name)
    base, queries = split_queries(source, spec, None, seed)
    origin = f"first:{queries.n_rows}"
    return VectorDataset(base, name, queries, queries_are_rows=True, query_origin=origin)
