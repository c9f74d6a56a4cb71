"""Runs pieces of a base on the workers in force, whatever becomes of each block's part."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from haag_vq.deaths import Cause, job_of, keeper_of
from haag_vq.groundtruth import graph
from haag_vq.groundtruth.blocks import SearchShape, check_array, plan_spans
from haag_vq.groundtruth.graph import Branch, Leaf
from haag_vq.groundtruth.inputs import Inputs
from haag_vq.groundtruth.intervals import Span
from haag_vq.groundtruth.losses import Losses
from haag_vq.groundtruth.part import Part, combine
from haag_vq.groundtruth.tasks import ArrayBlockTask, BlockTask, Search
from haag_vq.lags import Lag
from haag_vq.memory import Projection
from haag_vq.progress import ProgressLine
from haag_vq.sources import VectorSource
from haag_vq.workers import Workers, run

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows that are searched block by block."""

    start: int
    stop: int
    segment: int
    """Which of the asked prefixes is the smallest that contains them."""


class Keeping(Protocol):
    """What becomes of the part that a block's task, or a merge, has made."""

    def begin(self, n_blocks: int) -> None:
        """Be told how many blocks there will be; refuse what cannot be kept."""

    @property
    def directory(self) -> Path | None:
        """Where it is kept; None in memory."""

    def block(
        self, task: Callable[..., Part], span: Span, piece: Span, projection: Projection
    ) -> Callable[..., Any]:
        """Wrap the task of a block, rows `span` of a piece, of a worker that is projected so."""

    def merge(self, piece: Span, start: int, stop: int) -> Callable[[Sequence[Any]], Any]:
        """Make the function that merges results of a piece's blocks that fill ``start:stop``."""


@dataclass(frozen=True, slots=True)
class InMemory:
    """Parts are handed on."""

    width: int

    def begin(self, n_blocks: int) -> None:
        """Any number will do: parts are merged as they come."""

    @property
    def directory(self) -> None:
        """None."""

    def block(
        self, task: Callable[..., Part], span: Span, piece: Span, projection: Projection
    ) -> Callable[..., Part]:
        """Leave the task as it is."""
        return task

    def merge(self, piece: Span, start: int, stop: int) -> Callable[[Sequence[Part]], Part]:
        """Combine parts."""
        return self._combine

    def _combine(self, parts: Sequence[Part]) -> Part:
        return combine(parts, self.width)


