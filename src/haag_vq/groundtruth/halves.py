"""float16 to float32, compiled: the bits of `sources.convert`'s own way in one pass, not six.

Rows of 1,024 are read from the page cache and converted by one thread in 1.05 µs each, as against
1.56; reading, and copying as many float32, take 0.95 (measured).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth.compiled import compiled
from haag_vq.sources import convert

F32 = NDArray[np.float32]
I16 = NDArray[np.int16]

# Values that go through both steps while they are in the first-level cache.
_STRIP = 1024


@compiled
def from_halves(halves: I16, out: F32) -> bool:
    """Fill `out` (n,) with float16 numbers, given by their bits (n,), both contiguous.

    Returns whether all are finite; if not, what `out` holds is of no use.
    """
    bits = out.view(np.int32)
    largest = 0
    for at in range(0, halves.shape[0], _STRIP):
        stored = halves[at : at + _STRIP]
        shifted, numbers = bits[at : at + _STRIP], out[at : at + _STRIP]
        for j in range(stored.shape[0]):
            wide = np.int32(stored[j])
            largest = max(largest, int(wide & np.int32(convert.MAGNITUDE)))
            shifted[j] = (wide << np.int32(convert.SHIFT)) & np.int32(convert.FIELDS)
        for j in range(stored.shape[0]):
            numbers[j] *= np.float32(convert.SCALE)
    return largest < convert.INFINITE


def use() -> None:
    """Have this process convert so from now on: one that searches, and has compiled code loaded."""
    convert.use_for_halves(from_halves)
