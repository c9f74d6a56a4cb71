"""Neighbours found in part of a base, with what is known to be complete; combine and finalize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import CertificateError
from haag_vq.groundtruth.merge import merge

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Tally:
    """What finding some neighbours took. It depends on scheduling and is no part of an answer."""

    n_scored: int = 0
    """(row, query) pairs scored by D64."""
    n_widened: int = 0
    """(block, query) pairs whose candidates were too many, or beyond float32's range."""
    largest_error: float = 0.0
    """Largest difference between a float32 distance and D64, as a share of its proven bound."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.n_scored + other.n_scored,
            self.n_widened + other.n_widened,
            max(self.largest_error, other.largest_error),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """For each query, its nearest rows among some rows of the base, and a frontier.

    A key is (D64, id), similarities negated: smaller is nearer, equal distances go by id.
    Every row searched whose key is at most the frontier is in the list.
    """

    keys: F64
    """(nq, w) float64, ascending; +inf where there is no row."""
    ids: I64
    """(nq, w) int64; -1 where there is no row."""
    hashes: U64
    """(nq, w) uint64, `d64.row_hashes` of the rows; 0 where there is no row."""
    frontier: F64
    """(nq,) float64: D64 of the frontier, +inf where all rows searched are listed."""
    frontier_ids: I64
    """(nq,) int64: id of the frontier, -1 where no row of that distance is known to be listed,
    the largest int64 where all of that distance are."""
    n_rows: int
    """Rows searched."""
    tally: Tally = Tally()


def combine(parts: Sequence[Part], k: int) -> Part:
    """Merge parts of disjoint rows. Associative and commutative: any tree gives the same bits.

    Notes
    -----
    Memory: `combine_bytes`, the merged part among them.
    """
    merged = parts[0] if parts[0].keys.shape[1] <= k else _merge_two(parts[0], _empty(parts[0]), k)
    for part in parts[1:]:
        merged = _merge_two(merged, part, k)
    return merged


def combine_bytes(nq: int, k: int) -> int:
    """Most bytes that `combine` allocates: what is merged so far, the next, and masks of ids."""
    lists, masks = 2 * nq * (k * 24 + 32), nq * (2 * k + 64)
    # NumPy counts with a buffer of its own, whatever the sizes.
    return lists + masks + 40_000


def _merge_two(a: Part, b: Part, k: int) -> Part:
    shape = (len(a.keys), min(a.keys.shape[1] + b.keys.shape[1], k))
    keys, ids, hashes = np.empty(shape), np.empty(shape, np.int64), np.empty(shape, np.uint64)
    merge(a.keys, a.ids, a.hashes, b.keys, b.ids, b.hashes, keys, ids, hashes)
    frontier = _smaller((a.frontier, a.frontier_ids), (b.frontier, b.frontier_ids))
    cut = (a.ids >= 0).sum(axis=1) + (b.ids >= 0).sum(axis=1) > shape[1]
    if shape[1] == k:
        last = (np.where(cut, keys[:, -1], np.inf), np.where(cut, ids[:, -1], -1))
        frontier = _smaller(frontier, last)
    return Part(keys, ids, hashes, *frontier, a.n_rows + b.n_rows, a.tally + b.tally)


def _empty(like: Part) -> Part:
    """Return a part without rows, for the same queries."""
    nq = len(like.keys)
    return Part(
        np.empty((nq, 0)),
        np.empty((nq, 0), np.int64),
        np.empty((nq, 0), np.uint64),
        np.full(nq, np.inf),
        np.full(nq, -1, np.int64),
        0,
    )


def select(part: Part, queries: I64) -> Part:
    """Part of some of the queries (m,)."""
    return replace(
        part,
        keys=part.keys[queries],
        ids=part.ids[queries],
        hashes=part.hashes[queries],
        frontier=part.frontier[queries],
        frontier_ids=part.frontier_ids[queries],
    )


def replaced(part: Part, queries: I64, by: Part) -> Part:
    """`part` with other lists for some of its queries, of the same rows."""
    width = max(part.keys.shape[1], by.keys.shape[1])
    keys = np.full((len(part.keys), width), np.inf)
    ids, hashes = np.full(keys.shape, -1, np.int64), np.zeros(keys.shape, np.uint64)
    for new, old, mine in ((keys, part.keys, by.keys), (ids, part.ids, by.ids)):
        new[:, : old.shape[1]] = old
        new[queries] = -1 if new is ids else np.inf
        new[queries, : mine.shape[1]] = mine
    hashes[:, : part.keys.shape[1]] = part.hashes
    hashes[queries, : by.keys.shape[1]] = by.hashes
    frontier, frontier_ids = part.frontier.copy(), part.frontier_ids.copy()
    frontier[queries], frontier_ids[queries] = by.frontier, by.frontier_ids
    return Part(keys, ids, hashes, frontier, frontier_ids, part.n_rows, part.tally + by.tally)


def uncertified(part: Part, k: int) -> NDArray[np.bool_]:
    """Which queries' k nearest are not proven: their k-th key lies beyond the frontier.

    With fewer than k rows in all, every one of them must be listed.
    """
    wanted = min(k, part.n_rows)
    n_listed = (part.ids >= 0).sum(axis=1)
    if part.keys.shape[1] < wanted or not wanted:
        return np.asarray(n_listed < wanted)
    keys, ids = part.keys[:, wanted - 1], part.ids[:, wanted - 1]
    beyond = (keys > part.frontier) | ((keys == part.frontier) & (ids > part.frontier_ids))
    return np.asarray((n_listed < wanted) | (beyond & (n_listed < part.n_rows)))


def finalize(part: Part, k: int) -> tuple[F64, I64, U64]:
    """Check the certificate and return the k nearest: keys, ids and hashes, (nq, min(k, n)).

    Raises
    ------
    CertificateError
        If some query's answer is not proven; none is given then.
    """
    wrong = np.flatnonzero(uncertified(part, k))
    if len(wrong):
        q = int(wrong[0])
        listed = np.flatnonzero(part.ids[q] >= 0)[:k]
        last = (part.keys[q, listed[-1]], part.ids[q, listed[-1]]) if len(listed) else "none"
        raise CertificateError(
            f"{len(wrong)} of {len(part.keys)} queries are not certified; query {q}: "
            f"{len(listed)} of k={k} neighbours among {part.n_rows:,} rows, the last is {last!r}, "
            f"the frontier is {part.frontier[q]!r}, id {part.frontier_ids[q]}. This is a fault of "
            "the program; please report it."
        )
    wanted = min(k, part.n_rows)
    return part.keys[:, :wanted], part.ids[:, :wanted], part.hashes[:, :wanted]


def _smaller(a: tuple[F64, I64], b: tuple[F64, I64]) -> tuple[F64, I64]:
    """Elementwise smaller of two frontiers, ordered by (distance, id)."""
    first = (a[0] < b[0]) | ((a[0] == b[0]) & (a[1] <= b[1]))
    return np.where(first, a[0], b[0]), np.where(first, a[1], b[1])
