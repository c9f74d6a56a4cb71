"""Memory and disk of quantizing, before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from haag_vq.export import export_projection
from haag_vq.groundtruth.precompile import COMPILER_BYTES
from haag_vq.memory import Allowance, Projection, check_fits, format_bytes
from haag_vq.partition import plan_partitions
from haag_vq.quantizing.kernels import PIECE_BYTES
from haag_vq.quantizing.spec import MOST_PER_CENTROID, CodecSpec
from haag_vq.sources import VectorSource
from haag_vq.sources.codec import N_CENTROIDS

DEFAULT_CHUNK_BYTES = 16 << 20
# As many as FAISS's k-means uses.
DEFAULT_TRAIN_ROWS = MOST_PER_CENTROID * N_CENTROIDS


@dataclass(frozen=True, slots=True)
class Quantizing:
    """What is to be quantized, and how."""

    source: VectorSource
    queries: VectorSource | None
    """Kept beside the codes."""
    spec: CodecSpec
    n_train: int
    """As `CodecSpec.train_rows` bounds it."""
    chunk_bytes: int
    n_threads: int

    @property
    def output_bytes(self) -> int:
        """Bytes that are written, without headers."""
        codes = self.source.n_rows * self.spec.code_bytes + self.spec.codec_bytes
        return codes + (self.queries.n_rows * self.queries.dim * 4 if self.queries else 0)

    def projection(self) -> Projection:
        """Project the bytes of the process.

        The queries, the training and the encoding come one after the other: the largest counts.
        """
        source, spec, dim = self.source, self.spec, self.source.dim
        sample = self.n_train * dim * 4
        training = sample + self.n_threads * source.scratch_bytes
        if spec.m:
            training += 2 * sample // spec.m + 16 * self.n_train
        rows = plan_partitions(source.edges, dim * 4, self.chunk_bytes).max_rows
        # Decoded again, and what it is off by, in float64; steps, and whether they are any.
        in_pieces = 5 * max(PIECE_BYTES, dim * 4)
        block = rows * (dim * 4 + spec.code_bytes) + source.scratch_bytes
        work = max(training, self.n_threads * (block + in_pieces))
        if self.queries is not None:
            exporting = export_projection(self.queries, self.chunk_bytes)
            work = max(work, exporting.buffer_bytes + exporting.scratch_bytes)
        compiling = COMPILER_BYTES if spec.m else 0
        return Projection(work, search_bytes=3 * spec.codec_bytes + compiling)

    def check(self, allowance: Allowance) -> Projection:
        """Return the projection; InsufficientMemoryError if it does not fit."""
        projection = self.projection()
        remedy = (
            f"Train on fewer vectors than {self.n_train:,}, or use chunk_size="
            f"{format_bytes(max(1 << 20, self.chunk_bytes // 4))!r} or less, or fewer threads than "
            f"{self.n_threads}."
        )
        check_fits("quantizing", projection, allowance, remedy)
        return projection
