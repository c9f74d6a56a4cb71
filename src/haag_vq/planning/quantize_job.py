"""Quantizing a set: one process trains a codec and encodes by blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from haag_vq.partition import plan_partitions
from haag_vq.planning.jobs import halves, refusal_of, word, work_of
from haag_vq.planning.need import Disk, Job, Need
from haag_vq.planning.sites import Site
from haag_vq.quantize import CodecSpec, check_quantizing, quantize_projection
from haag_vq.sources import VectorSource

# FAISS's k-means goes so often through its sample.
N_ROUNDS = 25


@dataclass(frozen=True, slots=True)
class QuantizeJob:
    """`haag-vq quantize`."""

    source: VectorSource
    codec: str
    n_train: int
    chunk_bytes: int
    name: str = "quantize"
    is_parallel: bool = False
    resumes: bool = False

    def need(self, site: Site) -> Need:
        """Memory of the sample or of a block for each core, disk of the codes."""
        source, spec = self.source, CodecSpec.parse(self.codec, self.source.dim)
        n_train = min(self.n_train, source.n_rows)
        plan = plan_partitions(source.edges, source.dim * 4, self.chunk_bytes)
        asked = source, spec, n_train, self.chunk_bytes, site.cores
        size = source.n_rows * spec.code_bytes + spec.codec_bytes
        rounds = (source.n_rows + N_ROUNDS * n_train) if spec.m else 0
        return Need(
            quantize_projection(*asked),
            refusal_of(lambda: check_quantizing(*asked, site.allowance)),
            len(plan),
            plan.max_rows,
            Disk(output_bytes=size),
            replace(work_of(source, size), n_encoded_values=rounds * source.dim),
        )

    def alternatives(self, site: Site) -> Iterator[tuple[str, Job, Site]]:
        """A smaller sample, smaller blocks."""
        least = CodecSpec.parse(self.codec, self.source.dim).least_rows
        n_train = self.n_train // 2
        while n_train >= least:
            yield f"--train {n_train}", replace(self, n_train=n_train), site
            n_train //= 2
        for chunk in halves(self.chunk_bytes, self.source.dim * 4):
            smaller = replace(self, n_train=least, chunk_bytes=chunk)
            yield f"--train {least} --chunk-size {word(chunk)}", smaller, site
