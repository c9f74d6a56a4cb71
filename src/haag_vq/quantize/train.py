"""Training a codec on a sample of the vectors."""

from __future__ import annotations

import numpy as np

from haag_vq.groundtruth import engine
from haag_vq.quantize.spec import CodecSpec
from haag_vq.sources.codec import N_CENTROIDS, Codec, ProductCodec, ScalarCodec
from haag_vq.sources.protocol import F32


def train(spec: CodecSpec, x: F32, n_threads: int) -> Codec:
    """Train a codec on `x` (n, dim) float32, finite, n at least ``spec.least_rows``.

    Returns
    -------
    Codec
        A scalar codec's range is that of each dimension in the sample: what lies outside is taken
        for its end. A product codec's centroids are FAISS's k-means of each run of dimensions
        (25 rounds from a fixed seed); their bits are the machine's, and so are kept with the codes.

    Notes
    -----
    Memory: for a product codec one run of dimensions of the sample, twice.
    """
    if spec.bits:
        lowest, highest = x.min(axis=0), x.max(axis=0)
        step = (highest.astype(np.float64) - lowest) / (2**spec.bits - 1)
        return ScalarCodec(lowest, step.astype(np.float32), spec.bits)
    quantizer = engine.faiss.ProductQuantizer(spec.dim, spec.m, 8)
    quantizer.cp.min_points_per_centroid = 1  # it would complain on standard error, unasked
    engine.use_threads(n_threads)
    quantizer.train(x)
    found = engine.faiss.vector_to_array(quantizer.centroids)
    return ProductCodec(found.reshape(spec.m, N_CENTROIDS, spec.dim // spec.m))
