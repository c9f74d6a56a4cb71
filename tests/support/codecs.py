"""Codecs that nobody trained."""

from __future__ import annotations

import numpy as np

from haag_vq.sources.codec import ProductCodec, ScalarCodec
from tests.support.files import vectors


def product_codec(m: int, sub_dim: int) -> ProductCodec:
    """`m` sub-quantizers of `sub_dim` dimensions each."""
    return ProductCodec(vectors(m * 256, sub_dim, seed=9).reshape(m, 256, sub_dim))


def scalar_codec(dim: int, bits: int) -> ScalarCodec:
    """Steps of any sizes."""
    lowest, step = np.abs(vectors(2, dim))
    return ScalarCodec(lowest, step, bits)
