"""A search that is only planned: the blocks, memory and disk that a run with the same words takes.

It goes the way of a run (`runner`, `resume`) up to where that would read: nothing here has a
formula of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from haag_vq.errors import UsageError
from haag_vq.groundtruth.blocks import SearchShape, plan_spans
from haag_vq.groundtruth.checkpoint import checkpoint_path
from haag_vq.groundtruth.cover import cover, cut_at
from haag_vq.groundtruth.inputs import EXTRA
from haag_vq.groundtruth.intervals import Span, list_intervals
from haag_vq.groundtruth.manifest import Manifest, read_manifest
from haag_vq.groundtruth.ondisk import projected_bytes
from haag_vq.groundtruth.resume import plan_pieces
from haag_vq.memory import Projection
from haag_vq.partition import Partitions
from haag_vq.sources import Metric, VectorSource
from haag_vq.workers import Workers


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a search would do."""

    plans: tuple[Partitions, ...]
    """Blocks of each piece of the base that is to be searched."""
    projection: Projection
    """Of the largest worker: the one by which the run would be refused."""
    width: int
    """Length of the lists."""
    checkpoint_bytes: int
    """The most that the checkpoint takes while it runs; 0 without one."""

    @property
    def n_rows(self) -> int:
        """Rows to search: those that the checkpoint lacks."""
        return sum(int(plan.bounds[-1]) for plan in self.plans)

    @property
    def n_blocks(self) -> int:
        """Blocks, each one task."""
        return sum(len(plan) for plan in self.plans)

    @property
    def max_rows(self) -> int:
        """Rows of the largest block."""
        return max((plan.max_rows for plan in self.plans), default=0)


def forecast(
    source: VectorSource,
    n_queries: int,
    k: int,
    metric: Metric,
    ends: Sequence[int],
    workers: Workers,
    *,
    rows: tuple[int, int] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    on_disk: bool = False,
    block_bytes: int | None = None,
) -> Forecast:
    """Plan a search as `ground_truth` would run it on `workers`; reads no vectors.

    Parameters
    ----------
    n_queries : int
        Their vectors are not needed.
    ends : sequence of int
        Rows of each asked prefix.
    rows : (start, stop), optional
        Search these alone, as `search_rows` does.
    checkpoint : path-like, optional
        The rows that it has are left out, as the names of its files tell: whether they are sound
        and of this base is seen when the job runs.
    on_disk : bool
        There is a checkpoint, also where none is named: a new one.

    Raises
    ------
    InsufficientMemoryError, UsageError
        As the run would.
    """
    width, spans, cuts = _kept(checkpoint, n_queries, k, metric, source.dim, max(ends))
    on_disk = on_disk or checkpoint is not None
    shape = SearchShape.of(
        (n_queries, source.dim), width, metric, ends, source.scratch_bytes, workers, on_disk
    )
    if rows is None:
        pieces = [(piece.start, piece.stop) for piece in plan_pieces(ends, spans, cuts)]
    else:
        inside = [span for span in spans if rows[0] <= span[0] and span[1] <= rows[1]]
        pieces = cut_at(cover(inside, *rows)[1], cuts)
    plans, projection = plan_spans(source, pieces, shape, workers, block_bytes)
    n_blocks = sum(len(plan) for plan in plans)
    n_workers = max(1, workers.n_workers)
    disk = projected_bytes(n_queries, width, n_blocks, n_workers) if on_disk and n_blocks else 0
    return Forecast(tuple(plans), projection, width, disk)


def _kept(
    checkpoint: str | os.PathLike[str] | None,
    n_queries: int,
    k: int,
    metric: Metric,
    dim: int,
    n_rows: int,
) -> tuple[int, list[Span], tuple[int, ...]]:
    """Return the length of the lists; of a checkpoint the rows below `n_rows`, and the cuts."""
    width = k + EXTRA
    if checkpoint is None:
        return width, [], ()
    home = checkpoint_path(checkpoint)
    known = read_manifest(home)
    if known is None:
        return width, [], ()
    _check_same(str(home), known, (n_queries, dim, metric), width)
    spans = [span for span in list_intervals(home) if span[1] <= n_rows]
    return known.width, spans, known.cuts


def _check_same(home: str, known: Manifest, asked: tuple[int, int, str], width: int) -> None:
    """Raise UsageError where the numbers alone tell that a checkpoint is of another job."""
    was = (known.n_queries, known.dim, known.metric)
    if was != asked or width > known.width:
        raise UsageError(
            f"{home} is the checkpoint of another job: of {was[0]:,} queries of dimension "
            f"{was[1]:,}, {was[2]}, k={known.k:,}; {asked[0]:,} of dimension {asked[1]:,}, "
            f"{asked[2]}, lists of {width:,} are asked. Name another directory."
        )
