"""The answer: neighbours and distances, with what they were computed from."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import DataError, UsageError
from haag_vq.groundtruth.finish import Findings
from haag_vq.groundtruth.formats import TruthFile, read_truth, write_truth
from haag_vq.groundtruth.part import Tally
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
    n_reused_rows: int = 0
    """Rows that a checkpoint had already."""


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
    dataset: str = ""
    """Name of the base."""
    query_source: str = ""
    """Where the queries came from."""
    excluded_self: bool = False
    """Each query's own row was left out."""
    findings: Findings | None = None
    """Ties at the k-th place, duplicates, queries that are rows; None where a file has none."""
    software: dict[str, str] = field(default_factory=dict)
    """Versions of what computed it."""
    run: RunReport | None = None
    """None where it was loaded from a file or merged from a checkpoint."""
    tally: Tally | None = None
    """What scoring and certifying took, of all blocks; None where it was loaded from a file."""
    commit: str = ""
    """Of the Hub, that the base was: organisation/name@commit; '' for other files."""

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
            "dataset": self.dataset,
            "query_source": self.query_source,
            "excluded_self": self.excluded_self,
            "software": self.software,
            "commit": self.commit,
        }
        if self.findings is not None:
            attributes["findings"] = asdict(self.findings)
        write_truth(TruthFile(self.ids, self.distances, attributes, self.query_rows), path)

    def __repr__(self) -> str:
        peak = self.run.peak_rss_bytes if self.run else 0
        memory = f", peak {format_bytes(peak)}" if peak else ""
        return (
            f"GroundTruth({self.n_queries:,} queries × k={self.k}, {self.metric}, "
            f"base {self.n_rows:,} × {self.dim}{memory})"
        )


def check_truth(name: str, given: object) -> None:
    """Raise UsageError unless `given` is ground truth: a path, say, is not."""
    if not isinstance(given, GroundTruth):
        raise UsageError(
            f"{name} is a {type(given).__name__}, not ground truth; read a file of it with "
            "load_ground_truth()."
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
            f"{os.fspath(path)} does not say its metric: pass metric='l2', 'ip' or 'cosine' "
            "(--metric)."
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
        str(truth.attributes.get("dataset", "")),
        str(truth.attributes.get("query_source", "")),
        bool(truth.attributes.get("excluded_self", False)),
        _findings(truth.attributes.get("findings"), path),
        dict(truth.attributes.get("software", {})),
        commit=str(truth.attributes.get("commit", "")),
    )


def software_versions() -> dict[str, str]:
    """Versions of what computes ground truth, for manifests."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    packages = ("numpy", "numba", "faiss-cpu", "dask", "distributed")
    found = {"haag_vq": version("haag_vq"), "python": platform.python_version()}
    for name in packages:
        # FAISS is not always installed by this name (conda).
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _findings(stored: Any, path: str | os.PathLike[str]) -> Findings | None:
    if stored is None:
        return None
    # A later version may have found more.
    known = {f.name: stored[f.name] for f in fields(Findings) if f.name in stored}
    numbers = all(type(value) in (int, float) for value in known.values())
    if not numbers or len(known) < len(fields(Findings)):
        raise DataError(f"{os.fspath(path)}: its findings are not readable: {stored!r:.200}.")
    return Findings(**known)
