"""Exact neighbours of queries within one block of rows: FAISS proposes, D64 decides.

FAISS's float32 distances order candidates wrongly where they nearly tie, and lose ties at the
k-th place. So it is asked for a few more than k; these are scored by D64; and a proven bound on
the float32 error tells whether any row that it left out could belong to the answer. Where one
could (ties, near-ties, a mean far from zero), the block is scanned for every row within the
bound, and where float32 would overflow, D64 scores the whole block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import CertificateError, DataError
from haag_vq.groundtruth import bounds, d64, engine
from haag_vq.groundtruth.part import Part
from haag_vq.sources import Metric

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Candidates beyond k. On real embeddings ranks k and k+8 differ by far more than the bound.
SPARE = 8

# A cosine search needs normalized rows and D64 the original ones: a tile of copies at a time.
TILE_BYTES = 32 << 20

# Candidates of one batch of queries, over all their lists. Arbitrary.
BATCH_BYTES = 48 << 20

# One candidate is 12 bytes; while the lists of two tiles are merged there are both, both
# joined, the order of those, and the kept ones.
CANDIDATE_BYTES = 80

# A scan looks at this many queries and rows at a time: 4 MiB of float32 distances.
SCAN_QUERIES = 64
SCAN_ROWS = 16384

# Rows within the bound are copied for D64 so many at a time. Arbitrary.
SCAN_PIECE = 1024


@dataclass(frozen=True, slots=True)
class Queries:
    """Queries with their norms, prepared once a task."""

    x: F32
    """(nq, d) float32."""
    squared_norms: F64
    """(nq,) float64, D64."""

    @classmethod
    def of(cls, x: F32) -> Queries:
        """Prepare (nq, d) float32 queries."""
        return cls(x, d64.squared_norms(x))


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of rows while it is searched."""

    x: F32
    """(nb, d) float32."""
    squared_norms: F32
    """(nb,) float32, summed in float32; inf where that overflows."""
    max_norm: float
    """No row is longer than this."""
    metric: Metric


def search_block(x: F32, first_id: int, queries: Queries, k: int, metric: Metric) -> Part:
    """Find the k rows of a block that are nearest to each query, exactly.

    Parameters
    ----------
    x : (nb, d) float32, C-contiguous
        Rows ``first_id …`` of the base; finite.
    first_id : int
    queries : Queries
        (nq, d).
    k : int
    metric : {"l2", "ip", "cosine"}

    Returns
    -------
    Part
        Lists of ``min(k, nb)``, complete up to their last key.

    Raises
    ------
    DataError
        If a row is zero and the metric is cosine.
    CertificateError
        If a float32 distance lies outside its proven bound.

    Notes
    -----
    Memory: `workspace_bytes` beside the block and the queries.
    """
    nb, d = x.shape
    nq, width = len(queries.x), min(k, nb)
    keys, ids = np.empty((nq, width)), np.empty((nq, width), np.int64)
    n_widened = 0
    block = _measure(x, first_id, metric)
    step = batch_queries(nq, k)
    for at in range(0, nq if nb else 0, step):
        batch = slice(at, min(at + step, nq))
        part = Queries(queries.x[batch], queries.squared_norms[batch])
        n_widened += _search_batch(block, part, k, keys[batch], ids[batch])
    ids += first_id
    if nb > k:
        frontier, frontier_ids = keys[:, -1].copy(), ids[:, -1].copy()
    else:
        frontier, frontier_ids = np.full(nq, np.inf), np.full(nq, -1, np.int64)
    return Part(keys, ids, frontier, frontier_ids, nb, n_widened)


