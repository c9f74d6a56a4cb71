"""Made-up parts and questions, for tests of what is kept on disk."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth.manifest import Manifest
from haag_vq.groundtruth.part import Part, Tally

F32 = NDArray[np.float32]


def made_part(nq: int = 3, width: int = 4, n_rows: int = 10, seed: int = 0) -> Part:
    """A part with lists of every length up to `width`, some of them pruned."""
    rng = np.random.default_rng([seed, nq, width, n_rows])
    real = np.arange(width) < rng.integers(0, width + 1, nq)[:, None]
    keys = np.where(real, np.sort(rng.standard_normal((nq, width)), axis=1), np.inf)
    ids = np.where(real, rng.integers(0, 1 << 62, (nq, width)), -1)
    hashes = np.where(real, rng.integers(0, 1 << 64, (nq, width), np.uint64), np.uint64(0))
    frontier = np.where(rng.random(nq) < 0.5, np.inf, rng.standard_normal(nq))
    frontier_ids = rng.choice([-1, 5, np.iinfo(np.int64).max], nq)
    return Part(keys, ids, hashes, frontier, frontier_ids, n_rows, Tally(7, 1, 0.25))


def same_part(a: Part, b: Part) -> bool:
    """Whether two parts have the same entries, frontiers and counts, to the bit.

    Lists may be padded to different lengths.
    """
    if (a.n_rows, a.tally) != (b.n_rows, b.tally):
        return False
    if not np.array_equal((a.ids >= 0).sum(axis=1), (b.ids >= 0).sum(axis=1)):
        return False
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = [
        (a.frontier, b.frontier),
        (a.frontier_ids, b.frontier_ids),
        *(
            (getattr(a, n)[a.ids >= 0], getattr(b, n)[b.ids >= 0])
            for n in ("keys", "ids", "hashes")
        ),
    ]
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)


def queries(nq: int = 3, dim: int = 5, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal((nq, dim)).astype(np.float32)


def question(xq: F32 | None = None, **changed: Any) -> Manifest:
    """What a checkpoint of `xq` is of, with some of its fields changed."""
    xq = queries() if xq is None else xq
    fields: dict[str, Any] = {
        "metric": "l2",
        "k": 2,
        "width": 4,
        "dim": xq.shape[1],
        "n_queries": len(xq),
        "queries_sha256": hashlib.sha256(xq.data).hexdigest(),
        "cuts": (100,),
        "base_fingerprint": "base of 100",
    }
    return Manifest(**{**fields, **changed})
