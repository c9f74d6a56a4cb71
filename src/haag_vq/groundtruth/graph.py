"""The search as Dask tasks: read and search a block, merge the parts in a tree.

Strategy. A block is read inside the task that searches it, once, whatever the number of
queries: it never travels and never rests in distributed memory; what leaves a task is its list
of neighbours a query, or, with a checkpoint, only the news that the list is on disk. Parts are
merged four at a time as they finish, so no worker holds more than a few. A task carries a source
narrowed to its block and the key of the queries, which is all that its pickle holds.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from haag_vq.errors import WriteError
from haag_vq.groundtruth.blocks import MERGE_WIDTH
from haag_vq.sources.npy import load_npy
from haag_vq.tempdirs import new_directory, remove_stale

F32 = NDArray[np.float32]

# A graph that carries more than this is slow to send, and Dask warns of it at 10 MB.
EMBED_BYTES = 1 << 20

QUERIES_PREFIX = "haag-vq-queries-"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One block's task, and its rows."""

    task: Callable[..., Any]
    """Called with what `inputs` compute to, and the queries."""
    start: int
    stop: int
    inputs: tuple[Delayed, ...] = ()


@dataclass(frozen=True, slots=True)
class Branch:
    """Blocks that follow one another, merged into one result."""

    leaves: Sequence[Leaf]
    merge: Callable[[int, int], Callable[..., Any]] = field(repr=False)
    """Gives for rows ``start:stop`` the function that merges a list of results."""


def build(branches: Sequence[Branch], queries: Any) -> tuple[Delayed, str]:
    """Build the graph of a job.

    Parameters
    ----------
    queries : (nq, d) float32, or a `SpilledQueries`

    Returns
    -------
    Delayed
        A list with the result of each branch.
    str
        The group of the blocks' tasks: their keys are ``(group, i)``.
    """
    job = uuid.uuid4().hex[:12]
    group, given = f"search-{job}", f"queries-{job}"
    graph: dict[Any, Any] = {given: _queries_task(queries)}
    inputs: list[Delayed] = []
    roots: list[Any] = []
    n = 0
    for branch in branches:
        nodes = []
        for leaf in branch.leaves:
            graph[group, n] = (leaf.task, *(i.key for i in leaf.inputs), given)
            inputs += leaf.inputs
            nodes.append(((group, n), leaf.start, leaf.stop))
            n += 1
        roots.append(_add_merges(graph, nodes, f"merge-{job}-{len(roots)}", branch.merge))
    name = f"ground-truth-{job}"
    graph[name] = roots
    return Delayed(name, HighLevelGraph.from_collections(name, graph, inputs)), group


def _add_merges(
    graph: dict[Any, Any],
    nodes: list[tuple[Any, int, int]],
    name: str,
    merge: Callable[[int, int], Callable[..., Any]],
) -> Any:
    """Add a tree of merges over (key, start, stop); return the key of its root."""
    level = 0
    while len(nodes) > 1:
        merged = []
        for j in range(0, len(nodes), MERGE_WIDTH):
            some = nodes[j : j + MERGE_WIDTH]
            start, stop = some[0][1], some[-1][2]
            key = (name, level, j // MERGE_WIDTH)
            graph[key] = (merge(start, stop), [node[0] for node in some])
            merged.append((key, start, stop))
        nodes, level = merged, level + 1
    return nodes[0][0]


@dataclass(frozen=True, slots=True)
class SpilledQueries:
    """Queries too large for a graph, in a file that the workers read."""

    path: str

    def load(self) -> F32:
        """Read them back: (nq, d) float32."""
        return load_npy(self.path)


def _queries_task(queries: Any) -> Any:
    return (queries.load,) if isinstance(queries, SpilledQueries) else queries


@contextmanager
def spilled(xq: F32, directory: str | os.PathLike[str] | None) -> Iterator[F32 | SpilledQueries]:
    """Yield the queries themselves, or, above 1 MiB, a file of them that lives as long as this.

    Files that a killed process of the user left there are removed.

    Parameters
    ----------
    directory : path-like, optional
        Where to put the file; every worker must see it. The system's temporary directory
        when it is not given.
    """
    if xq.nbytes <= EMBED_BYTES:
        yield xq
        return
    # 0700: queries can be as private as the data they are searched in.
    remove_stale(QUERIES_PREFIX, directory)
    try:
        home = new_directory(QUERIES_PREFIX, directory)
    except OSError as error:
        raise WriteError(
            f"cannot make a directory for the queries in run_dir {directory or 'by default'}: "
            f"{error.strerror}. Name one that all workers see and may write to."
        ) from error
    try:
        path = home / "queries.npy"
        np.save(path, xq)
        yield SpilledQueries(str(path.absolute()))
    finally:
        shutil.rmtree(home, ignore_errors=True)
