"""Selecting and sorting a query's candidates, compiled.

NumPy's partition and argsort would do, but take Numba eight seconds to compile, of eighteen for the
whole search (measured).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth.compiled import compiled

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


@compiled
def kth_smallest(values: F64, k: int) -> float:
    """Return the k-th smallest (from 1) of values that are numbers; they are reordered.

    Quickselect with the median of three (Hoare's partition).
    """
    low, high, wanted = 0, values.shape[0] - 1, k - 1
    while low < high:
        a, b, c = values[low], values[(low + high) // 2], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            break
    return values[wanted]  # type: ignore[no-any-return]


@compiled
def sort_descending(values: F32, rows: I32, n: int) -> None:
    """Sort the first `n` values from the largest on, with their rows; NaN lie anywhere.

    Shellsort with gaps of 3g + 1: a few hundred elements, mostly.
    """
    gap = 1
    while 3 * gap + 1 < n:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, n):
            value, row, j = values[i], rows[i], i
            while j >= gap and values[j - gap] < value:
                values[j], rows[j] = values[j - gap], rows[j - gap]
                j -= gap
            values[j], rows[j] = value, row
        gap //= 3
