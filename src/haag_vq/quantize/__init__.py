"""Batch quantization: train a codec on a sample, encode by blocks, read what codes stand for."""

from haag_vq.quantize.needs import (
    DEFAULT_CHUNK_BYTES,
    DEFAULT_TRAIN_ROWS,
    check_quantizing,
    quantize_projection,
)
from haag_vq.quantize.quantizing import QuantizeReport, quantize
from haag_vq.quantize.spec import CodecSpec

__all__ = [
    "DEFAULT_CHUNK_BYTES",
    "DEFAULT_TRAIN_ROWS",
    "CodecSpec",
    "QuantizeReport",
    "check_quantizing",
    "quantize",
    "quantize_projection",
]
