"""Names of codecs, in the words of FAISS's index factory."""

from __future__ import annotations

import re
from dataclasses import dataclass

from haag_vq.errors import UsageError
from haag_vq.sources.codec import N_CENTROIDS

_PATTERN = re.compile(r"SQ(?P<bits>4|8)|PQ(?P<m>[1-9]\d{0,8})")

# Fewer vectors to train on are told, of a set that has more: FAISS wants 39 a centroid, and the
# ends of a range are seldom among a few.
FEW_PER_CENTROID, FEW_ROWS = 39, 1_000
# FAISS's k-means takes 256 vectors a centroid, and drops the others.
MOST_PER_CENTROID = 256


@dataclass(frozen=True, slots=True)
class CodecSpec:
    """A codec that is to be trained for vectors of one dimension."""

    dim: int
    bits: int = 0
    """Of a dimension, of a scalar codec."""
    m: int = 0
    """Sub-quantizers of a product codec, a byte each."""

    @classmethod
    def parse(cls, name: str, dim: int) -> CodecSpec:
        """Parse ``SQ8``, ``SQ4`` or ``PQ96``.

        Raises
        ------
        UsageError
            If it is none of these, or m does not divide the dimension.
        """
        found = _PATTERN.fullmatch(name)
        if found is None:
            raise UsageError(
                f"codec {name!r} is none of SQ8, SQ4 and PQm: m sub-quantizers of a byte each, "
                "as PQ96."
            )
        if found["bits"]:
            return cls(dim, bits=int(found["bits"]))
        m = int(found["m"])
        if dim % m:
            fitting = [n for n in range(1, dim + 1) if not dim % n]
            near = sorted(fitting, key=lambda n: abs(n - m))[:4]
            raise UsageError(
                f"codec {name!r}: {m:,} sub-quantizers do not divide {dim:,} dimensions evenly; "
                f"near it do {', '.join(f'PQ{n}' for n in sorted(near))}."
            )
        return cls(dim, m=m)

    @property
    def code_bytes(self) -> int:
        """Of one vector."""
        return self.m or -(-self.dim * self.bits // 8)

    @property
    def codec_bytes(self) -> int:
        """Of what is trained."""
        return 4 * self.dim * (N_CENTROIDS if self.m else 2)

    @property
    def least_rows(self) -> int:
        """Vectors that training takes at least: one a centroid."""
        return N_CENTROIDS if self.m else 1

    @property
    def few_rows(self) -> int:
        """Vectors below which a training sample is told to be small."""
        return FEW_PER_CENTROID * N_CENTROIDS if self.m else FEW_ROWS

    def train_rows(self, n: int, n_rows: int) -> int:
        """Vectors that are trained on, of `n` asked for and a set of `n_rows`."""
        most = MOST_PER_CENTROID * N_CENTROIDS if self.m else n_rows
        return min(n, n_rows, most)
