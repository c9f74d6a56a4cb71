"""`haag-vq datasets`: the public sets that have a name."""

from __future__ import annotations

import argparse
from typing import Any

from haag_vq.data import CATALOG
from haag_vq.memory import format_bytes
from haag_vq.report import Rows

NAME = "datasets"
HELP = "list the public sets that have a name here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add none: it takes what every command takes."""


def run(args: argparse.Namespace) -> tuple[list[dict[str, Any]], Rows]:
    """List the catalogue, as its publishers describe it."""
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
        for entry in CATALOG.values()
    ]
    rows = [
        (
            entry.name,
            f"{entry.listed_rows:>11,} × {entry.dim:<4}  {entry.metric:<6}  "
            f"{format_bytes(entry.listed_rows * entry.dim * 4):>8}  {entry.repository}"
            + (f"  ({entry.note})" if entry.note else ""),
        )
        for entry in CATALOG.values()
    ]
    return facts, rows
