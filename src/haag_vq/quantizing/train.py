"""Training a codec on a sample of the vectors."""

from __future__ import annotations

import numpy as np

from haag_vq.errors import DataError
from haag_vq.groundtruth import engine
from haag_vq.quantizing.spec import CodecSpec
from haag_vq.sources.codec import N_CENTROIDS, Codec, ProductCodec, ScalarCodec
from haag_vq.sources.protocol import F32

# Of the largest and the smallest sizes that a product codec is trained on: their squares, and sums
# of these, are still float32's.
LARGEST, SMALLEST = 1e15, 1e-15


def train(spec: CodecSpec, x: F32, n_threads: int) -> Codec:
    """Train a codec on `x` (n, dim) float32, finite, n at least ``spec.least_rows``.

    `x` is consumed.

    Returns
    -------
    Codec
        A scalar codec's range is that of each dimension in the sample: what lies outside is taken
        for its end. A product codec's centroids are FAISS's k-means of each run of dimensions
        (25 rounds from a fixed seed); their bits are the machine's, and so are kept with the codes.

    Raises
    ------
    DataError
        If the values are too large or too small for the codec.

    Notes
    -----
    Memory: for a product codec one run of dimensions of the sample, twice.
    """
    return _scalar(spec, x) if spec.bits else _product(spec, x, n_threads)


def _scalar(spec: CodecSpec, x: F32) -> ScalarCodec:
    lowest, highest = x.min(axis=0), x.max(axis=0)
    most = 2**spec.bits - 1
    with np.errstate(over="ignore"):
        step = ((highest.astype(np.float64) - lowest) / most).astype(np.float32)
        ends = np.array([highest - lowest, step * np.float32(most)])
    if not np.isfinite(ends).all():
        raise DataError(
            f"values from {lowest.min():.3g} to {highest.max():.3g} are too far apart to be kept "
            "in steps of float32. Scale the vectors."
        )
    return ScalarCodec(lowest, step, spec.bits)


def _product(spec: CodecSpec, x: F32, n_threads: int) -> ProductCodec:
    largest = max(abs(float(x.min())), abs(float(x.max())))
    if largest and not SMALLEST <= largest <= LARGEST:
        raise DataError(
            f"values of up to {largest:.3g}: a product codec is trained on values whose largest is "
            f"between {SMALLEST:g} and {LARGEST:g}, so that squares are float32's. Scale the "
            "vectors, or take SQ8."
        )
    # About the middle of each dimension: FAISS expands squares, and would lose small differences
    # of large values.
    middle = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    np.subtract(x, middle, out=x)
    quantizer = engine.faiss.ProductQuantizer(spec.dim, spec.m, 8)
    quantizer.cp.min_points_per_centroid = 1  # it would complain on standard error, unasked
    engine.use_threads(n_threads)
    quantizer.train(x)
    sub_dim = spec.dim // spec.m
    centroids = engine.faiss.vector_to_array(quantizer.centroids)
    centroids = centroids.reshape(spec.m, N_CENTROIDS, sub_dim)
    return ProductCodec(centroids + middle.reshape(spec.m, 1, sub_dim))
