"""Merging sorted lists of neighbours, compiled: each list is gone through once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth.compiled import compiled

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


@compiled
def merge(
    a_keys: F64,
    a_ids: I64,
    a_hashes: U64,
    b_keys: F64,
    b_ids: I64,
    b_hashes: U64,
    keys: F64,
    ids: I64,
    hashes: U64,
) -> None:
    """Merge two lists a query by (key, id) into the third, as far as it goes.

    Each is (nq, w) of its own w; an id of -1 ends a list, and fills up the result with key +inf.
    """
    for q in range(keys.shape[0]):
        i, j = 0, 0
        for out in range(keys.shape[1]):
            has_a = i < a_keys.shape[1] and a_ids[q, i] >= 0
            has_b = j < b_keys.shape[1] and b_ids[q, j] >= 0
            if has_a and (
                not has_b
                or a_keys[q, i] < b_keys[q, j]
                or (a_keys[q, i] == b_keys[q, j] and a_ids[q, i] <= b_ids[q, j])
            ):
                keys[q, out], ids[q, out] = a_keys[q, i], a_ids[q, i]
                hashes[q, out] = a_hashes[q, i]
                i += 1
            elif has_b:
                keys[q, out], ids[q, out] = b_keys[q, j], b_ids[q, j]
                hashes[q, out] = b_hashes[q, j]
                j += 1
            else:
                keys[q, out], ids[q, out], hashes[q, out] = np.inf, -1, 0
