"""The search as Dask tasks: read and search a block, merge the parts in a tree.

Strategy. A block is read inside the task that searches it, once, whatever the number of
queries: it never travels and never rests in distributed memory; what leaves a task is its list
of k neighbours a query. Parts are merged eight at a time as they finish, so no worker holds
more than a few. A task carries a source narrowed to its block and the key of the queries,
which is all that its pickle holds.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from haag_vq.groundtruth import engine
from haag_vq.groundtruth.blocks import MERGE_WIDTH
from haag_vq.groundtruth.kernel import Queries, search_block
from haag_vq.groundtruth.part import Part, combine
from haag_vq.partition import Partitions
from haag_vq.sources import ArraySource, Metric, VectorSource

F32 = NDArray[np.float32]

# A graph that carries more than this is slow to send, and Dask warns of it at 10 MB.
EMBED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Search:
    """What all blocks of one job are searched for."""

    k: int
    metric: Metric
    search_threads: int | None


class ReadAndSearch:
    """One block's task: a source narrowed to the block, called with the queries."""

    __slots__ = ("first_id", "search", "source")

    def __init__(self, source: VectorSource, first_id: int, search: Search) -> None:
        self.source = source
        self.first_id = first_id
        self.search = search

    def __call__(self, xq: F32) -> Part:
        engine.use_threads(self.search.search_threads)
        xb = np.empty((self.source.n_rows, self.source.dim), np.float32)
        self.source.read_into(0, xb)
        return search_block(xb, self.first_id, Queries.of(xq), self.search.k, self.search.metric)


class SearchArrayBlock:
    """A block of a foreign array, searched where Dask computed it."""

    __slots__ = ("first_id", "search")

    def __init__(self, first_id: int, search: Search) -> None:
        self.first_id = first_id
        self.search = search

    def __call__(self, block: Any, xq: F32) -> Part:
        # Through a source: the block is checked for NaN as stored rows are.
        source = ArraySource(np.asarray(block), self.first_id)
        return ReadAndSearch(source, self.first_id, self.search)(xq)


def search_source(
    source: VectorSource, partitions: Partitions, queries: Any, search: Search
) -> tuple[Delayed, str]:
    """Build the graph for a source; returns the merged part and the group of its search tasks.

    Parameters
    ----------
    queries : (nq, d) float32, or a `SpilledQueries`
    """
    job = uuid.uuid4().hex[:12]
    group = f"search-{job}"
    graph: dict[Any, Any] = {f"queries-{job}": _queries_task(queries)}
    for i, (start, stop) in enumerate(partitions):
        task = ReadAndSearch(source.narrow(start, stop), start, search)
        graph[group, i] = (task, f"queries-{job}")
    last = _add_merges(graph, [(group, i) for i in range(len(partitions))], job, search.k)
    return _delayed(graph, last, ()), group


def search_array(array: da.Array, queries: Any, search: Search) -> tuple[Delayed, str]:
    """Build the graph for any Dask array whose blocks hold whole rows."""
    job = uuid.uuid4().hex[:12]
    group = f"search-{job}"
    blocks = array.to_delayed(optimize_graph=True).ravel()
    graph: dict[Any, Any] = {f"queries-{job}": _queries_task(queries)}
    start = 0
    for i, (block, n_rows) in enumerate(zip(blocks, array.chunks[0], strict=True)):
        graph[group, i] = (SearchArrayBlock(start, search), block.key, f"queries-{job}")
        start += int(n_rows)
    last = _add_merges(graph, [(group, i) for i in range(len(blocks))], job, search.k)
    return _delayed(graph, last, blocks), group


def _delayed(graph: dict[Any, Any], key: Any, dependencies: Sequence[Delayed]) -> Delayed:
    name = f"ground-truth-{uuid.uuid4().hex[:12]}"
    graph[name] = key
    return Delayed(name, HighLevelGraph.from_collections(name, graph, dependencies))


def _add_merges(graph: dict[Any, Any], keys: list[Any], job: str, k: int) -> Any:
    """Add a tree of merges over `keys`; return the key of its root."""
    level = 0
    while len(keys) > 1:
        merged = []
        for j in range(0, len(keys), MERGE_WIDTH):
            key = (f"merge-{job}", level, j // MERGE_WIDTH)
            graph[key] = (combine, keys[j : j + MERGE_WIDTH], k)
            merged.append(key)
        keys, level = merged, level + 1
    return keys[0]


@dataclass(frozen=True, slots=True)
class SpilledQueries:
    """Queries too large for a graph, in a file that the workers read."""

    path: str

    def load(self) -> F32:
        """Read them back: (nq, d) float32."""
        found: F32 = np.load(self.path, allow_pickle=False)
        return found


def _queries_task(queries: Any) -> Any:
    return (queries.load,) if isinstance(queries, SpilledQueries) else queries


@contextmanager
def spilled(xq: F32, directory: str | os.PathLike[str] | None) -> Iterator[F32 | SpilledQueries]:
    """Yield the queries themselves, or, above 1 MiB, a file of them that lives as long as this.

    Parameters
    ----------
    directory : path-like, optional
        Where to put the file; every worker must see it. The system's temporary directory
        when it is not given.
    """
    if xq.nbytes <= EMBED_BYTES:
        yield xq
        return
    # mkdtemp makes it 0700: queries can be as private as the data they are searched in.
    home = Path(tempfile.mkdtemp(prefix="haag-vq-queries-", dir=directory))
    try:
        path = home / "queries.npy"
        np.save(path, xq)
        yield SpilledQueries(str(path.absolute()))
    finally:
        shutil.rmtree(home, ignore_errors=True)
