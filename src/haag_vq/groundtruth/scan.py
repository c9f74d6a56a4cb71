"""The search's inner loop, compiled: which rows of a tile can be among the nearest.

Every query has a *ceiling*, an upper bound of its k-th key. A row whose float32 distance is above
the ceiling by more than its proven error cannot be in the answer; every other row becomes a
candidate. A query's full buffer of candidates is compacted in place: the ceiling falls to the
k-th smallest upper bound among them, and where too many remain (duplicates, near-ties) they are
scored by D64, of which the k nearest are kept. So no number of ties takes more memory, nor is one
lost.

Distances are handled as *values*, larger is nearer: x·q − ‖x‖²/2 for l2, x·q for ip and, divided
by the norms, for cosine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth import bounds
from haag_vq.groundtruth.compiled import compiled
from haag_vq.groundtruth.exact import IP, L2, dot, exact_key, padded_dim, row_hash
from haag_vq.groundtruth.order import kth_smallest, sort_descending

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

# Queries compared at once with one row: four vector registers or more (0.1 ns each, measured).
WIDTH = 64


class Rows(NamedTuple):
    """Rows that are searched, and queries, as compiled code takes them."""

    x: F32
    """(nb, d) float32."""
    squared_norms: F32
    """(nb,) float32, summed in float32."""
    q: F32
    """(nq, d) float32."""
    q_squared_norms: F64
    """(nq,) float64, D64."""
    multipliers: U64
    """(d,) uint64, `d64.hash_multipliers`."""
    hashes: U64
    """(nb,) uint64: fingerprints that were needed so far; 0 elsewhere."""


class Leading(NamedTuple):
    """Which dimensions were multiplied, and what the others can add (`groundtruth.partial`)."""

    head: int
    """Dimensions that were multiplied; d: all."""
    q: F32
    """(nq, d) float32: queries as they are multiplied."""
    x_rests: F32
    """(m,) float32: the rest of a row of the tile is no longer."""
    q_rests: F32
    """(nq,) float32."""
    most_finished: float
    """Share of the pairs whose product may be finished one by one."""


class Lists(NamedTuple):
    """What is known of each query's neighbours while a block is searched."""

    k: int
    """Neighbours asked of each query; w = min(k, nb) can be in the block."""
    n_candidates: I32
    """(nq,) int32."""
    rows: I32
    """(nq, c) int32: candidates, rows of the block."""
    values: F32
    """(nq, c) float32; NaN where float32 says nothing."""
    n_exact: I32
    """(nq,) int32."""
    keys: F64
    """(nq, w) float64, ascending: D64 of those found, similarities negated."""
    ids: I64
    """(nq, w) int64: rows of the block."""
    hashes: U64
    """(nq, w) uint64."""
    ceilings: F64
    """(nq,) float64: no key above it is among the k nearest."""
    known: F64
    """(nq, m) float64: keys of other rows, which count for the k nearest."""
    n_scored: I64
    """(nq,) int64: rows scored by D64."""
    n_widened: I32
    """(nq,) int32: times that candidates were scored because they were too many."""
    largest_error: F64
    """(nq,) float64: |float32 − D64| as a share of its bound; above 1 the bound is broken."""
    broken: I64
    """(nq,) int64: a row for which it is."""


@compiled
def _key_of(metric: int, value: float, q_squared_norm: float) -> float:
    """Turn a value into a distance, in float64: no further rounding to reckon with."""
    if metric == L2:
        return q_squared_norm - 2.0 * np.float64(value)
    return -np.float64(value)


@compiled
def _error(metric: int, d: int, q_norm: float, key: float, x_norm: float) -> float:
    if metric == L2:
        return bounds.l2_error(d, q_norm, max(key, 0.0))  # type: ignore[no-any-return]
    if metric == IP:
        return bounds.ip_error(d, q_norm, x_norm)  # type: ignore[no-any-return]
    return bounds.cosine_error(d)  # type: ignore[no-any-return]


@compiled
def _least_value(
    metric: int, d: int, ceiling: float, q_squared_norm: float, x_norm: float
) -> np.float32:
    """No row below this value can be at or under the ceiling, if none is longer than `x_norm`."""
    if np.isnan(ceiling) or ceiling == np.inf:
        return np.float32(-np.inf)
    q_norm = np.sqrt(q_squared_norm)
    highest = ceiling + _error(metric, d, q_norm, ceiling, x_norm)
    least = (q_squared_norm - highest) / 2.0 if metric == L2 else -highest
    return np.nextafter(np.float32(least), np.float32(-np.inf))  # type: ignore[no-any-return]


@compiled
def least_values(metric: int, queries: I64, x_norm: float, block: Rows, lists: Lists) -> F32:
    """Values below which no row of at most this length is of interest to some queries."""
    d = block.x.shape[1]
    out = np.empty(queries.shape[0], np.float32)
    for i in range(out.shape[0]):
        q = queries[i]
        out[i] = _least_value(metric, d, lists.ceilings[q], block.q_squared_norms[q], x_norm)
    return out


