"""The command `haag-vq`: parse, one library call, print.

Exit codes: 0 done, 1 the job failed, 2 the command line is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from haag_vq import __version__
from haag_vq.arrays import DEFAULT_CHUNK_BYTES
from haag_vq.cluster import connect
from haag_vq.data import CATALOG, VectorDataset, open_dataset
from haag_vq.demo import DIM, N_ROWS, run_demo
from haag_vq.errors import DataError, HaagVQError, SourceNotFoundError, UsageError
from haag_vq.export import DEFAULT_CHUNK_BYTES as EXPORT_CHUNK_BYTES
from haag_vq.export import export_vectors
from haag_vq.groundtruth import GroundTruth, check_suffix, ground_truth
from haag_vq.memory import format_bytes, parse_bytes, process_allowance
from haag_vq.partition import plan_partitions
from haag_vq.progress import ProgressLine

Rows = list[tuple[str, str]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = _parser().parse_args(argv)
    warnings.showwarning = _show_warning
    try:
        facts, table = args.run(args)
    except KeyboardInterrupt:
        print("haag-vq: interrupted; the workers are gone, no output was written.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if args.debug:
            raise
        return _explain(error)
    if args.json:
        print(json.dumps(facts))
    else:
        _print_table(table)
    return 0


def _explain(error: Exception) -> int:
    """Print one paragraph for an error; returns the exit code."""
    if isinstance(error, HaagVQError):
        print(f"haag-vq: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    text = str(error).strip().splitlines() or [""]
    print(
        f"haag-vq: unexpected {type(error).__name__}: {text[0]} (run again with --debug for the "
        "whole trace, and please report it)",
        file=sys.stderr,
    )
    return 1


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"haag-vq: note: {message}", file=sys.stderr)


def _print_table(rows: Rows) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _datasets(args: argparse.Namespace) -> tuple[Any, Rows]:
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


def _open(args: argparse.Namespace) -> VectorDataset:
    return open_dataset(
        args.source,
        args.column,
        queries=getattr(args, "queries", None),
        query_column=getattr(args, "query_column", None),
        limit=getattr(args, "limit", None),
        dims=getattr(args, "dims", None),
        renormalize=getattr(args, "renormalize", False),
        seed=getattr(args, "seed", 0),
        cache_dir=args.cache_dir,
    )


def _info(args: argparse.Namespace) -> tuple[Any, Rows]:
    dataset = _open(args)
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


def _ground_truth(args: argparse.Namespace) -> tuple[Any, Rows]:
    check_suffix(args.out)
    _check_directory(args.out)
    dataset = _open(args)
    if dataset.query_source is None:
        raise UsageError(
            f"{dataset.name} has no queries of its own: pass --queries holdout:N, sample:N, "
            "first:N or a file."
        )
    with connect("local", jobs=args.workers, memory_limit=args.memory_limit):
        truth = ground_truth(
            dataset,
            k=args.k,
            metric=args.metric,
            chunk_size=args.chunk_size,
            progress=not args.quiet,
        )
    truth.save(args.out)
    return _truth_facts(truth, args.out), _truth_table(truth, args.out)


def _truth_facts(truth: GroundTruth, out: str) -> dict[str, Any]:
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


def _truth_table(truth: GroundTruth, out: str) -> Rows:
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


def _export(args: argparse.Namespace) -> tuple[Any, Rows]:
    dataset = _open(args)
    if args.sample is not None:
        dataset = dataset.sample(args.sample, args.seed, args.run_rows)
    elif args.take is not None:
        dataset = dataset.take(_read_rows(args.take))
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
    rows = [
        ("vectors", f"{report.n_rows:,} × {report.dim} {report.dtype}"),
        ("written", f"{report.path}, {format_bytes(report.written_bytes)}"),
    ]
    return facts, rows


def _demo(args: argparse.Namespace) -> tuple[Any, Rows]:
    report = run_demo(args.out, args.rows, args.dim, args.workers or 2)
    files = [str(path) for path in report.files]
    facts = _truth_facts(report.truth, files[0]) | {"workers": report.n_workers, "files": files}
    rows = _truth_table(report.truth, files[0])
    rows.insert(2, ("workers", f"{report.n_workers} processes on this machine, over TLS"))
    rows += [("pictures", f"{files[1]}, {files[2]}")]
    return facts, rows


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
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: row numbers must be integers, one a line: {error}") from error


def _check_directory(out: str) -> None:
    """Refuse an output that cannot be created, before the work and not after it."""
    parent = Path(out).absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{out}: there is no directory {parent}; create it first.")


def _positive(text: str) -> int:
    """Parse a whole number of at least 1, with or without underscores."""
    if not text.replace("_", "").isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _size(text: str) -> str:
    try:
        parse_bytes(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="haag-vq",
        description="Load embedding sets larger than memory, and find their exact neighbours.",
    )
    parser.add_argument("--version", action="version", version=f"haag-vq {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object")
    common.add_argument("--quiet", action="store_true", help="no progress")
    common.add_argument("--debug", action="store_true", help="show the trace of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[..., Any], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[common])
        command.set_defaults(run=run)
        return command

    add("datasets", _datasets, "list the public sets that have a name here")
    _add_source(add("info", _info, "say what a set holds, from its headers alone"))
    _add_ground_truth(add("ground-truth", _ground_truth, "find the exact neighbours of queries"))
    _add_export(add("export", _export, "write vectors to .npy, .parquet, .fbin, .f16bin, …"))
    demo = add("demo", _demo, "run the main job on a synthetic set and draw it")
    demo.add_argument("--rows", type=_positive, default=N_ROWS)
    demo.add_argument("--dim", type=_positive, default=DIM)
    demo.add_argument("--workers", type=_positive, default=2)
    demo.add_argument("--out", default="demo", help="directory to write to (default: demo)")
    return parser


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="a file, directory or quoted pattern; a name from `haag-vq datasets`; synthetic:NxD",
    )
    command.add_argument("--column", help="embedding column of Parquet files")
    command.add_argument("--cache-dir", help="where copies of named sets are")
    command.add_argument("--limit", type=_positive, help="the first so many vectors")
    command.add_argument("--dims", type=_positive, help="the first so many dimensions")
    command.add_argument(
        "--renormalize", action="store_true", help="scale shortened vectors to unit length"
    )
    command.add_argument("--seed", type=int, default=0, help="of holdout and sample (default: 0)")


def _add_ground_truth(command: argparse.ArgumentParser) -> None:
    _add_source(command)
    command.add_argument(
        "--queries", help="first:N, holdout:N, sample:N or a file (default: the set's own)"
    )
    command.add_argument("--query-column", help="embedding column of a Parquet file of queries")
    command.add_argument("--k", type=_positive, default=100, help="neighbours (default: 100)")
    command.add_argument(
        "--metric",
        choices=("l2", "ip", "cosine", "auto"),
        default="l2",
        help="auto: the publisher's (default: l2)",
    )
    command.add_argument("--workers", type=_positive, help="processes (default: cores, at most 4)")
    command.add_argument("--memory-limit", type=_size, help="of each worker, as 2GB")
    command.add_argument("--chunk-size", type=_size, help="of one block, as 128MiB")
    command.add_argument("--out", required=True, help=".hdf5, .npz or .ibin")


def _add_export(command: argparse.ArgumentParser) -> None:
    _add_source(command)
    command.add_argument(
        "out", metavar="OUT", help=".npy, .parquet, .fbin, .f16bin, .u8bin, .i8bin"
    )
    rows = command.add_mutually_exclusive_group()
    rows.add_argument("--sample", type=_positive, help="so many rows spread over the set")
    rows.add_argument("--take", help="a file of row numbers: .npy, or text with one a line")
    command.add_argument(
        "--run-rows", type=_positive, default=1, help="draw runs of so many rows (default: 1)"
    )
    command.add_argument("--dtype", help="float32, float16, float64, int8 or uint8")
    command.add_argument("--chunk-size", type=_size, default=format_bytes(EXPORT_CHUNK_BYTES))


if __name__ == "__main__":
    sys.exit(main())
