"""`haag-vq quantize`: vectors as codes of fewer bytes, beside the codec that made them."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from haag_vq.commands.arguments import add_source, open_source_of, positive, size
from haag_vq.commands.planned import Planned
from haag_vq.memory import format_bytes, parse_bytes
from haag_vq.planning import QuantizeJob, this_process
from haag_vq.quantizing import DEFAULT_CHUNK_BYTES, DEFAULT_TRAIN_ROWS, quantize
from haag_vq.report import Rows

NAME = "quantize"
HELP = "train a codec and encode a set by blocks; the result opens as the vectors it stands for"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the set, its queries, the codec and the directory to make."""
    add_source(parser)
    parser.add_argument("out", metavar="OUT", help="a directory to make: codes, codec, queries")
    parser.add_argument("--codec", required=True, help="SQ8, SQ4, or PQm: m bytes, as PQ96")
    parser.add_argument(
        "--queries",
        help="as given to ground-truth: those held out are left out, and all kept beside the codes",
    )
    parser.add_argument(
        "--query-column", help="column of a Parquet, array of an HDF5 file of queries"
    )
    parser.add_argument(
        "--train",
        type=positive,
        default=DEFAULT_TRAIN_ROWS,
        metavar="N",
        help=f"vectors to train on, drawn from all (default: {DEFAULT_TRAIN_ROWS:,})",
    )
    parser.add_argument(
        "--chunk-size",
        type=size,
        default=format_bytes(DEFAULT_CHUNK_BYTES),
        help="of a block of float32, one for each core "
        f"(default: {format_bytes(DEFAULT_CHUNK_BYTES)})",
    )


def run(args: argparse.Namespace) -> tuple[dict[str, Any], Rows]:
    """Train and encode."""
    report = quantize(
        open_source_of(args),
        args.codec,
        args.out,
        n_train=args.train,
        seed=args.seed,
        chunk_size=args.chunk_size,
        progress=not args.quiet,
    )
    facts = {k: v for k, v in asdict(report).items() if k != "projection"}
    facts["projected_bytes"] = report.projection.total_bytes
    shorter = 4 * report.dim / report.code_bytes
    rows = [
        (
            "codes",
            f"{report.n_rows:,} × {report.code_bytes:,} bytes, {shorter:.3g} times shorter than "
            "float32",
        ),
        ("trained", f"{report.codec} on {report.n_train:,} vectors, {report.train_seconds:.1f} s"),
        ("encoded", f"in {report.encode_seconds:.1f} s"),
        ("lost", f"{report.relative_error:.4g} of the squared norms"),
    ]
    if report.n_queries:
        rows.append(("queries", f"{report.n_queries:,}, kept with them"))
    return facts, [*rows, ("written", report.path)]


def planned(args: argparse.Namespace) -> Planned:
    """Plan what `run` would do."""
    dataset, chunk_bytes = open_source_of(args), parse_bytes(args.chunk_size)
    job = QuantizeJob(dataset.source, dataset.query_source, args.codec, args.train, chunk_bytes)
    return Planned(job, this_process(), str(Path(args.out).absolute().parent))
