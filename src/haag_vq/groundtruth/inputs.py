"""What a search is asked: base, queries, k, metric and prefixes, read and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from haag_vq.arrays import check_whole_rows, read_array
from haag_vq.errors import DataError, UsageError, whole_number
from haag_vq.groundtruth import exact
from haag_vq.groundtruth.manifest import sha256_of
from haag_vq.groundtruth.precompile import ensure_compiled
from haag_vq.sources import ArraySource, Metric, VectorSource, check_metric
from haag_vq.sources.protocol import STORED_DTYPES

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

# Lists are longer than k by the query's own row, which may be dropped, and by the next neighbour,
# whose distance tells whether the k-th place is a tie.
EXTRA = 2


@runtime_checkable
class HasSource(Protocol):
    """What a dataset is to the search: something with a source."""

    @property
    def source(self) -> VectorSource:
        """Where the rows are."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is asked, of whatever base."""

    xq: F32
    """(nq, d) float32, finite."""
    k: int
    metric: Metric
    exclude_self: bool
    dataset: str
    """Name of the base, where it has one."""
    query_source: str
    """Where the queries come from, in words."""
    query_rows: I64 | None
    """(nq,) rows of the base's files that the queries were, where they are known to be."""
    commit: str = ""
    """Of the Hub, that the base is: organisation/name@commit."""

    @property
    def width(self) -> int:
        """Neighbours to find of each query."""
        return self.k + EXTRA

    @property
    def queries_sha256(self) -> str:
        """Of the float32 queries, in C order."""
        return sha256_of(self.xq)

    @property
    def tag(self) -> str:
        """Identity of metric and queries: what is found for one question is not for another."""
        return question_tag(self.metric, self.queries_sha256)


