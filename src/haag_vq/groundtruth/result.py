"""The answer: neighbours and distances, with what they were computed from."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import DataError
from haag_vq.groundtruth.formats import TruthFile, read_truth, write_truth
from haag_vq.memory import Projection, format_bytes
from haag_vq.sources import Metric, check_metric


@dataclass(frozen=True, slots=True)
class RunReport:
    """How the answer was computed. No part of the answer: it depends on scheduling."""

    n_partitions: int
    seconds: float
    projection: Projection
    """Of the worker that needs most."""
    peak_rss_bytes: int
    """Measured, of the largest worker process since it started."""
    n_widened: int
    """(block, query) pairs for which FAISS's candidates had to be widened to prove the answer."""


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """Exact nearest neighbours of some queries in a base.

    Notes
    -----
    Equal distances are ordered by id; the same base and queries give the same bits, whatever
    the chunks, the workers, and the order in which they finished.
    """

    ids: NDArray[np.int64]
    """(nq, k): positions in the base, nearest first."""
    distances: NDArray[np.float64]
    """(nq, k): squared distance ascending for l2, similarity descending for ip and cosine."""
    metric: Metric
    n_rows: int
    """Rows of the base; 0 where a file does not tell."""
    dim: int
    """Dimension of base and queries; 0 where a file does not tell."""
    base_fingerprint: str = ""
    queries_sha256: str = ""
    """Of the float32 queries, in C order."""
    query_rows: NDArray[np.int64] | None = None
    """(nq,) rows of the base's files that the queries were (held out, sampled or the first)."""
    run: RunReport | None = None

    @property
    def k(self) -> int:
        """Neighbours of each query."""
        return int(self.ids.shape[1])

    @property
    def n_queries(self) -> int:
        """Number of queries."""
        return int(self.ids.shape[0])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to ``.hdf5`` (ann-benchmarks), ``.npz`` (lossless) or ``.ibin`` (big-ann).

        Distances are written by each format's own convention, listed in
        `haag_vq.groundtruth.formats`. The file is written whole or not at all.
        """
        attributes = {
            "metric": self.metric,
            "n_rows": self.n_rows,
            "dim": self.dim,
            "base_fingerprint": self.base_fingerprint,
            "queries_sha256": self.queries_sha256,
        }
        write_truth(TruthFile(self.ids, self.distances, attributes, self.query_rows), path)

    def __repr__(self) -> str:
        peak = self.run.peak_rss_bytes if self.run else 0
        memory = f", peak {format_bytes(peak)}" if peak else ""
        return (
            f"GroundTruth({self.n_queries:,} queries × k={self.k}, {self.metric}, "
            f"base {self.n_rows:,} × {self.dim}{memory})"
        )


def load_ground_truth(path: str | os.PathLike[str], metric: Metric | None = None) -> GroundTruth:
    """Load ground truth from .hdf5, .npz or .ibin.

    Parameters
    ----------
    path : path-like
    metric : {"l2", "ip", "cosine"}, optional
        Needed for .ibin, which does not say; checked against the file where it does.

    Returns
    -------
    GroundTruth
        ``distances`` as in memory, at the precision the format keeps (float64 for .npz,
        float32 otherwise).

    Raises
    ------
    SourceNotFoundError, DataError
        If the file is missing, malformed, or of another metric.
    """
    truth = read_truth(path)
    stored = truth.attributes.get("metric")
    if stored is None and metric is None:
        raise DataError(
            f"{os.fspath(path)} does not say its metric: pass metric='l2', 'ip' or 'cosine'."
        )
    if stored is not None and metric is not None and stored != metric:
        raise DataError(
            f"{os.fspath(path)} holds {stored} distances, metric={metric!r} was asked for."
        )
    return GroundTruth(
        truth.ids,
        truth.distances,
        check_metric(stored or metric),
        int(truth.attributes.get("n_rows", 0)),
        int(truth.attributes.get("dim", 0)),
        str(truth.attributes.get("base_fingerprint", "")),
        str(truth.attributes.get("queries_sha256", "")),
        truth.query_rows,
    )
