"""D64 of chosen (query, row) pairs, read from the base: what settles a doubt about a neighbour."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.arrays import read_array
from haag_vq.errors import DataError, UsageError
from haag_vq.groundtruth import bounds, d64
from haag_vq.groundtruth.lists import check_same
from haag_vq.groundtruth.result import GroundTruth
from haag_vq.sources import ArraySource, Metric, VectorSource

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Rows held at once. Arbitrary: a few thousand, which a source reads in one pass.
BATCH_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Distances of pairs, and what float32 may make of them."""

    keys: F64
    """(n,) D64: squared distance, or negated similarity."""
    errors: F64
    """(n,) the most by which a float32 search may err on the pair (`groundtruth.bounds`)."""


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """A base that can be read, and the queries that were put to it."""

    source: VectorSource
    xq: F32
    """(nq, d)."""

    @classmethod
    def of(cls, base: Any, queries: Any) -> Vectors:
        """Take a dataset, source or array, and an array of queries (None: the dataset's own).

        Raises
        ------
        UsageError
            If there is no such base, there are no queries, or their dimensions differ.
        """
        source = getattr(base, "source", base)
        if isinstance(source, np.ndarray):
            source = ArraySource(source)
        if not isinstance(source, VectorSource):
            raise UsageError(f"a {type(base).__name__} is no base; open it with open_dataset().")
        queries = getattr(base, "queries", None) if queries is None else queries
        if queries is None:
            raise UsageError("this base has no queries of its own: pass queries=.")
        xq = read_array(ArraySource(np.asarray(queries), name="the array of queries"))
        if xq.shape[1] != source.dim:
            raise UsageError(
                f"the queries have dimension {xq.shape[1]:,}, the base has {source.dim:,}."
            )
        return cls(source, xq)

    @property
    def fingerprint(self) -> str:
        """Identity of the rows, as ground truth writes it: a wrapper's own can differ."""
        return self.source.narrow(0, self.source.n_rows).fingerprint

    def check_belongs(self, truth: GroundTruth, name: str) -> None:
        """Raise UsageError if these are not the base and the queries of `truth`, where it tells."""
        facts: list[tuple[str, int | str, int | str]] = [
            ("number of queries", truth.n_queries, len(self.xq)),
            ("dimension", truth.dim, self.source.dim),
            ("rows of the base", truth.n_rows, self.source.n_rows),
            (
                "SHA-256 of the queries",
                truth.queries_sha256,
                hashlib.sha256(self.xq.data).hexdigest(),
            ),
        ]
        check_same(name, "the vectors", facts)

    def score(self, queries: I64, rows: I64, metric: Metric) -> Scores:
        """Score pairs of a query (n,) and a row (n,), in any order and with repeats.

        Rows are read in ascending order, each once. Memory: 32 MiB of rows, the source's
        scratch, and about 100 bytes a pair.

        Raises
        ------
        DataError
            If a row is not finite, or zero under cosine.
        """
        keys, errors = np.empty(len(rows)), np.empty(len(rows))
        order = np.argsort(rows, kind="stable")
        wanted, places = np.unique(rows[order], return_inverse=True)
        squares = d64.squared_norms(self.xq)
        step = max(1, BATCH_BYTES // (4 * self.source.dim))
        for at in range(0, len(wanted), step):
            x, norms = self._read(wanted[at : at + step], metric)
            low, high = np.searchsorted(places, (at, at + len(x)))
            pairs, x_rows = order[low:high], places[low:high] - at
            for query, mine in _by_query(queries[pairs]):
                near, square = x_rows[mine], float(squares[query])
                found = d64.keys(x[near], self.xq[query], metric, square)
                keys[pairs[mine]] = found
                errors[pairs[mine]] = _error(metric, x.shape[1], square**0.5, norms[near], found)
        return Scores(keys, errors)

    def own_keys(self, queries: I64, metric: Metric) -> F64:
        """D64 of each of these queries (n,) with itself, as a row of the base would have it."""
        own = self.xq[queries]
        squares = d64.squared_norms(own)
        pairs = zip(own, squares, strict=True)
        return np.array([d64.keys(q[None], q, metric, float(square))[0] for q, square in pairs])

    def _read(self, rows: I64, metric: Metric) -> tuple[F32, F64]:
        """Read ascending rows: (n, d) float32, and their norms (n,)."""
        x = np.empty((len(rows), self.source.dim), np.float32)
        self.source.take_into(rows, x)
        norms = np.sqrt(d64.squared_norms(x))
        if metric == "cosine" and not norms.all():
            raise DataError(
                f"row {int(rows[np.argmin(norms)]):,} of the base is zero: the cosine with it is "
                "not defined."
            )
        return x, norms


def _by_query(queries: I64) -> list[tuple[int, I64]]:
    """Places (n,) of each query among `queries`."""
    order = np.argsort(queries, kind="stable")
    found, starts = np.unique(queries[order], return_index=True)
    groups = np.split(order, starts[1:])
    return [(int(query), places) for query, places in zip(found, groups, strict=True)]


def _error(metric: Metric, d: int, q_norm: float, x_norms: F64, keys: F64) -> Any:
    if metric == "l2":
        return bounds.l2_error(d, q_norm, keys)
    if metric == "ip":
        return bounds.ip_error(d, q_norm, x_norms)
    return bounds.cosine_error(d)
