"""Encoding: float32 vectors to the codes that stand nearest to them.

Sums are taken in the order that is written, so that codes do not depend on the machine, the batch
or the threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth.compiled import compiled
from haag_vq.sources.codec import Codec, ProductCodec, ScalarCodec
from haag_vq.sources.protocol import F32

U8 = NDArray[np.uint8]

# Rows whose codes are looked for in one table before the next is taken. A table of 16 dimensions,
# 16 KiB, stays in the L1 cache meanwhile.
TILE_ROWS = 512


class Encoder:
    """Encodes by one codec; for several threads.

    Parameters
    ----------
    codec : Codec

    Notes
    -----
    Memory: a copy of a product codec's centroids.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        if isinstance(codec, ProductCodec):
            # By dimension: a dimension's 256 values lie side by side, and are gone through at once.
            self._tables = np.ascontiguousarray(codec.centroids.transpose(0, 2, 1))

    def encode(self, x: F32, codes: U8) -> None:
        """Fill `codes` (n, code_bytes) with the codes of `x` (n, dim), finite."""
        if isinstance(self._codec, ScalarCodec):
            _encode_scalars(self._codec, x, codes)
            return
        for at in range(0, len(x), TILE_ROWS):
            _encode_products(x[at : at + TILE_ROWS], self._tables, codes[at : at + TILE_ROWS])


def _encode_scalars(codec: ScalarCodec, x: F32, codes: U8) -> None:
    steps = np.subtract(x, codec.lowest)
    # A dimension that was constant in training has no steps: it is code 0.
    np.divide(steps, codec.step, out=steps, where=codec.step > 0)
    steps[:, codec.step <= 0] = 0
    np.rint(steps, out=steps)
    np.clip(steps, 0, 2**codec.bits - 1, out=steps)
    if codec.bits == 8:
        np.copyto(codes, steps, casting="unsafe")
        return
    whole = steps.astype(np.uint8)
    codes[:] = whole[:, 0::2]
    codes[:, : codec.dim // 2] |= whole[:, 1::2] << 4


@compiled
def _encode_products(x: F32, tables: F32, codes: U8) -> None:
    """Find the nearest centroid of each run of dimensions; of equally near ones the first."""
    m, sub_dim, n_centroids = tables.shape
    distances = np.empty(n_centroids, np.float32)
    for j in range(m):
        table = tables[j]
        for i in range(x.shape[0]):
            distances[:] = 0
            for t in range(sub_dim):
                value = x[i, j * sub_dim + t]
                row = table[t]
                for c in range(n_centroids):
                    gap = value - row[c]
                    distances[c] += gap * gap
            best = 0
            for c in range(1, n_centroids):
                if distances[c] < distances[best]:
                    best = c
            codes[i, j] = best
