"""One block's work, as a process does it: read, search, and keep the part or leave it on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth import blas, engine, halves, workspace
from haag_vq.groundtruth.kernel import Queries, search_block
from haag_vq.groundtruth.part import Part
from haag_vq.groundtruth.precompile import ensure_compiled
from haag_vq.sources import ArraySource, Metric, VectorSource

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Search:
    """What all blocks of one job are searched for."""

    job: str
    """Name of the job: what a process learns from a block serves the job's others."""
    width: int
    """Neighbours to find of each query."""
    metric: Metric
    search_threads: int | None
    """Threads of one search; None: what the worker's environment says."""
    n_segments: int = 1
    """Pieces into which the asked prefixes cut the base."""


@dataclass(frozen=True, slots=True)
class BlockTask:
    """One block: a source narrowed to it, called with the queries (nq, d)."""

    source: VectorSource
    first_id: int
    """Row of the base that is row 0 of the source."""
    segment: int
    """Which of the asked prefixes is the smallest that contains the block."""
    search: Search

    def __call__(self, xq: F32) -> Part:
        search = self.search
        ensure_compiled()
        halves.use()
        engine.check_blas()
        n_threads = blas.thread_count(search.search_threads)
        engine.use_threads(n_threads)
        known = workspace.known_keys(search.job, self.first_id, self.segment, search.width)
        with workspace.borrowed(search.job) as buffers:
            part = search_block(
                buffers.array("block", (self.source.n_rows, self.source.dim), np.float32),
                self.first_id,
                Queries.of(xq),
                search.width,
                search.metric,
                source=self.source,
                ceilings=None if known is None else known.max(axis=1),
                known=known,
                n_threads=n_threads,
                workspace=buffers,
            )
        workspace.learn(
            search.job, self.first_id, self.segment, search.n_segments, part.keys, search.width
        )
        return part


@dataclass(frozen=True, slots=True)
class ArrayBlockTask:
    """A block of a foreign array, searched where Dask computed it."""

    first_id: int
    segment: int
    search: Search

    def __call__(self, block: Any, xq: F32) -> Part:
        # Through a source: the block is checked for NaN as stored rows are.
        source = ArraySource(np.asarray(block), self.first_id)
        return BlockTask(source, self.first_id, self.segment, self.search)(xq)
