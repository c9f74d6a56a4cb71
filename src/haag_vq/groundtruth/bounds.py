"""How far a float32 distance can be from the exact one: proven, not observed.

With u = 2⁻²⁴ and γₙ = nu/(1 − nu), a float32 sum of n products errs, in any order of summation,
any blocking and with or without fused multiply-adds, by at most γₙ Σ|xᵢqᵢ| ≤ γₙ‖x‖‖q‖ (Higham,
Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1). Underflow, gradual or flushed to
zero, adds at most 2⁻¹²⁶ an operation, of which l2 has 4d and, counted twice, the product's 2d;
components that are themselves flushed add 2⁻¹²⁶√d(‖x‖ + ‖q‖) to a product. From this:

- inner product: γ_d ‖x‖‖q‖;
- squared l2 by ‖x‖² + ‖q‖² − 2x·q: γ_d(‖x‖² + ‖q‖² + 2‖x‖‖q‖) and two more roundings, so
  γ_{d+2}(‖x‖ + ‖q‖)²; clipping at 0 brings it nearer, and so does ‖q‖² in float64; the direct
  sum of (xᵢ − qᵢ)² is better;
- cosine by the inner product of float32-normalized vectors: the squared norm errs by γ_d, its
  root by half of that, the reciprocal, its rounding and the product by 3u, the query's by 2u,
  and the product of the two vectors, no longer than 1 + γ_{d/2+5} each, by γ_d: γ_{2d+16} in all.
  Where the row is scaled after the product and not before, the same steps come in another order;
  what underflows in a product of rows no shorter than 2⁻⁴⁰ is then scaled up by at most 2⁴⁰.

Products of h leading dimensions plus the product of the rests' norms (`partial`) are no further
below x·q than that: the leading part errs by γ_h‖x‖‖q‖; multiplying the norms, which are rounded
up, and adding them takes two roundings, so γ_{h+3}‖x‖‖q‖ or less in all; and h is at most d − 3.

Each gets 2⁻⁴⁰ of its scale on top, which is far more than D64's own distance from the exact
value (about (log₂d + 4)·2⁻⁵³), so that the bounds hold between float32 and D64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

F64 = NDArray[np.float64]

U32 = 2.0**-24
UNDERFLOW = 2.0**-125
D64_SLACK = 2.0**-40

# More than the few roundings, of 2⁻⁵³ each, with which a bound itself is computed.
ROUNDING = 2.0**-48

# Float32 arithmetic overflows beyond these; such (rows, query) pairs go to D64 at once.
L2_LIMIT = 2.0**126
IP_LIMIT = 2.0**126
COSINE_NORM_RANGE = (2.0**-40, 2.0**40)


# The compiled search and its tests call the same functions.
@register_jitable
def gamma(n: int) -> Any:
    """γₙ for float32."""
    return n * U32 / (1 - n * U32)


@register_jitable
def l2_error(d: int, q_norm: Any, distance: Any) -> Any:
    """Bound |D̂ − D| over all rows whose squared distance to the query is at most `distance`.

    Such a row has ‖x‖ ≤ ‖q‖ + √distance: far outliers do not loosen the bound of near rows.
    """
    reach = 2 * q_norm + np.sqrt(distance)
    return (gamma(d + 2) + D64_SLACK) * reach**2 + UNDERFLOW * (4 * d + 2 + np.sqrt(d) * reach)


@register_jitable
def l2_ceiling(d: int, q_norm: Any, approximate: Any) -> Any:
    """Bound D of a row from above, from its float32 distance: solves D − l2_error(D) = D̂.

    With s = √D and r = 2‖q‖ + s ≤ 1 + r² the error is at most g·r² + c, so that
    (1 − g)s² − 4g‖q‖s − (4g‖q‖² + D̂ + c) ≤ 0: s is no larger than that polynomial's root.
    D̂ may be about −4g‖q‖²: what the two round to must not outweigh their small sum.
    """
    g = gamma(d + 2) + D64_SLACK + UNDERFLOW * np.sqrt(d)
    c = UNDERFLOW * (4 * d + 2 + np.sqrt(d))
    b = 2 * g * q_norm
    rest = np.maximum(4 * g * q_norm**2 * (1 + ROUNDING) + approximate + c, 0.0)
    root = (b + np.sqrt(b**2 + (1 - g) * rest)) / (1 - g)
    return root**2 * (1 + D64_SLACK)


@register_jitable
def ip_error(d: int, q_norm: Any, x_norm: Any) -> Any:
    """Bound |fl(x·q) − x·q| over all rows no longer than `x_norm`."""
    scale = q_norm * x_norm
    return (gamma(d) + D64_SLACK) * scale + UNDERFLOW * (d + np.sqrt(d) * (q_norm + x_norm))


@register_jitable
def cosine_error(d: int) -> Any:
    """Bound the error of a cosine computed from float32-normalized vectors."""
    return gamma(2 * d + 16) + D64_SLACK + UNDERFLOW * 2.0**41 * 4 * d


@register_jitable
def norm_ceiling(d: int, squared_norm: Any) -> Any:
    """Smallest proven upper bound of ‖x‖ from its squared norm summed in float32."""
    return np.sqrt(squared_norm * (1 + 2 * gamma(d + 2)) + d * UNDERFLOW)