class Runner:
    """Plans blocks for the workers in force and runs them.

    Attributes
    ----------
    width : int
        Length of the lists; a checkpoint's may be longer than the question's.
    on_disk : bool
        Parts go to a checkpoint.
    n_blocks : int
        Blocks searched so far.
    projection : Projection
        Of a worker with the largest of them.

    Parameters
    ----------
    inputs : Inputs
    workers : Workers
    block_bytes : int, optional
        The most that a block may take; chosen when not given.
    run_dir : path-like, optional
        Directory that all workers see, for queries above 1 MiB.
    progress : bool
        Show a line on standard error.
    """

    def __init__(
        self,
        inputs: Inputs,
        workers: Workers,
        block_bytes: int | None,
        run_dir: str | os.PathLike[str] | None,
        progress: bool,
    ) -> None:
        self._inputs = inputs
        self._workers = workers
        self._block_bytes = block_bytes
        self._run_dir = run_dir
        self._progress = progress
        self.width = inputs.question.width
        self.on_disk = False
        self.n_blocks = 0
        self.projection: Projection = self._shape.projection(0, 0)

    @property
    def n_workers(self) -> int:
        """Processes in force now, at least one."""
        return max(1, self._workers.n_workers)

    @property
    def _shape(self) -> SearchShape:
        inputs = self._inputs
        return SearchShape.of(
            (len(inputs.question.xq), inputs.question.xq.shape[1]),
            self.width,
            inputs.question.metric,
            inputs.ends,
            getattr(inputs.target, "scratch_bytes", 0),
            self._workers,
            self.on_disk,
        )

    def search(
        self,
        pieces: Sequence[Piece],
        keeping: Keeping,
        xq: F32 | None = None,
        tick: Callable[[], None] | None = None,
    ) -> list[Any]:
        """Search pieces; returns what `keeping` makes of each.

        Parameters
        ----------
        xq : (m, d) float32, optional
            Other queries than the job's: some of them.
        tick : callable, optional
            Called now and then while it runs.
        """
        name = uuid.uuid4().hex
        branches = self._branches(pieces, keeping, name)
        n_blocks = sum(len(branch.leaves) for branch in branches)
        if not n_blocks:
            return []
        keeping.begin(n_blocks)
        line = ProgressLine("blocks", n_blocks) if self._progress else None
        spans = [(leaf.start, leaf.stop) for branch in branches for leaf in branch.leaves]
        losses = Losses(spans, self.projection, keeping.directory, self._named)

        def told(n_done: int) -> None:
            if line is not None:
                line(n_done)
            if tick is not None:
                tick()

        def slow(lag: Lag) -> None:
            warnings.warn(self._standing_still(spans[lag.task], lag), stacklevel=2)

        try:
            with self._sendable(self._inputs.question.xq if xq is None else xq) as sent:
                collection, group = graph.build(branches, sent)
                found: list[Any] = run(
                    collection, self._workers, group, n_blocks, told, losses, slow
                )
        finally:
            if line is not None:
                line.close()
        self.n_blocks += n_blocks
        return found

    def cause_of_job(self, number: str) -> Cause | None:
        """Tell how a Slurm job ended; None where nobody knows."""
        keeper = keeper_of(self._workers.client)
        found: Cause | None = None if keeper is None else keeper.cause_of_job(number)
        return found

    def _standing_still(self, span: Span, lag: Lag) -> str:
        """Say of a block that it does not end, and what can be done."""
        job = job_of(self._workers.client, lag.worker)
        end = f"scancel {job}, or kill {lag.pid} there" if job else f"kill {lag.pid} there"
        others = f", where others took {lag.mean_seconds:.1f} s" if lag.mean_seconds else ""
        return (
            f"{self._named(*span)} have been searched for {lag.seconds:,.0f} s by process "
            f"{lag.pid} on {lag.host}{others}. A file system that does not answer looks like this. "
            f"To have another worker do them: {end}."
        )

    def _named(self, start: int, stop: int) -> str:
        """Name rows of the base, and the files that they are in."""
        target = self._inputs.target
        files = target.narrow(start, stop).files if isinstance(target, VectorSource) else ()
        return f"rows {start:,}:{stop:,}" + f" ({', '.join(files)})" * bool(files)

    def _branches(self, pieces: Sequence[Piece], keeping: Keeping, name: str) -> list[Branch]:
        search = Search(
            name,
            self.width,
            self._inputs.question.metric,
            self._workers.search_threads,
            len(self._inputs.segments),
        )
        target = self._inputs.target
        made = self._of_source if isinstance(target, VectorSource) else self._of_array
        branches = []
        for leaves in made(target, pieces, search):
            piece = (leaves[0].start, leaves[-1].stop)
            kept = [
                replace(
                    leaf,
                    task=keeping.block(leaf.task, (leaf.start, leaf.stop), piece, self.projection),
                )
                for leaf in leaves
            ]
            branches.append(Branch(kept, partial(keeping.merge, piece)))
        return branches

    def _of_source(
        self, source: VectorSource, pieces: Sequence[Piece], search: Search
    ) -> list[list[Leaf]]:
        plans, self.projection = plan_spans(
            source,
            [(piece.start, piece.stop) for piece in pieces],
            self._shape,
            self._workers,
            self._block_bytes,
        )
        return [
            [
                Leaf(
                    BlockTask(
                        source.narrow(piece.start + a, piece.start + b),
                        piece.start + a,
                        piece.segment,
                        search,
                    ),
                    piece.start + a,
                    piece.start + b,
                )
                for a, b in plan
            ]
            for piece, plan in zip(pieces, plans, strict=True)
        ]

    def _of_array(
        self, array: da.Array, pieces: Sequence[Piece], search: Search
    ) -> list[list[Leaf]]:
        self.projection = check_array(array, self._shape, self._workers.allowance)
        branches = []
        for piece in pieces:
            some = array[piece.start : piece.stop]
            leaves, start = [], piece.start
            blocks = some.to_delayed(optimize_graph=True).ravel()
            for block, n_rows in zip(blocks, some.chunks[0], strict=True):
                task = ArrayBlockTask(start, piece.segment, search)
                leaves.append(Leaf(task, start, start + int(n_rows), (block,)))
                start += int(n_rows)
            branches.append(leaves)
        return branches

    def _sendable(self, xq: F32) -> AbstractContextManager[Any]:
        """Queries as the tasks get them: in the graph, or above 1 MiB in a file all see."""
        if self._workers.shares_memory:
            return nullcontext(xq)
        run_dir = self._run_dir
        client = self._workers.client
        if run_dir is None and client is not None and not _is_local(client):
            run_dir = os.getcwd()
        return graph.spilled(xq, run_dir)


def _is_local(client: Any) -> bool:
    address = str(client.scheduler.address)
    return address.startswith("inproc://") or "://127.0.0.1:" in address
