"""Lists of neighbours, one a query: checked, as keys, and looked up in one another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import DataError, UsageError
from haag_vq.groundtruth.result import GroundTruth

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]


def checked_keys(truth: GroundTruth, k: int, name: str) -> F64:
    """Check the first `k` places of a truth; return all its distances with smaller nearer.

    Returns
    -------
    (nq, truth.k) float64
        Squared distances, or negated similarities.

    Raises
    ------
    DataError
        If neighbours are missing, repeated, outside the base or without a finite distance, or
        the distances are not in order: it was read with another metric than it was written with.
    """
    ids, n_rows = truth.ids[:, :k], truth.n_rows
    if ids.size and int(ids.min()) < 0:
        query, rank = _first(ids < 0)
        raise DataError(
            f"{name} has no neighbour at rank {rank + 1:,} of query {query:,} (id "
            f"{ids[query, rank]}), k={k:,} was asked for: take k up to {rank:,}."
        )
    check_within(truth.ids, n_rows, name)
    repeated = later_copies(ids)
    if repeated.any():
        query, rank = _first(repeated)
        raise DataError(f"{name} lists row {ids[query, rank]:,} twice for query {query:,}.")
    known = truth.distances[:, :k]
    if not np.isfinite(known).all():
        query, rank = _first(~np.isfinite(known))
        raise DataError(
            f"{name} has the distance {known[query, rank]} at rank {rank + 1:,} of query {query:,}."
        )
    keys = truth.distances if truth.metric == "l2" else 0.0 - truth.distances
    falling = keys[:, 1:k] < keys[:, : k - 1]
    if falling.any():
        query, rank = _first(falling)
        raise DataError(
            f"{name} is not in the order of {truth.metric}: query {query:,} has "
            f"{known[query, rank]:.9g} at rank {rank + 1:,} and {known[query, rank + 1]:.9g} at "
            f"rank {rank + 2:,}. Was it written with another metric?"
        )
    return keys


def check_same(one: str, other: str, facts: Iterable[tuple[str, int | str, int | str]]) -> None:
    """Raise UsageError at the first (what, of `one`, of `other`) that differs; 0 and "": unknown.

    Two things are compared that must be of the same queries and vectors.
    """
    for what, left, right in facts:
        if left and right and left != right:
            raise UsageError(
                f"{one} and {other} do not belong together: {what}: {_show(left)} and "
                f"{_show(right)}."
            )


def check_within(ids: I64, n_rows: int, name: str) -> None:
    """Raise DataError if an id is no row of a base of `n_rows` (0: not known). Padding is fine."""
    outside = ids < -1
    if n_rows:
        outside |= ids >= n_rows
    if outside.any():
        query, rank = _first(outside)
        rows = f"rows 0 to {n_rows - 1:,}" if n_rows else "rows from 0"
        raise DataError(
            f"{name} has id {ids[query, rank]:,} at rank {rank + 1:,} of query {query:,}, the "
            f"base has {rows} ({int(outside.sum()):,} ids are outside; -1 stands for none)."
        )


def as_ids(ids: Any, name: str) -> I64:
    """Return (nq, m) integers of any type as int64.

    Raises
    ------
    UsageError
        If they are not integers, not in two dimensions, or too large for int64.
    """
    found = np.asarray(ids)
    if found.ndim != 2 or found.dtype.kind not in "iu":
        raise UsageError(
            f"{name}: ids are integers of shape (queries, neighbours), not {found.dtype} of "
            f"shape {found.shape}."
        )
    if found.dtype == np.uint64 and found.size and int(found.max()) > np.iinfo(np.int64).max:
        raise UsageError(
            f"{name} has id {int(found.max()):,}, larger than any row number: padding is -1, in "
            "a signed type."
        )
    return found.astype(np.int64)


def later_copies(ids: I64) -> Bools:
    """Mark each id that its row has further to the left too; padding is none: (nq, m) bools."""
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, 1)
    repeated = np.zeros(ids.shape, np.bool_)
    same = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    np.put_along_axis(repeated, order[:, 1:], same, 1)
    return repeated


def columns_of(ids: I64, among: I64) -> I64:
    """Find each id in the same query's list: (nq, m) in (nq, w) → (nq, m) columns, -1 for none.

    Padding is found nowhere. Memory: about 50 bytes for each id of both.
    """
    nq, width = among.shape
    if not among.size or not ids.size:
        return np.full(ids.shape, -1, np.int64)
    # Ids become codes below nq·(m + w), so that (query, code) is one int64 however large ids are.
    _, codes = np.unique(np.concatenate((among.ravel(), ids.ravel())), return_inverse=True)
    offsets = (np.arange(nq) * (int(codes.max()) + 1))[:, None]
    listed = (codes[: among.size].reshape(among.shape) + offsets).ravel()
    wanted = codes[among.size :].reshape(ids.shape) + offsets
    order = np.argsort(listed, kind="stable")
    at = np.minimum(np.searchsorted(listed, wanted, sorter=order), len(order) - 1)
    found = (listed[order[at]] == wanted) & (ids >= 0)
    return np.where(found, order[at] % width, -1)


def _first(where: Bools) -> tuple[int, int]:
    """(query, column) of the first True."""
    query, column = np.argwhere(where)[0]
    return int(query), int(column)


def _show(value: int | str) -> str:
    """A count, a name, or the start of a long digest."""
    if isinstance(value, int):
        return f"{value:,}"
    return value if len(value) <= 16 else f"{value[:16]}…"
