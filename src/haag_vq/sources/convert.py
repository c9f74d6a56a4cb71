"""Stored values to float32, into memory that is there already."""

from __future__ import annotations

import numpy as np

from haag_vq.sources.protocol import F32, AnyArray

# No finite float16 is as large.
HALF_LIMIT = 65536.0

# float32 bytes that the four steps of a half's conversion take through the L2 cache at a time.
PIECE_BYTES = 2 << 20


def to_float32(values: AnyArray, out: F32) -> None:
    """Fill `out` (n, d) float32, C-contiguous, with `values` (n, d), rounding float64 to nearest.

    A float64 beyond float32's range becomes infinity, which the caller's check reports.
    """
    if values.dtype == np.float16 and values.dtype.isnative and _keeps_subnormals():
        step = max(1, PIECE_BYTES // (4 * max(1, out.shape[1])))
        for at in range(0, len(out), step):
            _half_to_float32(values[at : at + step], out[at : at + step])
        return
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(out, values, casting="same_kind")


def _half_to_float32(values: AnyArray, out: F32) -> None:
    """Convert float16 in four vectorized steps: 3 to 5 times as fast as NumPy's cast (measured).

    Both formats hold sign, exponent, fraction; shifted by 13 the fields of one lie where the
    other has them, and the exponent is 112 too small: every finite float16, subnormal or not,
    comes out exactly after a multiplication by 2**112. Memory: none; in place.
    """
    bits = out.view(np.int32)
    np.copyto(bits, values.view(np.int16))  # widening repeats the sign in bits 15–31
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(-0x70002000), out=bits)  # sign, 5 of exponent, 10 of fraction
    np.multiply(out, np.float32(2.0**112), out=out)
    # float16's infinity and NaN have become numbers that it cannot hold: convert them as such.
    if out.size and (out.max() >= HALF_LIMIT or out.min() <= -HALF_LIMIT):
        np.copyto(out, values)


def _keeps_subnormals() -> bool:
    """Tell whether this thread computes with subnormal numbers.

    A library compiled with ``-ffast-math`` can make the processor take them for zero.
    """
    least = np.full(1, 1, np.int32).view(np.float32)
    return bool((least * np.float32(2.0**112))[0] > 0)
