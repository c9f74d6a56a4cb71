"""The command `haag-vq`: parse, one library call, print.

Exit codes: 0 done, 1 the job failed, 2 the command line is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from haag_vq import __version__
from haag_vq.cluster import connect
from haag_vq.data import CATALOG, VectorDataset, open_dataset
from haag_vq.demo import DIM, N_ROWS, run_demo
from haag_vq.errors import DataError, HaagVQError, SourceNotFoundError, UsageError
from haag_vq.export import DEFAULT_CHUNK_BYTES as EXPORT_CHUNK_BYTES
from haag_vq.export import export_vectors
from haag_vq.groundtruth import check_suffix, ground_truth
from haag_vq.memory import format_bytes, parse_bytes
from haag_vq.progress import ProgressLine
from haag_vq.report import (
    Rows,
    describe_catalog,
    describe_dataset,
    describe_demo,
    describe_export,
    print_table,
    truth_facts,
    truth_table,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = _parser().parse_args(argv)
    warnings.showwarning = _show_warning
    _end_in_order_when_terminated()
    if not args.debug:
        # What matters comes back as an error; what Dask logs while it is closed is noise.
        for name in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        facts, table = args.run(args)
        print(json.dumps(facts)) if args.json else print_table(table)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("haag-vq: interrupted; the workers are gone, no output was written.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has left, as head does; so must Python's own flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            raise
        return _explain(error)
    return 0


def _end_in_order_when_terminated() -> None:
    """Let SIGTERM, which Slurm sends before it kills, end workers and files as Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            # What is ignored stays so: nohup.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda got, _: sys.exit(128 + got))


def _explain(error: Exception) -> int:
    """Print one paragraph for an error; returns the exit code."""
    if isinstance(error, HaagVQError):
        # HDF5 and Arrow put line breaks into what they say.
        print(f"haag-vq: {' '.join(str(error).split())}", file=sys.stderr)
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


def _datasets(args: argparse.Namespace) -> tuple[Any, Rows]:
    return describe_catalog(CATALOG.values())


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
    return describe_dataset(_open(args))


def _ground_truth(args: argparse.Namespace) -> tuple[Any, Rows]:
    check_suffix(args.out)
    _check_out(args.out)
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
    return truth_facts(truth, args.out), truth_table(truth, args.out)


def _export(args: argparse.Namespace) -> tuple[Any, Rows]:
    _check_out(args.out)
    if args.run_rows != 1 and args.sample is None:
        raise UsageError("--run-rows goes with --sample.")
    dataset = _open(args)
    if args.sample is not None:
        dataset = dataset.sample(args.sample, args.seed, args.run_rows)
    elif args.take is not None:
        dataset = dataset.take(_read_rows(args.take))
    if not dataset.n_rows:
        raise UsageError(f"{args.take} names no rows: there is nothing to export.")
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
    return describe_export(report)


def _demo(args: argparse.Namespace) -> tuple[Any, Rows]:
    report = run_demo(args.out, args.rows, args.dim, args.workers, progress=not args.quiet)
    return describe_demo(report)


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


def _check_out(out: str) -> None:
    """Refuse an output that cannot be created, before the work and not after it."""
    parent = Path(out).absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{out}: there is no directory {parent}; create it first.")
    if Path(out).is_dir():
        raise UsageError(f"{out} is a directory; name a file.")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{out}: nothing may be written in {parent}; choose another directory.")


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


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, as every other error is told."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"haag-vq: {message}. See {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="haag-vq",
        description="Load embedding sets larger than memory, and find their exact neighbours.",
    )
    parser.add_argument("--version", action="version", version=f"haag-vq {__version__}")
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON, one line")
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
