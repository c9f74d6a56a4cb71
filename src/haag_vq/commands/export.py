"""`haag-vq export`: vectors of one format, or some of them, in a file of another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from haag_vq.commands.arguments import add_source, check_out, open_source_of, positive, size
from haag_vq.commands.planned import Planned
from haag_vq.data import VectorDataset
from haag_vq.errors import DataError, SourceNotFoundError, UsageError
from haag_vq.export import DEFAULT_CHUNK_BYTES, export_vectors
from haag_vq.memory import format_bytes, parse_bytes
from haag_vq.planning import ExportJob, this_process
from haag_vq.progress import ProgressLine
from haag_vq.report import Rows

NAME = "export"
HELP = "write vectors to .npy, .parquet, .fbin, .fvecs, …"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the set, the rows of it and the file to write."""
    add_source(parser)
    parser.add_argument(
        "out",
        metavar="OUT",
        help=".npy, .parquet, .fbin, .f16bin, .u8bin, .i8bin, .fvecs, .bvecs",
    )
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--sample", type=positive, help="so many rows spread over the set")
    rows.add_argument("--take", help="a file of row numbers: .npy, or text with one a line")
    parser.add_argument(
        "--run-rows", type=positive, default=1, help="draw runs of so many rows (default: 1)"
    )
    parser.add_argument("--dtype", help="float32, float16, float64, int8 or uint8")
    parser.add_argument("--chunk-size", type=size, default=format_bytes(DEFAULT_CHUNK_BYTES))


def run(args: argparse.Namespace) -> tuple[dict[str, Any], Rows]:
    """Write the rows that were asked for, block by block."""
    check_out(args.out)
    dataset = _open(args)
    line = None if args.quiet else ProgressLine("rows", dataset.n_rows)
    try:
        report = export_vectors(
            dataset.source,
            args.out,
            args.dtype,
            parse_bytes(args.chunk_size),
            None if line is None else lambda done, _: line(done),
        )
    finally:
        if line is not None:
            line.close()
    facts = {
        "n_rows": report.n_rows,
        "dim": report.dim,
        "dtype": report.dtype,
        "written_bytes": report.written_bytes,
        "projected_bytes": report.projection.total_bytes,
        "out": report.path,
    }
    return facts, [
        ("vectors", f"{report.n_rows:,} × {report.dim} {report.dtype}"),
        ("written", f"{report.path}, {format_bytes(report.written_bytes)}"),
    ]


def planned(args: argparse.Namespace) -> Planned:
    """Plan what `run` would do."""
    job = ExportJob(_open(args).source, args.out, args.dtype, parse_bytes(args.chunk_size))
    return Planned(job, this_process(), str(Path(args.out).parent))


def _open(args: argparse.Namespace) -> VectorDataset:
    """Open the rows that are asked for."""
    if args.run_rows != 1 and args.sample is None:
        raise UsageError("--run-rows goes with --sample.")
    dataset = open_source_of(args)
    if args.sample is not None:
        dataset = dataset.sample(args.sample, args.seed, args.run_rows)
    elif args.take is not None:
        dataset = dataset.take(_read_rows(args.take))
    if not dataset.n_rows:
        raise UsageError(f"{args.take} names no rows: there is nothing to export.")
    return dataset


def _read_rows(path: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Read row numbers from an integer .npy file, or from text with one a line."""
    if not Path(path).is_file():
        raise SourceNotFoundError(f"no file of row numbers {path}.")
    try:
        if path.endswith(".npy"):
            rows: np.ndarray[Any, np.dtype[Any]] = np.load(path, allow_pickle=False)
            return rows
        with open(path) as file:
            return np.array([int(line) for line in file if line.strip()], dtype=np.int64)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: row numbers must be integers, one a line: {error}") from error
