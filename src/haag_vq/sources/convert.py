"""Stored values to float32, into memory that is there already."""

from __future__ import annotations

import numpy as np

from haag_vq.sources.protocol import F32, AnyArray

# A float16's bits, as an integer: those of infinity and NaN are no smaller, of either sign.
_INFINITE = 0x7C00
_MINUS_INFINITE = 0xFC00

# float32 bytes that the four steps of a half's conversion take through the L2 cache at a time.
PIECE_BYTES = 2 << 20


def to_float32(values: AnyArray, out: F32) -> bool:
    """Fill `out` (n, d) float32, C-contiguous, with `values` (n, d), rounding float64 to nearest.

    A float64 beyond float32's range becomes infinity, which the caller's check reports.

    Returns
    -------
    bool
        Whether the conversion has shown that all are finite: the caller need not look.
    """
    if values.dtype == np.float16 and values.dtype.isnative and _keeps_subnormals():
        step = max(1, PIECE_BYTES // (4 * max(1, out.shape[1])))
        finite = True
        for at in range(0, len(out), step):
            finite &= _half_to_float32(values[at : at + step], out[at : at + step])
        return finite
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(out, values, casting="same_kind")
    return False


def _half_to_float32(values: AnyArray, out: F32) -> bool:
    """Convert float16 in four vectorized steps: 4 to 5 times as fast as NumPy's cast (measured).

    Both formats hold sign, exponent, fraction; shifted by 13 the fields of one lie where the
    other has them, and the exponent is 112 too small: every finite float16, subnormal or not,
    comes out exactly after a multiplication by 2**112. Memory: none; in place.

    Returns whether all are finite. They are looked at as they are stored, in half the bytes.
    """
    halves = values.view(np.int16)
    if not out.size:
        return True
    if halves.max() >= _INFINITE or values.view(np.uint16).max() >= _MINUS_INFINITE:
        np.copyto(out, values)
        return False
    bits = out.view(np.int32)
    np.copyto(bits, halves)  # widening repeats the sign in bits 15–31
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(-0x70002000), out=bits)  # sign, 5 of exponent, 10 of fraction
    np.multiply(out, np.float32(2.0**112), out=out)
    return True


def _keeps_subnormals() -> bool:
    """Tell whether this thread computes with subnormal numbers.

    A library compiled with ``-ffast-math`` can make the processor take them for zero.
    """
    least = np.full(1, 1, np.int32).view(np.float32)
    return bool((least * np.float32(2.0**112))[0] > 0)
