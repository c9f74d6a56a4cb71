"""What the command line prints: facts for machines, and the same as a short table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from haag_vq.arrays import DEFAULT_CHUNK_BYTES
from haag_vq.data import CatalogEntry, VectorDataset
from haag_vq.demo import DemoReport
from haag_vq.export import ExportReport
from haag_vq.groundtruth import GroundTruth
from haag_vq.memory import format_bytes, process_allowance
from haag_vq.partition import plan_partitions

Rows = list[tuple[str, str]]


def describe_catalog(entries: Iterable[CatalogEntry]) -> tuple[list[dict[str, Any]], Rows]:
    """Describe the sets that have a name."""
    listed = list(entries)
    facts = [
        {
            "name": entry.name,
            "repository": entry.repository,
            "rows": entry.listed_rows,
            "dim": entry.dim,
            "metric": entry.metric,
            "float32_bytes": entry.listed_rows * entry.dim * 4,
            "files": entry.n_files,
            "note": entry.note,
        }
        for entry in listed
    ]
    rows = [
        (
            entry.name,
            f"{entry.listed_rows:>11,} × {entry.dim:<4}  {entry.metric:<6}  "
            f"{format_bytes(entry.listed_rows * entry.dim * 4):>8}  {entry.repository}"
            + (f"  ({entry.note})" if entry.note else ""),
        )
        for entry in listed
    ]
    return facts, rows


def describe_dataset(dataset: VectorDataset) -> tuple[dict[str, Any], Rows]:
    """Describe a dataset from its headers."""
    source = dataset.source
    chunks = plan_partitions(source.edges, source.dim * 4, DEFAULT_CHUNK_BYTES)
    allowance = process_allowance()
    facts = {
        "name": dataset.name,
        "n_rows": dataset.n_rows,
        "dim": dataset.dim,
        "dtype": source.dtype.name,
        "files": len(source.files),
        "stored_bytes": source.stored_bytes,
        "float32_bytes": dataset.nbytes,
        "partitions": len(chunks),
        "n_queries": dataset.query_source.n_rows if dataset.query_source else 0,
        "metric": dataset.metric,
        "fingerprint": dataset.fingerprint,
        "allowance_bytes": allowance.bytes,
    }
    fits = dataset.nbytes + source.scratch_bytes < allowance.bytes
    rows = [
        ("dataset", dataset.name),
        ("vectors", f"{dataset.n_rows:,} × {dataset.dim}, stored as {source.dtype.name}"),
        ("files", f"{len(source.files):,}, {format_bytes(source.stored_bytes)} of vectors"),
        ("as float32", format_bytes(dataset.nbytes)),
        ("blocks", f"{len(chunks):,} of up to {chunks.max_rows:,} rows"),
        ("queries", f"{facts['n_queries']:,}" if facts["n_queries"] else "none of its own"),
        ("metric", dataset.metric or "not said by the publisher"),
        (
            "in memory here",
            f"{'fits' if fits else 'does not fit'}: {format_bytes(allowance.bytes)} may be used "
            f"({allowance.origin})",
        ),
        ("fingerprint", dataset.fingerprint),
    ]
    return facts, rows


def truth_facts(truth: GroundTruth, out: str) -> dict[str, Any]:
    """List what a machine wants to know of an answer."""
    run = truth.run
    facts: dict[str, Any] = {
        "n_rows": truth.n_rows,
        "dim": truth.dim,
        "n_queries": truth.n_queries,
        "k": truth.k,
        "metric": truth.metric,
        "base_fingerprint": truth.base_fingerprint,
        "queries_sha256": truth.queries_sha256,
        "out": out,
    }
    if run is not None:
        facts |= {
            "partitions": run.n_partitions,
            "seconds": round(run.seconds, 3),
            "peak_rss_bytes": run.peak_rss_bytes,
            "projected_bytes": run.projection.total_bytes,
            "widened": run.n_widened,
        }
    return facts


def truth_table(truth: GroundTruth, out: str) -> Rows:
    """Lay out an answer for a person."""
    rows = [
        ("base", f"{truth.n_rows:,} × {truth.dim}"),
        ("queries", f"{truth.n_queries:,}, k={truth.k}, {truth.metric}"),
    ]
    if truth.run is not None:
        run = truth.run
        rows += [
            ("blocks", f"{run.n_partitions:,} in {run.seconds:.1f} s"),
            (
                "memory",
                f"{format_bytes(run.peak_rss_bytes)} peak of the largest worker, "
                f"{format_bytes(run.projection.total_bytes)} projected",
            ),
            (
                "certified",
                f"all {truth.n_queries:,} queries; {run.n_widened:,} (block, query) pairs "
                "needed a wider look",
            ),
        ]
    return [*rows, ("written", out)]


def describe_export(report: ExportReport) -> tuple[dict[str, Any], Rows]:
    """Describe what was written."""
    facts = {
        "n_rows": report.n_rows,
        "dim": report.dim,
        "dtype": report.dtype,
        "written_bytes": report.written_bytes,
        "projected_bytes": report.projection.total_bytes,
        "out": report.path,
    }
    rows = [
        ("vectors", f"{report.n_rows:,} × {report.dim} {report.dtype}"),
        ("written", f"{report.path}, {format_bytes(report.written_bytes)}"),
    ]
    return facts, rows


def describe_demo(report: DemoReport) -> tuple[dict[str, Any], Rows]:
    """Describe a run of the demo."""
    files = [str(path) for path in report.files]
    facts = truth_facts(report.truth, files[0]) | {"workers": report.n_workers, "files": files}
    rows = truth_table(report.truth, files[0])
    rows.insert(2, ("workers", f"{report.n_workers} processes on this machine, over TLS"))
    rows += [("pictures", f"{files[1]}, {files[2]}")]
    return facts, rows


def print_table(rows: Rows) -> None:
    """Print names and values in two columns."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
