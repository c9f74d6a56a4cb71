"""Neighbours found in part of a base, with what is known to be complete; combine and finalize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import CertificateError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# What a merge sorts at a time, with the sort's own arrays. Arbitrary: eight lists of 10,000
# queries, k=100, are merged in a dozen pieces.
COMBINE_BYTES = 32 << 20


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
    frontier: F64
    """(nq,) float64: D64 of the frontier, +inf where all rows searched are listed."""
    frontier_ids: I64
    """(nq,) int64: id of the frontier, -1 where no row of that distance is known to be listed."""
    n_rows: int
    """Rows searched."""
    n_widened: int = 0
    """(block, query) pairs for which FAISS's first candidates did not prove enough."""


def sort_and_cut(keys: F64, ids: I64, k: int) -> tuple[F64, I64]:
    """Order each row by (key, id) and keep the first `k`: (nq, w) → (nq, min(w, k))."""
    order = np.lexsort((ids, keys), axis=-1)[:, :k]
    return np.take_along_axis(keys, order, -1), np.take_along_axis(ids, order, -1)


def combine(parts: Sequence[Part], k: int) -> Part:
    """Merge parts of disjoint rows. Associative and commutative: any tree gives the same bits.

    Notes
    -----
    Memory: the merged part, and `combine_bytes`.
    """
    nq, width = len(parts[0].keys), sum(part.keys.shape[1] for part in parts)
    keys, ids = np.empty((nq, min(width, k))), np.empty((nq, min(width, k)), np.int64)
    n_listed = np.empty(nq, np.int64)
    step = max(1, COMBINE_BYTES // max(1, _sort_bytes(width)))
    for at in range(0, nq, step):
        rows = slice(at, at + step)
        some_keys = np.concatenate([part.keys[rows] for part in parts], axis=1)
        some_ids = np.concatenate([part.ids[rows] for part in parts], axis=1)
        n_listed[rows] = (some_ids >= 0).sum(axis=1)
        keys[rows], ids[rows] = sort_and_cut(some_keys, some_ids, k)
    # Padding sorts last among equals: an infinite key is never a row's.
    frontier, frontier_ids = parts[0].frontier, parts[0].frontier_ids
    for part in parts[1:]:
        frontier, frontier_ids = _smaller(
            (frontier, frontier_ids), (part.frontier, part.frontier_ids)
        )
    cut = n_listed > k
    if keys.shape[1] == k:
        last = (np.where(cut, keys[:, -1], np.inf), np.where(cut, ids[:, -1], -1))
        frontier, frontier_ids = _smaller((frontier, frontier_ids), last)
    return Part(
        keys,
        ids,
        frontier,
        frontier_ids,
        sum(part.n_rows for part in parts),
        sum(part.n_widened for part in parts),
    )


def combine_bytes(n_parts: int, k: int) -> int:
    """Most bytes that `combine` allocates beside its result."""
    return max(COMBINE_BYTES, _sort_bytes(n_parts * k))


def _sort_bytes(width: int) -> int:
    """Bytes of joined lists of one query, with their order and what sorting takes."""
    return width * 3 * 16


def finalize(part: Part, k: int) -> tuple[F64, I64]:
    """Check the certificate and return the k nearest keys and ids, both (nq, k).

    Raises
    ------
    CertificateError
        If some query's k-th key lies beyond its frontier: the answer is then not proven, and
        none is given.
    """
    if part.keys.shape[1] < k or np.any(part.ids[:, :k] < 0):
        raise CertificateError(
            f"fewer than k={k} neighbours came together from {part.n_rows:,} rows: "
            f"{np.flatnonzero((part.ids >= 0).sum(axis=1) < k)[:10].tolist()} are such queries. "
            "This is a fault of the program; please report it."
        )
    keys, ids = part.keys[:, :k], part.ids[:, :k]
    beyond = (keys[:, -1] > part.frontier) | (
        (keys[:, -1] == part.frontier) & (ids[:, -1] > part.frontier_ids)
    )
    if np.any(beyond):
        q = int(np.flatnonzero(beyond)[0])
        raise CertificateError(
            f"{int(beyond.sum())} of {len(keys)} queries are not certified; query {q}: its "
            f"neighbour {k} has key {keys[q, -1]!r}, id {ids[q, -1]}, the frontier is "
            f"{part.frontier[q]!r}, id {part.frontier_ids[q]}. This is a fault of the program; "
            "please report it."
        )
    return keys, ids


def _smaller(a: tuple[F64, I64], b: tuple[F64, I64]) -> tuple[F64, I64]:
    """Elementwise smaller of two frontiers, ordered by (distance, id)."""
    first = (a[0] < b[0]) | ((a[0] == b[0]) & (a[1] <= b[1]))
    return np.where(first, a[0], b[0]), np.where(first, a[1], b[1])
