"""Encoding: float32 vectors to the codes that stand nearest to them.

Sums are taken in the order that is written, so that codes do not depend on the machine, the batch
or the threads.
"""

from __future__ import annotations

import numpy as np

from haag_vq.groundtruth.compiled import compiled
from haag_vq.sources.codec import U8, Codec, ProductCodec, ScalarCodec
from haag_vq.sources.protocol import F32

# Rows whose codes are looked for in one table before the next is taken. A table of 16 dimensions,
# 16 KiB, stays in the L1 cache meanwhile.
TILE_ROWS = 512

# Rows are encoded in steps, and measured, in pieces of this many float32 bytes.
PIECE_BYTES = 1 << 20


class Encoder:
    """Encodes by one codec; for several threads.

    Parameters
    ----------
    codec : Codec

    Notes
    -----
    Memory: a copy of a product codec's centroids; 1.3 MiB a call for a scalar codec.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        if isinstance(codec, ProductCodec):
            # By dimension: a dimension's 256 values lie side by side, and are gone through at once.
            self._tables = np.ascontiguousarray(codec.centroids.transpose(0, 2, 1))

    def encode(self, x: F32, codes: U8) -> None:
        """Fill `codes` (n, code_bytes) with the codes of `x` (n, dim), finite."""
        if isinstance(self._codec, ScalarCodec):
            step = max(1, PIECE_BYTES // (4 * self._codec.dim))
            for at in range(0, len(x), step):
                _encode_scalars(self._codec, x[at : at + step], codes[at : at + step])
            return
        for at in range(0, len(x), TILE_ROWS):
            _encode_products(x[at : at + TILE_ROWS], self._tables, codes[at : at + TILE_ROWS])


def _encode_scalars(codec: ScalarCodec, x: F32, codes: U8) -> None:
    with np.errstate(over="ignore"):  # beyond float32 is beyond the last step
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
    # No distance is negative or NaN, so that they are in the order of their bits, and the least of
    # integers is found many at a time.
    bits = distances.view(np.int32)
    fours = sub_dim - sub_dim % 4
    for j in range(m):
        table = tables[j]
        for i in range(x.shape[0]):
            part = x[i, j * sub_dim : (j + 1) * sub_dim]
            distances[:] = 0
            # Four dimensions in one go over the distances, added in their order.
            for t in range(0, fours, 4):
                v0, v1, v2, v3 = part[t], part[t + 1], part[t + 2], part[t + 3]
                row0, row1, row2, row3 = table[t], table[t + 1], table[t + 2], table[t + 3]
                for c in range(n_centroids):
                    gap0, gap1, gap2, gap3 = v0 - row0[c], v1 - row1[c], v2 - row2[c], v3 - row3[c]
                    total = distances[c] + gap0 * gap0 + gap1 * gap1
                    distances[c] = total + gap2 * gap2 + gap3 * gap3
            for t in range(fours, sub_dim):
                value, row = part[t], table[t]
                for c in range(n_centroids):
                    gap = value - row[c]
                    distances[c] += gap * gap
            least = bits[0]
            for c in range(1, n_centroids):
                least = min(least, bits[c])
            best = 0
            while bits[best] != least:
                best += 1
            codes[i, j] = best
