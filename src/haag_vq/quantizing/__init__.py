"""Batch quantization: train a codec on a sample, encode by blocks, read what codes stand for."""

from haag_vq.quantizing.needs import DEFAULT_CHUNK_BYTES, DEFAULT_TRAIN_ROWS, Quantizing
from haag_vq.quantizing.run import QuantizeReport, quantize
from haag_vq.quantizing.spec import CodecSpec

__all__ = [
    "DEFAULT_CHUNK_BYTES",
    "DEFAULT_TRAIN_ROWS",
    "CodecSpec",
    "QuantizeReport",
    "Quantizing",
    "quantize",
]