def question_tag(metric: str, queries_sha256: str) -> str:
    """Identity of a question, for the intervals of a checkpoint."""
    return hashlib.sha256(f"{metric} {queries_sha256}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """A checked question and the base that it is asked of."""

    question: Question
    target: VectorSource | da.Array
    ends: tuple[int, ...]
    """Rows of each asked prefix, in the order asked."""

    @property
    def segments(self) -> list[tuple[int, int]]:
        """Pieces into which the ends of the prefixes cut the base."""
        return segments_of(self.ends)

    def fingerprint(self, start: int, stop: int, identity: str | None = None) -> str:
        """Identity of rows ``start:stop`` of the base; '' for an array that was given none."""
        if isinstance(self.target, VectorSource):
            return self.target.narrow(start, stop).fingerprint
        return "" if identity is None else f"{identity}[{start}:{stop}]"


def segments_of(ends: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pieces into which the ends of prefixes cut a base."""
    ascending = sorted(set(ends))
    return list(zip([0, *ascending[:-1]], ascending, strict=True))


def read_inputs(
    base: Any,
    queries: Any,
    k: int,
    metric: str,
    prefixes: Sequence[int | None] | None,
    exclude_self: bool,
    progress: bool,
) -> Inputs:
    """Check what `ground_truth` was given, and read the queries.

    Raises
    ------
    UsageError, DataError
        As `ground_truth` does.
    """
    ensure_compiled(announce=progress)
    k = whole_number("k", k)
    chosen = choose_metric(metric, base)
    xq = _load_queries(queries, base)
    target = base.source if isinstance(base, HasSource) else base
    if isinstance(target, np.ndarray):
        target = ArraySource(target)
    if not isinstance(target, VectorSource | da.Array):
        raise UsageError(f"cannot search in a {type(base).__name__}; open it with open_dataset().")
    n_rows, dim = _shape_of(target)
    _check_queries(xq, dim, chosen)
    ends = ends_of(prefixes, n_rows, k, exclude_self)
    own = queries is None
    question = Question(
        xq,
        k,
        chosen,
        exclude_self,
        str(getattr(base, "name", "")),
        str(getattr(base, "query_origin", "")) if own else _origin(queries),
        getattr(base, "query_rows", None) if own else None,
        str(getattr(base, "commit", "")),
    )
    return Inputs(question, target, ends)


def _origin(queries: Any) -> str:
    source = queries.source if isinstance(queries, HasSource) else queries
    files = source.files if isinstance(source, VectorSource) else ()
    return ", ".join(files[:3]) if files else "given as an array"


def choose_metric(metric: str, base: Any) -> Metric:
    """Return the metric asked for; for "auto" the base's own, UsageError where it has none."""
    if metric == "auto":
        own = getattr(base, "metric", None)
        if own is None:
            raise UsageError(
                "metric='auto', but this base has no metric of its own: pass l2, ip or cosine."
            )
        return check_metric(own)
    return check_metric(metric)


def _load_queries(queries: Any, base: Any) -> F32:
    """Read queries from wherever they are into one finite (nq, d) float32 array."""
    if queries is None:
        queries = getattr(base, "queries", None)
        if queries is None:
            raise UsageError("this base has no queries of its own: pass queries=.")
    if isinstance(queries, HasSource):
        queries = queries.source
    if isinstance(queries, da.Array):
        queries = queries.compute()
    if not isinstance(queries, VectorSource):
        queries = ArraySource(np.asarray(queries), name="the array of queries")
    return read_array(queries)


def _shape_of(target: VectorSource | da.Array) -> tuple[int, int]:
    if isinstance(target, VectorSource):
        return target.n_rows, target.dim
    check_whole_rows(target)
    if target.dtype.name not in STORED_DTYPES:
        raise UsageError(
            f"the array holds {target.dtype}; vectors are {', '.join(STORED_DTYPES)}. Convert it "
            "with .astype('float32')."
        )
    return int(target.shape[0]), int(target.shape[1])


def ends_of(
    prefixes: Sequence[int | None] | None, n_rows: int, k: int, exclude_self: bool
) -> tuple[int, ...]:
    """Return the rows of each asked prefix; one for the whole base if there are none.

    Raises
    ------
    UsageError
        If a prefix is no number of the base's rows, or has fewer rows than are asked of it.
    """
    ends = (n_rows,) if prefixes is None else _numbers(prefixes, n_rows)
    least = min(ends)
    # The query's own row is no neighbour of itself.
    most = least - 1 if exclude_self else least
    if not 1 <= k <= most:
        neighbours = "neighbours beside the query itself" if exclude_self else "neighbours"
        what = "base" if least == n_rows else "prefix"
        raise UsageError(
            f"k={k:,} {neighbours} asked of a {what} of {least:,} rows: take 1 to {most:,}."
        )
    return ends


def _numbers(prefixes: Sequence[int | None], n_rows: int) -> tuple[int, ...]:
    if isinstance(prefixes, str) or not isinstance(prefixes, Iterable):
        raise UsageError(
            f"prefixes={prefixes!r} must be a list: numbers of rows, and None for all of them."
        )
    ends = tuple(n_rows if p is None else whole_number("prefixes", p) for p in prefixes)
    if not ends:
        raise UsageError("prefixes is empty: name at least one, or None for all rows.")
    for end in ends:
        if not 1 <= end <= n_rows:
            raise UsageError(f"a prefix of {end:,} rows was asked of a base of {n_rows:,} rows.")
    return ends


def _check_queries(xq: F32, dim: int, metric: Metric) -> None:
    if xq.shape[1] != dim:
        raise UsageError(
            f"the queries have dimension {xq.shape[1]:,}, the base has {dim:,}: "
            "they must be embedded by one model (or cut to the same dims)."
        )
    if not len(xq):
        raise UsageError("there are no queries.")
    if metric == "cosine":
        zero = np.flatnonzero(exact.squared_norms(xq) == 0)
        if len(zero):
            raise DataError(
                f"{len(zero):,} zero vector(s) among the queries, the first is query "
                f"{int(zero[0]):,}: the cosine with a zero vector is not defined."
            )
