"""Quantizing a set: one process trains a codec and encodes by blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from haag_vq.partition import plan_partitions
from haag_vq.planning.jobs import halves, refusal_of, word, work_of
from haag_vq.planning.need import Disk, Job, Need
from haag_vq.planning.sites import Site
from haag_vq.quantizing import CodecSpec, Quantizing
from haag_vq.sources import VectorSource

# FAISS's k-means goes so often through its sample.
N_ROUNDS = 25
# Finding the least of 256 distances takes as long as adding so many dimensions to them; rates are
# measured at 16 dimensions a byte (1 to 511 dimensions: within 10%).
LEAST_DIMS, CALIBRATED_DIMS = 8, 16


@dataclass(frozen=True, slots=True)
class QuantizeJob:
    """`haag-vq quantize`."""

    source: VectorSource
    queries: VectorSource | None
    codec: str
    n_train: int
    chunk_bytes: int
    name: str = "quantize"
    is_parallel: bool = False
    resumes: bool = False

    def need(self, site: Site) -> Need:
        """Memory of the sample or of a block for each core, disk of the codes."""
        source, asked = self.source, self._asked(site)
        plan = plan_partitions(source.edges, source.dim * 4, self.chunk_bytes)
        n_values = 0
        if asked.spec.m:
            rows = source.n_rows + N_ROUNDS * asked.n_train
            sub_dim = source.dim // asked.spec.m
            slower = (1 + LEAST_DIMS / sub_dim) / (1 + LEAST_DIMS / CALIBRATED_DIMS)
            n_values = int(rows * source.dim * slower)
        return Need(
            asked.projection(),
            refusal_of(lambda: asked.check(site.allowance)),
            len(plan),
            plan.max_rows,
            Disk(output_bytes=asked.output_bytes),
            replace(work_of(source, asked.output_bytes), n_encoded_values=n_values),
        )

    def alternatives(self, site: Site) -> Iterator[tuple[str, Job, Site]]:
        """Smaller blocks, then with them a smaller sample, as long as it is worth training on."""
        for chunk in halves(self.chunk_bytes, self.source.dim * 4):
            yield f"--chunk-size {word(chunk)}", replace(self, chunk_bytes=chunk), site
        spec, n_train = self._asked(site).spec, self.n_train // 2
        while n_train >= spec.few_rows:
            for chunk in (self.chunk_bytes, *halves(self.chunk_bytes, self.source.dim * 4)):
                smaller = replace(self, n_train=n_train, chunk_bytes=chunk)
                yield f"--train {n_train} --chunk-size {word(chunk)}", smaller, site
            n_train //= 2

    def _asked(self, site: Site) -> Quantizing:
        spec = CodecSpec.parse(self.codec, self.source.dim)
        n_train = spec.train_rows(self.n_train, self.source.n_rows)
        return Quantizing(self.source, self.queries, spec, n_train, self.chunk_bytes, site.cores)
