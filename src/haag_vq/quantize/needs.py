"""Memory and disk of quantizing, before it begins."""

from __future__ import annotations

from haag_vq.groundtruth.precompile import COMPILER_BYTES
from haag_vq.memory import Allowance, Projection, check_fits, format_bytes
from haag_vq.partition import plan_partitions
from haag_vq.quantize.spec import CodecSpec
from haag_vq.sources import VectorSource

DEFAULT_CHUNK_BYTES = 16 << 20
# FAISS's k-means takes 256 vectors a centroid, and would drop the others.
DEFAULT_TRAIN_ROWS = 65_536

# Rows are encoded and measured in pieces of this many float32 bytes.
PIECE_BYTES = 1 << 20


def quantize_projection(
    source: VectorSource, spec: CodecSpec, n_train: int, chunk_bytes: int, n_threads: int
) -> Projection:
    """Projected bytes of a process that trains a codec and encodes a set.

    Training and encoding come one after the other: the larger of the two counts.
    """
    sample = n_train * source.dim * 4
    training = sample + n_threads * source.scratch_bytes
    if spec.m:
        training += 2 * sample // spec.m + 16 * n_train
    rows = plan_partitions(source.edges, source.dim * 4, chunk_bytes).max_rows
    block = rows * (source.dim * 4 + spec.code_bytes)
    # Decoded again, and what it is off by, in float64.
    encoding = n_threads * (block + source.scratch_bytes + 5 * PIECE_BYTES)
    work = max(training, encoding)
    compiling = COMPILER_BYTES if spec.m else 0
    return Projection(work, search_bytes=3 * spec.codec_bytes + compiling)


def check_quantizing(
    source: VectorSource,
    spec: CodecSpec,
    n_train: int,
    chunk_bytes: int,
    n_threads: int,
    allowance: Allowance,
) -> Projection:
    """Return the projection of quantizing; InsufficientMemoryError if it does not fit."""
    projection = quantize_projection(source, spec, n_train, chunk_bytes, n_threads)
    remedy = (
        f"Train on fewer vectors than {n_train:,}, or use chunk_size="
        f"{format_bytes(chunk_bytes // 4)!r} or less."
    )
    check_fits("quantizing", projection, allowance, remedy)
    return projection
