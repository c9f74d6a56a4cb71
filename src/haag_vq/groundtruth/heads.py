"""A prefix's ground truth against that of the whole base: only heads can be compared.

Neighbours in the whole base are no truth of a prefix: most of them lie behind its end. But those
that lie inside it are nearer than every other row of the prefix, so in their order they must be
the first of the prefix's own list.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import UsageError
from haag_vq.groundtruth.compare import N_SHOWN, compare
from haag_vq.groundtruth.comparison import SEVERITY, Comparison
from haag_vq.groundtruth.pairs import Vectors
from haag_vq.groundtruth.result import GroundTruth

I64 = NDArray[np.int64]

_COUNTS = tuple(f.name for f in fields(Comparison) if f.name.startswith("n_"))


def is_of_prefix(truth: GroundTruth, whole: GroundTruth) -> bool:
    """Whether `truth` is of fewer rows than `whole` names: then heads are all that is common."""
    return bool(truth.n_rows) and truth.n_rows <= int(whole.ids.max(initial=-1))


def compare_heads(
    prefix: GroundTruth, whole: GroundTruth, *, base: Any = None, queries: Any = None
) -> Comparison:
    """Compare a prefix's truth with those neighbours in the whole base that lie in the prefix.

    Parameters
    ----------
    prefix : GroundTruth
        Of the first ``prefix.n_rows`` rows; "A" in what is found.
    whole : GroundTruth
        Of all rows, the same queries; "B".
    base : dataset, VectorSource or (n, d) array, optional
        The prefix's vectors, as for `compare`.
    queries : (nq, d) array, optional
        With `base`; a dataset's own when not given.

    Returns
    -------
    Comparison
        Of the queries that have any such neighbour; a warning says how few they are.

    Raises
    ------
    UsageError
        If there is no such neighbour, or the two are not of the same queries.
    DataError
        As `compare`.
    """
    if prefix.n_queries != whole.n_queries:
        raise UsageError(
            f"A has {prefix.n_queries:,} queries, B has {whole.n_queries:,}: they must be the same."
        )
    inside = (whole.ids >= 0) & (whole.ids < prefix.n_rows)
    n_heads = np.minimum(inside.sum(axis=1), prefix.k)
    if not n_heads.any():
        raise UsageError(
            f"none of B's neighbours lies in the first {prefix.n_rows:,} rows, of which A is the "
            "truth: there is nothing to compare."
        )
    # Neighbours in the prefix first, in their order.
    order = np.argsort(~inside, axis=1, kind="stable")
    vectors = None if base is None else Vectors.of(base, queries)
    parts = []
    for m in np.unique(n_heads[n_heads > 0]).tolist():
        rows = np.flatnonzero(n_heads == m)
        head = compare(
            _part_of(prefix, rows, np.broadcast_to(np.arange(m), (len(rows), m))),
            replace(_part_of(whole, rows, order[rows, :m]), n_rows=prefix.n_rows),
            base=None if vectors is None else vectors.source,
            queries=None if vectors is None else vectors.xq[rows],
        )
        shown = [replace(found, query=int(rows[found.query])) for found in head.differences]
        parts.append(replace(head, differences=tuple(shown)))
    return _summed(parts, _what_was_compared(prefix, n_heads))


def _part_of(truth: GroundTruth, rows: I64, columns: I64) -> GroundTruth:
    """Some queries of a truth, and of each so many of its places."""
    places = rows[:, None], columns
    return replace(
        truth,
        ids=truth.ids[places],
        distances=truth.distances[places],
        # Of all queries, in the whole base.
        queries_sha256="",
        base_fingerprint="",
        query_rows=None,
    )


def _what_was_compared(prefix: GroundTruth, n_heads: I64) -> str:
    n_without = int((n_heads == 0).sum())
    without = f"; {n_without:,} queries have none there" if n_without else ""
    return (
        f"A is of the first {prefix.n_rows:,} rows, B of the whole base: only B's "
        f"{n_heads.sum():,} neighbours among these rows were compared, of "
        f"{n_heads.size * prefix.k:,} places of A, with the heads of A's lists{without}. "
        "The rest of A is not checked"
    )


def _summed(parts: list[Comparison], note: str) -> Comparison:
    """Add up comparisons of different queries."""
    gravest = sorted(
        (found for part in parts for found in part.differences),
        key=lambda found: (-SEVERITY.index(found.verdict), found.query),
    )
    warnings = dict.fromkeys(text for part in parts for text in part.warnings)
    return replace(
        parts[0],
        k=max(part.k for part in parts),
        largest_gap=max(part.largest_gap for part in parts),
        differences=tuple(gravest[:N_SHOWN]),
        warnings=(note, *warnings),
        **{name: sum(getattr(part, name) for part in parts) for name in _COUNTS},
    )