@compiled
def scan(
    metric: int,
    product: F32,
    column: int,
    a: int,
    b: int,
    first: int,
    weights: F32,
    offsets: F32,
    x_norm: float,
    safe: Any,
    leading: Leading,
    block: Rows,
    lists: Lists,
) -> int:
    """Add to the candidates the rows of a tile that can be among the nearest.

    `product` (m, n) has x·q of rows ``first:first + m``, for queries ``a:b`` from `column` on, of
    their leading dimensions; a value is ``product · weight − offset`` of the row. No row is longer
    than `x_norm`. Queries that are not `safe` (nq,) are left out.

    Returns how many rows were scanned: fewer than m where so many products had to be finished that
    whole ones are faster.
    """
    n = b - a
    d = block.x.shape[1]
    least = least_values(metric, np.arange(a, b), x_norm, block, lists)
    for i in range(n):
        if not safe[a + i]:
            least[i] = np.inf
    head = leading.head
    terms = np.empty(max(1, padded_dim(d - head) // 2))
    x_rests, q_rests = leading.x_rests, leading.q_rests[a:b]
    left_to_finish = leading.most_finished * (product.shape[0] * n)
    hits = np.empty(-(-n // WIDTH), np.int32)
    for j in range(product.shape[0]):
        weight, offset = weights[j], offsets[j]
        line = product[j, column : column + n]
        _count(line, x_rests[j], q_rests, weight, offset, least, hits)
        for chunk in range(hits.shape[0]):
            left = hits[chunk]
            i = chunk * WIDTH
            while left > 0:
                value = line[i]
                if _is_near(value, x_rests[j], q_rests[i], weight, offset, least[i]):
                    q = a + i
                    if head < d and safe[q]:
                        x_tail, q_tail = block.x[first + j, head:], leading.q[q, head:]
                        value += np.float32(dot(x_tail, q_tail, terms, x_tail[:0]))
                        left_to_finish -= 1
                    value = value * weight - offset
                    left -= 1
                    if safe[q] and not value < least[i] and _add(q, first + j, value, lists):
                        _compact(metric, q, block, lists)
                        least[i] = _least_value(
                            metric, d, lists.ceilings[q], block.q_squared_norms[q], x_norm
                        )
                i += 1
        if left_to_finish < 0:
            return j + 1
    return product.shape[0]  # type: ignore[no-any-return]


@compiled
def _count(
    line: F32, x_rest: float, q_rests: F32, weight: float, offset: float, least: F32, hits: I32
) -> None:
    """Count a row's values that are not below the least ones, of `WIDTH` queries at a time."""
    for chunk in range(hits.shape[0]):
        # Views from 0 on: an index that could be negative is not vectorized.
        values = line[chunk * WIDTH : (chunk + 1) * WIDTH]
        rests = q_rests[chunk * WIDTH : (chunk + 1) * WIDTH]
        floors = least[chunk * WIDTH : (chunk + 1) * WIDTH]
        count = np.int32(0)
        for i in range(values.shape[0]):
            count += np.int32(_is_near(values[i], x_rest, rests[i], weight, offset, floors[i]))
        hits[chunk] = count


@compiled
def _is_near(
    product: float, x_rest: float, q_rest: float, weight: float, offset: float, least: float
) -> bool:
    """Tell whether a row can be of interest, by what was multiplied and what the rests allow."""
    # Not ">=": a product that is no number must not pass for a far row.
    return not (product + x_rest * q_rest) * weight - offset < least


@compiled
def _add(q: int, row: int, value: np.float32, lists: Lists) -> bool:
    """Add a candidate; tell whether the buffer is full then."""
    count = lists.n_candidates[q]
    lists.rows[q, count] = row
    lists.values[q, count] = value
    lists.n_candidates[q] = count + 1
    return count + 1 == lists.rows.shape[1]  # type: ignore[no-any-return]


@compiled
def _lower_ceiling(metric: int, q: int, block: Rows, lists: Lists) -> None:
    """Lower the ceiling to the k-th smallest upper bound known, and drop what is above it."""
    d, k = block.x.shape[1], lists.k
    n, n_exact, n_known = lists.n_candidates[q], lists.n_exact[q], lists.known.shape[1]
    squared = block.q_squared_norms[q]
    q_norm = np.sqrt(squared)
    if n + n_exact + n_known >= k:
        uppers = np.empty(n + n_exact + n_known)
        for c in range(n):
            key = _key_of(metric, lists.values[q, c], squared)
            if np.isnan(key):
                uppers[c] = np.inf
            elif metric == L2:
                uppers[c] = bounds.l2_ceiling(d, q_norm, key)
            else:
                x_norm = bounds.norm_ceiling(d, np.float64(block.squared_norms[lists.rows[q, c]]))
                uppers[c] = key + _error(metric, d, q_norm, key, x_norm)
        for c in range(n_exact):
            uppers[n + c] = lists.keys[q, c]
        for c in range(n_known):
            uppers[n + n_exact + c] = lists.known[q, c]
        bound = kth_smallest(uppers, k)
        if bound < lists.ceilings[q]:
            lists.ceilings[q] = bound
    ceiling = lists.ceilings[q]
    kept = 0
    for c in range(n):
        row = lists.rows[q, c]
        x_norm = bounds.norm_ceiling(d, np.float64(block.squared_norms[row]))
        key = _key_of(metric, lists.values[q, c], squared)
        if not key > ceiling + _error(metric, d, q_norm, ceiling, x_norm):
            lists.rows[q, kept] = row
            lists.values[q, kept] = lists.values[q, c]
            kept += 1
    lists.n_candidates[q] = kept


@compiled
def _compact(metric: int, q: int, block: Rows, lists: Lists) -> None:
    """Make room in a full buffer; half of it at least, or it would be full again at once."""
    _lower_ceiling(metric, q, block, lists)
    if 2 * lists.n_candidates[q] > lists.rows.shape[1]:
        lists.n_widened[q] += 1
        _score_candidates(metric, q, block, lists)


@compiled
def _score_candidates(metric: int, q: int, block: Rows, lists: Lists) -> None:
    """Score a query's candidates by D64, keep the w nearest of all scored, empty the buffer."""
    d, k = block.x.shape[1], lists.k
    n, squared = lists.n_candidates[q], block.q_squared_norms[q]
    terms = np.empty(max(1, padded_dim(d) // 2))
    # From the nearest on, so that most are appended and few inserted.
    sort_descending(lists.values[q], lists.rows[q], n)
    for c in range(n):
        row = lists.rows[q, c]
        x = block.x[row]
        ahead = block.x[lists.rows[q, c + 1]] if c + 1 < n else x[:0]
        key = exact_key(metric, x, block.q[q], squared, terms, ahead)
        value = lists.values[q, c]
        if not np.isnan(value):
            _check(metric, q, row, value, key, block, lists)
        if key <= lists.ceilings[q]:
            _insert(q, key, row, _hash_of(row, block), lists)
    lists.n_scored[q] += n
    lists.n_candidates[q] = 0
    if lists.n_exact[q] == k:
        lists.ceilings[q] = min(lists.ceilings[q], lists.keys[q, k - 1])


@compiled
def _hash_of(row: int, block: Rows) -> np.uint64:
    """Fingerprint a row once for all queries; threads that meet there write the same."""
    found = block.hashes[row]
    if found == 0:
        found = row_hash(block.x[row], block.multipliers)
        block.hashes[row] = found
    return found  # type: ignore[no-any-return]


@compiled
def _check(
    metric: int, q: int, row: int, value: float, key: float, block: Rows, lists: Lists
) -> None:
    """Nothing is taken on trust: each scored pair must lie within the bound that proofs use."""
    d, squared = block.x.shape[1], block.q_squared_norms[q]
    x_norm = bounds.norm_ceiling(d, np.float64(block.squared_norms[row]))
    error = abs(_key_of(metric, value, squared) - key)
    share = error / _error(metric, d, np.sqrt(squared), key, x_norm)
    if not share <= lists.largest_error[q]:
        lists.largest_error[q] = share
        lists.broken[q] = row


@compiled
def _insert(q: int, key: float, row: int, fingerprint: int, lists: Lists) -> None:
    """Insert into a query's list by (key, id), dropping the last where it is full."""
    width = lists.keys.shape[1]
    at = lists.n_exact[q]
    keys, ids, hashes = lists.keys[q], lists.ids[q], lists.hashes[q]
    if at == width:
        at -= 1
        if key > keys[at] or (key == keys[at] and row > ids[at]):
            return
    else:
        lists.n_exact[q] = at + 1
    while at > 0 and (keys[at - 1] > key or (keys[at - 1] == key and ids[at - 1] > row)):
        keys[at], ids[at], hashes[at] = keys[at - 1], ids[at - 1], hashes[at - 1]
        at -= 1
    keys[at], ids[at], hashes[at] = key, row, fingerprint


@compiled
def score_all(metric: int, q: int, start: int, stop: int, block: Rows, lists: Lists) -> None:
    """Score rows ``start:stop`` for a query of which float32 can tell nothing."""
    _score_candidates(metric, q, block, lists)
    lists.n_widened[q] += 1
    for row in range(start, stop):
        if _add(q, row, np.float32(np.nan), lists) or row + 1 == stop:
            _score_candidates(metric, q, block, lists)


@compiled
def settle(metric: int, a: int, b: int, block: Rows, lists: Lists) -> None:
    """Score what is left of the candidates of queries ``a:b``: their lists are final then."""
    for q in range(a, b):
        _lower_ceiling(metric, q, block, lists)
        _score_candidates(metric, q, block, lists)
