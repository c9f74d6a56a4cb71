"""Codes are those of the nearest centroid or step, whatever the batch."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from haag_vq.quantizing import kernels
from haag_vq.quantizing.kernels import Encoder
from haag_vq.sources.codec import Codec, ProductCodec, ScalarCodec
from haag_vq.sources.protocol import F32
from tests.support.codecs import product_codec, scalar_codec
from tests.support.files import vectors


def encoded(codec: Codec, x: F32) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    codes = np.full((len(x), codec.code_bytes), 77, np.uint8)
    Encoder(codec).encode(x, codes)
    return codes


def decoded(codec: Codec, x: F32) -> F32:
    out = np.empty_like(x)
    codec.decode(encoded(codec, x), out)
    return out


@pytest.mark.parametrize(("m", "sub_dim"), [(1, 1), (3, 5), (4, 16), (2, 33)])
def test_products_are_the_float32_sums_in_order_to_the_bit(m: int, sub_dim: int) -> None:
    codec, x = product_codec(m, sub_dim), vectors(1_100, m * sub_dim)
    found = encoded(codec, x)
    for j in range(m):
        sums = np.zeros((len(x), 256), np.float32)
        for t in range(sub_dim):
            gaps = x[:, j * sub_dim + t, None] - codec.centroids[j, :, t]
            sums += gaps * gaps
        assert_array_equal(found[:, j], sums.argmin(axis=1))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e15])
def test_no_centroid_is_nearer_by_more_than_float32_errs(scale: float) -> None:
    codec, x = product_codec(3, 8), vectors(500, 24) * np.float32(scale)
    codec = ProductCodec(codec.centroids * np.float32(scale))
    codes = encoded(codec, x)
    parts = x.reshape(-1, 3, 1, 8).astype(np.float64)
    exact = np.square(parts - codec.centroids.astype(np.float64)).sum(axis=3)
    taken = np.take_along_axis(exact, codes[:, :, None].astype(int), 2)[:, :, 0]
    # Squares of 1e-30 vanish in float32: there any centroid may be taken.
    least = 1e-45 * 8
    assert (taken <= exact.min(axis=2) * (1 + 1e-5) + least).all()


def test_distances_beyond_float32_lose_to_all_others() -> None:
    centroids = np.full((1, 256, 5), -3e38, np.float32)
    centroids[0, 130] = 3e38
    codec = ProductCodec(centroids)
    assert_array_equal(encoded(codec, np.full((1, 5), 2.9e38, np.float32)), [[0]])  # all beyond
    assert_array_equal(encoded(codec, np.full((1, 5), 3e38, np.float32)), [[130]])


def test_of_equal_centroids_the_first_is_taken() -> None:
    centroids = product_codec(2, 4).centroids
    centroids[:, 200] = centroids[:, 3] = centroids[:, 90]
    x = np.ascontiguousarray(centroids[:, 90].reshape(1, 8))
    assert_array_equal(encoded(ProductCodec(centroids), x), [[3, 3]])


@pytest.mark.parametrize("codec", [product_codec(5, 3), scalar_codec(15, 4)])
@pytest.mark.parametrize("step", [1, 7, 100])
def test_codes_do_not_depend_on_the_batch(
    codec: Codec, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = vectors(300, 15)
    whole = encoded(codec, x)
    monkeypatch.setattr(kernels, "TILE_ROWS", 13)
    monkeypatch.setattr(kernels, "PIECE_BYTES", 700)
    parts = [encoded(codec, x[at : at + step]) for at in range(0, len(x), step)]
    assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("codec", [product_codec(16, 4), scalar_codec(64, 4), scalar_codec(64, 8)])
def test_encoding_takes_no_second_block(codec: Codec) -> None:
    x = vectors(1 << 16, 64)
    encoder, codes = Encoder(codec), np.empty((len(x), codec.code_bytes), np.uint8)
    encoder.encode(x[:1], codes[:1])
    tracemalloc.start()
    try:
        encoder.encode(x, codes)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes // 4


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dim", [1, 6, 7])
def test_scalars_are_off_by_half_a_step_at_most(bits: int, dim: int) -> None:
    x = vectors(400, dim)
    lowest, highest = x.min(axis=0), x.max(axis=0)
    step = ((highest.astype(np.float64) - lowest) / (2**bits - 1)).astype(np.float32)
    codec = ScalarCodec(lowest, step, bits)
    assert codec.code_bytes == -(-dim * bits // 8)
    off = np.abs(decoded(codec, x).astype(np.float64) - x)
    assert (off <= step * 0.5001 + 1e-6).all()
    assert off.max() > 0.3 * step.min()


@pytest.mark.parametrize("bits", [4, 8])
def test_what_lies_outside_is_taken_for_the_end(bits: int) -> None:
    most = 2**bits - 1
    codec = ScalarCodec(np.zeros(3, np.float32), np.array([1, 2, 0], np.float32), bits)
    x = np.array([[-5, 1e30, 9], [1e30, -1e30, -9], [2.4, 5, 0]], np.float32)
    assert_array_equal(decoded(codec, x), [[0, 2 * most, 0], [most, 0, 0], [2, 4, 0]])
