"""`haag-vq info`: what a set holds, from its headers alone."""

from __future__ import annotations

import argparse
from typing import Any

from haag_vq.arrays import DEFAULT_CHUNK_BYTES, read_projection
from haag_vq.commands.arguments import add_source, open_source_of
from haag_vq.memory import format_bytes, n_cores, process_allowance
from haag_vq.partition import plan_partitions
from haag_vq.report import Rows

NAME = "info"
HELP = "say what a set holds, from its headers alone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the set to describe."""
    add_source(parser)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], Rows]:
    """Describe a dataset; no vectors are read."""
    dataset = open_source_of(args)
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
        "commit": dataset.commit,
        "allowance_bytes": allowance.bytes,
    }
    # As `compute()` projects it.
    fits = read_projection(source, n_cores()).total_bytes <= allowance.bytes
    rows = [
        ("dataset", dataset.name),
        ("vectors", f"{dataset.n_rows:,} × {dataset.dim}, stored as {source.stored_as}"),
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
    if dataset.pin is not None:
        rows.append(("commit", f"{dataset.commit} ({dataset.pin.revision})"))
    return facts, rows
