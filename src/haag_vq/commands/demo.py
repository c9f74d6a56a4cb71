"""`haag-vq demo`: the main job on a synthetic set, and two pictures of it."""

from __future__ import annotations

import argparse
from typing import Any

from haag_vq.commands.arguments import positive
from haag_vq.demo import DIM, N_ROWS, run_demo
from haag_vq.report import Rows, truth_facts, truth_table

NAME = "demo"
HELP = "run the main job on a synthetic set and draw it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the size of the set, the workers and the directory to write to."""
    parser.add_argument("--rows", type=positive, default=N_ROWS)
    parser.add_argument("--dim", type=positive, default=DIM)
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--out", default="demo", help="directory to write to (default: demo)")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], Rows]:
    """Run the demo and tell what an ordinary search tells, and its pictures."""
    report = run_demo(args.out, args.rows, args.dim, args.workers, progress=not args.quiet)
    files = [str(path) for path in report.files]
    facts = truth_facts(report.truth, files[0]) | {"workers": report.n_workers, "files": files}
    rows = truth_table(report.truth, files[0])
    rows.insert(2, ("workers", f"{report.n_workers} processes on this machine, over TLS"))
    rows += [("pictures", f"{files[1]}, {files[2]}")]
    return facts, rows