def batch_queries(nq: int, k: int) -> int:
    """Queries searched at once, so that their candidates stay within `BATCH_BYTES`."""
    return max(1, min(nq, BATCH_BYTES // ((k + SPARE) * CANDIDATE_BYTES)))


def workspace_bytes(nb: int, nq: int, d: int, k: int, metric: Metric) -> int:
    """Most bytes that `search_block` allocates, with its result and the queries' norms."""
    batch = batch_queries(nq, k)
    candidates = batch * (k + SPARE) * CANDIDATE_BYTES
    faiss_tile = min(batch, engine.TILE_QUERIES) * engine.TILE_ROWS * 4
    # From k=100 on FAISS keeps reservoirs of 2k for each query of a tile.
    reservoirs = min(batch, engine.TILE_QUERIES) * 2 * (k + SPARE) * 12
    # Queries are copied where some of a batch are not for FAISS.
    copies = batch * d * 4
    normalized = (tile_rows(d) + batch) * d * 4 if metric == "cosine" else 0
    scan = 2 * SCAN_QUERIES * scan_rows(d) * 4 + SCAN_QUERIES * (4 * k + 1024) * 16
    rescoring = 3 * d64.PIECE_BYTES + max(k + SPARE, SCAN_PIECE) * d * 4
    return (
        candidates
        + faiss_tile
        + reservoirs
        + copies
        + normalized
        + scan
        + rescoring
        + nb * 12
        + nq * (k * 16 + 8)
    )


def scan_rows(d: int) -> int:
    """Rows that a scan looks at at a time: a tile may have to be normalized as well."""
    return min(SCAN_ROWS, tile_rows(d))


def tile_rows(d: int) -> int:
    """Rows of a tile of normalized copies."""
    return max(1, TILE_BYTES // (4 * d))


def _measure(x: F32, first_id: int, metric: Metric) -> _Block:
    norms = engine.squared_norms_f32(x) if len(x) else np.empty(0, np.float32)
    if metric == "cosine":
        # The float32 norm underflows to 0 for rows that are tiny but not zero.
        zero = [int(row) for row in np.flatnonzero(norms == 0) if not x[row].any()]
        if zero:
            raise DataError(
                f"{len(zero):,} zero vector(s) in rows {first_id:,}:{first_id + len(x):,} of the "
                f"base, the first at row {first_id + zero[0]:,}: the cosine with a zero vector is "
                "not defined. Remove these rows, or use metric l2 or ip."
            )
    largest = float(norms.max()) if len(norms) else 0.0
    return _Block(x, norms, bounds.norm_ceiling(x.shape[1], largest), metric)


def _search_batch(block: _Block, queries: Queries, k: int, keys: F64, ids: I64) -> int:
    """Fill `keys` and `ids` (nq, min(k, nb)); return how many queries were widened."""
    nb = len(block.x)
    safe = _safe_in_float32(block, queries)
    if nb <= k + SPARE:
        safe[:] = False
    open_queries = []
    if safe.any():
        chosen = np.flatnonzero(safe)
        proposals = _propose(block, queries, chosen, k + SPARE)
        safe[chosen[(proposals[1] < 0).any(axis=1)]] = False
        for q, distances, rows in zip(chosen, *proposals, strict=True):
            if safe[q] and not _decide(block, queries, int(q), k, distances, rows, keys[q], ids[q]):
                open_queries.append(int(q))
        del proposals
    for q in np.flatnonzero(~safe):
        _score_all(block, queries, int(q), keys[q], ids[q])
    for at in range(0, len(open_queries), SCAN_QUERIES):
        _scan(block, queries, np.array(open_queries[at : at + SCAN_QUERIES]), keys, ids)
    return len(open_queries)


def _safe_in_float32(block: _Block, queries: Queries) -> NDArray[np.bool_]:
    """Which queries' distances cannot overflow in float32, nor lose their norms to underflow."""
    q_norms = np.sqrt(queries.squared_norms)
    if block.metric == "l2":
        return np.asarray((block.max_norm + q_norms) ** 2 < bounds.L2_LIMIT)
    if block.metric == "ip":
        # Norms enter too: an infinite one would make the bound infinite, or with a zero query
        # not a number.
        if not np.isfinite(block.max_norm):
            return np.zeros(len(q_norms), bool)
        return np.asarray(block.max_norm * q_norms < bounds.IP_LIMIT)
    low, high = bounds.COSINE_NORM_RANGE
    least = float(np.sqrt(block.squared_norms.min(initial=np.inf)))
    inside = low < least and block.max_norm < high
    return np.asarray(inside & (low < q_norms) & (q_norms < high))


def _propose(block: _Block, queries: Queries, chosen: I64, n: int) -> tuple[F32, I64]:
    """Ask FAISS for the `n` nearest rows: float32 distances (smaller is nearer) and rows."""
    xq = queries.x if len(chosen) == len(queries.x) else queries.x[chosen]
    if block.metric == "l2":
        return engine.knn(xq, block.x, n, similarity=False)
    if block.metric == "ip":
        D, I = engine.knn(xq, block.x, n, similarity=True)
        return np.negative(D, out=D), I
    norms = np.sqrt(queries.squared_norms[chosen])[:, None]
    # Divided in float64 and rounded once, without a float64 copy of the batch.
    unit_q = np.divide(xq, norms, out=np.empty_like(xq), casting="same_kind")
    best: tuple[F32, I64] | None = None
    step = tile_rows(block.x.shape[1])
    scratch = np.empty((min(step, len(block.x)), block.x.shape[1]), np.float32)
    for at in range(0, len(block.x), step):
        rows = block.x[at : at + step]
        scale = (1 / np.sqrt(block.squared_norms[at : at + step], dtype=np.float64)).astype(
            np.float32
        )
        tile = np.multiply(rows, scale[:, None], out=scratch[: len(rows)])
        D, I = engine.knn(unit_q, tile, min(n, len(rows)), similarity=True)
        np.negative(D, out=D)
        I[I >= 0] += at
        best = (D, I) if best is None else _nearest(best, (D, I), n)
    if best is None:
        raise CertificateError("a block without rows was searched")
    return best


def _nearest(a: tuple[F32, I64], b: tuple[F32, I64], n: int) -> tuple[F32, I64]:
    """Keep the `n` smallest of two lists of proposals; whatever is dropped is no smaller."""
    D, I = np.concatenate((a[0], b[0]), 1), np.concatenate((a[1], b[1]), 1)
    if D.shape[1] <= n:
        return D, I
    kept = np.argpartition(D, n - 1, axis=1)[:, :n]
    return np.take_along_axis(D, kept, 1), np.take_along_axis(I, kept, 1)


def _decide(
    block: _Block,
    queries: Queries,
    q: int,
    k: int,
    distances: F32,
    rows: I64,
    keys: F64,
    ids: I64,
) -> bool:
    """Score the proposals of query `q` by D64; True if they prove the k nearest."""
    found = np.sort(rows)
    exact = d64.keys(block.x[found], queries.x[q], block.metric, float(queries.squared_norms[q]))
    _check_error(block, queries, q, distances[np.argsort(rows)], exact, found)
    order = np.argsort(exact, kind="stable")[:k]
    keys[:], ids[:] = exact[order], found[order]
    # A row that FAISS left out has a float32 distance no smaller than its last proposal's.
    outside = float(distances.max()) - _error(block, queries, q, float(keys[-1]))
    return bool(keys[-1] < outside)


def _error(block: _Block, queries: Queries, q: int, key: F64 | float) -> F64 | float:
    """Bound the float32 error of rows of query `q` whose key is at most `key`."""
    d = block.x.shape[1]
    q_norm = float(np.sqrt(queries.squared_norms[q]))
    if block.metric == "l2":
        return bounds.l2_error(d, q_norm, key)  # type: ignore[no-any-return]
    if block.metric == "ip":
        return bounds.ip_error(d, q_norm, block.max_norm)  # type: ignore[no-any-return]
    return bounds.cosine_error(d)


def _check_error(
    block: _Block, queries: Queries, q: int, distances: F32, exact: F64, rows: I64
) -> None:
    """Nothing is taken on trust: each scored pair must lie within the bound that proofs use."""
    error = np.abs(distances - exact)
    bad = np.flatnonzero(~(error <= _error(block, queries, q, exact)))
    if len(bad):
        i = int(bad[0])
        raise CertificateError(
            f"row {rows[i]} of a block of {len(block.x)}, query {q}, {block.metric}: float32 "
            f"distance {distances[i]!r} and D64 {exact[i]!r} differ by more than "
            f"{_error(block, queries, q, exact[i])!r}. The bound or this machine's arithmetic is "
            f"broken; please report it with |q|²={queries.squared_norms[q]!r}, "
            f"largest |x|={block.max_norm!r}, d={block.x.shape[1]}."
        )


def _score_all(block: _Block, queries: Queries, q: int, keys: F64, ids: I64) -> None:
    """Score every row of the block by D64, keeping the nearest."""
    best_keys, best_ids = np.empty(0), np.empty(0, np.int64)
    for at in range(0, len(block.x), SCAN_ROWS):
        rows = block.x[at : at + SCAN_ROWS]
        exact = d64.keys(rows, queries.x[q], block.metric, float(queries.squared_norms[q]))
        best_keys, best_ids = _keep(
            np.concatenate((best_keys, exact)),
            np.concatenate((best_ids, np.arange(at, at + len(rows)))),
            len(keys),
        )
    keys[:], ids[:] = best_keys, best_ids


def _keep(keys: F64, ids: I64, k: int) -> tuple[F64, I64]:
    order = np.lexsort((ids, keys))[:k]
    return keys[order], ids[order]


def _scan(block: _Block, queries: Queries, chosen: I64, keys: F64, ids: I64) -> None:
    """Find every row that could be among the nearest of `chosen` queries, and score it by D64.

    `keys` holds the k nearest of some candidates, so its last is an upper bound of the true
    k-th key; a row can displace it only if its float32 distance is within the error of it. The
    bound on that error holds for NumPy's matrix product as it does for FAISS's.
    """
    best = {int(q): (keys[q].copy(), ids[q].copy()) for q in chosen}
    ceilings = {
        q: float(found[0][-1] + _error(block, queries, q, float(found[0][-1])))
        for q, found in best.items()
    }
    step = scan_rows(block.x.shape[1])
    for at in range(0, len(block.x), step):
        rows = block.x[at : at + step]
        approximate = _float32_keys(block, queries, chosen, at, rows)
        for i, q in enumerate(best):
            # "not greater" keeps what is not a number.
            near = np.flatnonzero(~(approximate[i] > ceilings[q])) + at
            fresh = near[~np.isin(near, best[q][1])]
            for piece in np.split(fresh, range(SCAN_PIECE, len(fresh), SCAN_PIECE)):
                if not len(piece):
                    continue
                exact = d64.keys(
                    block.x[piece], queries.x[q], block.metric, float(queries.squared_norms[q])
                )
                best[q] = _keep(
                    np.concatenate((best[q][0], exact)),
                    np.concatenate((best[q][1], piece)),
                    keys.shape[1],
                )
    for q, found in best.items():
        keys[q], ids[q] = found


def _float32_keys(block: _Block, queries: Queries, chosen: I64, at: int, rows: F32) -> F32:
    """Approximate keys of a tile of rows: (len(chosen), len(rows)) float32."""
    xq = queries.x[chosen]
    norms = block.squared_norms[at : at + len(rows)]
    if block.metric == "cosine":
        xq = (xq / np.sqrt(queries.squared_norms[chosen])[:, None]).astype(np.float32)
        scale = (1 / np.sqrt(norms, dtype=np.float64)).astype(np.float32)
        product: F32 = xq @ (rows * scale[:, None]).T
        return np.negative(product, out=product)
    product = xq @ rows.T
    if block.metric == "ip":
        return np.negative(product, out=product)
    product *= np.float32(-2)
    product += norms + queries.squared_norms[chosen].astype(np.float32)[:, None]
    return product
