"""Rows to partitions: pure integers, aligned to the places where reading starts cheaply."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import UsageError

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Partitions:
    """Consecutive row ranges that cover a source."""

    bounds: I64
    """(n + 1,) int64, ascending: partition i holds rows bounds[i]:bounds[i + 1]."""

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __iter__(self) -> Iterator[tuple[int, int]]:
        stops = self.bounds[1:].tolist()
        return zip(self.bounds[:-1].tolist(), stops, strict=True)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each partition."""
        return tuple(np.diff(self.bounds).tolist())

    @property
    def max_rows(self) -> int:
        """Rows of the largest partition; 0 when there is none."""
        return int(np.diff(self.bounds).max()) if len(self) else 0

    def __repr__(self) -> str:
        return (
            f"Partitions({len(self):,} of up to {self.max_rows:,} rows, {self.bounds[-1]:,} in all)"
        )


def widest_gap(edges: I64) -> int:
    """Rows between the two edges that are furthest apart; 0 without rows."""
    return int(np.diff(edges).max(initial=0))


def plan_partitions(edges: I64, row_bytes: int, budget_bytes: int) -> Partitions:
    """Cut rows into partitions of at most `budget_bytes` each.

    Parameters
    ----------
    edges : (m,) int64
        Ascending; rows at which a read starts cheaply, the first 0, the last the row count.
    row_bytes : int
        Bytes of one row in the buffer that is filled.
    budget_bytes : int
        The most that one partition's buffer may take.

    Returns
    -------
    Partitions
        Each ends at the last edge within the budget, or, where no edge is within it, when the
        budget is full. A partition is decided by what lies before its own end, so raising a
        limit changes only the last one.

    Raises
    ------
    UsageError
        If not even one row fits in the budget.
    """
    n_rows = int(edges[-1])
    most = budget_bytes // row_bytes
    if most < 1:
        raise UsageError(
            f"a chunk of {budget_bytes:,} bytes cannot hold one row of {row_bytes:,} bytes; "
            f"raise chunk_size (--chunk-size) to at least {row_bytes:,} bytes."
        )
    bounds = [0]
    at = 0
    while at < n_rows:
        reach = at + most
        edge = int(edges[np.searchsorted(edges, reach, side="right") - 1])
        at = edge if edge > at else min(reach, n_rows)
        bounds.append(at)
    return Partitions(np.array(bounds, dtype=np.int64))
