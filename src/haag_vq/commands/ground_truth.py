"""`haag-vq ground-truth`: the exact neighbours of queries, written to a file."""

from __future__ import annotations

import argparse
import warnings
from typing import Any

from haag_vq.cluster.profiles import is_profile
from haag_vq.commands.arguments import (
    add_source,
    check_out,
    directory,
    open_source_of,
    positive,
    size,
)
from haag_vq.commands.planned import Planned
from haag_vq.commands.truths import (
    part_of,
    prefix_list,
    prefix_outs,
    row_range,
    rows_of_part,
    save_truths,
)
from haag_vq.commands.workers import add_workers, connect_workers
from haag_vq.data import VectorDataset
from haag_vq.errors import UsageError
from haag_vq.groundtruth import check_suffix, ground_truth, search_rows
from haag_vq.groundtruth.checkpoint import checkpoint_path
from haag_vq.groundtruth.inputs import choose_metric, ends_of
from haag_vq.groundtruth.lock import check_free
from haag_vq.groundtruth.rows import rows_of
from haag_vq.hub import moved_since
from haag_vq.memory import format_bytes, parse_bytes
from haag_vq.planning import SearchJob, local_site, query_values, this_process
from haag_vq.report import Rows

NAME = "ground-truth"
HELP = "find the exact neighbours of queries"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the base, the queries, the workers and the file to write."""
    add_source(parser)
    parser.add_argument(
        "--queries", help="first:N, holdout:N, sample:N or a file (default: the set's own)"
    )
    parser.add_argument(
        "--query-column", help="column of a Parquet, array of an HDF5 file of queries"
    )
    parser.add_argument("--k", type=positive, default=100, help="neighbours (default: 100)")
    parser.add_argument(
        "--metric",
        choices=("l2", "ip", "cosine", "auto"),
        help="auto: the publisher's (default: l2)",
    )
    parser.add_argument(
        "--exclude-self", action="store_true", help="leave out each query's own row"
    )
    parser.add_argument(
        "--prefixes",
        type=prefix_list,
        help="answers for the first N rows each, as 100000,1000000,all, from one pass",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        type=directory,
        help="keep what is finished there; the same command again does the rest",
    )
    parser.add_argument(
        "--rows",
        type=row_range,
        metavar="A:B",
        help="search these rows only, into --checkpoint, without Dask; `haag-vq merge` finishes",
    )
    parser.add_argument(
        "--part",
        type=part_of,
        metavar="I/N",
        help="the same for the I-th of N even parts, as in a job array",
    )
    parser.add_argument("--chunk-size", type=size, help="of one block, as 128MiB")
    parser.add_argument("--out", help=".hdf5, .npz or .ibin")
    add_workers(parser)


def run(args: argparse.Namespace) -> tuple[Any, Rows]:
    """Search on workers and write the answer, or search some rows in this process."""
    if _has_rows(args):
        return _run_rows(args)
    if args.out is None:
        raise UsageError(
            "--out is needed, a file to write the answer to. See haag-vq ground-truth --help."
        )
    outs = prefix_outs(args.out, args.prefixes)
    for out in outs:
        check_suffix(out)
        check_out(out)
    dataset = _open(args)
    _check(args, dataset)
    with connect_workers(args):
        truths = ground_truth(
            dataset,
            k=args.k,
            metric=args.metric,
            prefixes=args.prefixes or [None],
            exclude_self=args.exclude_self,
            checkpoint=args.checkpoint,
            chunk_size=args.chunk_size,
            progress=not args.quiet,
        )
    moved = moved_since(dataset.pin) if dataset.pin else ""
    if moved:
        warnings.warn(moved, stacklevel=1)
    return save_truths(truths, outs)


def planned(args: argparse.Namespace) -> Planned:
    """Plan what `run` would do on local workers, or with --rows in this process."""
    dataset = _open(args)
    source, queries = dataset.source, dataset.query_source
    n_queries = 0 if queries is None else queries.n_rows
    ends = ends_of(args.prefixes, source.n_rows, args.k, args.exclude_self)
    # Of a Slurm profile it is one of the settings, as when the job runs.
    of_slurm = args.memory_limit is not None and is_profile(args.cluster)
    memory = {"memory": args.memory_limit} if of_slurm else {}
    limit = None if args.memory_limit is None or of_slurm else parse_bytes(args.memory_limit)
    job = SearchJob(
        source,
        n_queries,
        args.k,
        choose_metric(args.metric, dataset),
        ends,
        rows_of(_rows(args, source.n_rows), source.n_rows) if _has_rows(args) else None,
        None if args.chunk_size is None else parse_bytes(args.chunk_size),
        args.checkpoint,
        query_values(dataset),
    )
    site = this_process() if _has_rows(args) else local_site(args.workers, limit)
    return Planned(job, site, args.checkpoint, {**memory, **dict(args.settings)})


def interrupted(args: argparse.Namespace) -> str:
    """Say what an interrupt left."""
    if args.checkpoint is None:
        return "the workers are gone, no output was written."
    return f"what is finished is in {args.checkpoint}: the same command goes on from there."


def _open(args: argparse.Namespace) -> VectorDataset:
    dataset = open_source_of(args)
    if dataset.query_source is None:
        raise UsageError(
            f"{dataset.name} has no queries of its own: pass --queries holdout:N, sample:N, "
            "first:N or a file."
        )
    if args.metric is None:
        args.metric = "l2"
        if dataset.metric not in (None, "l2"):
            warnings.warn(
                f"by l2, since no --metric is given; {dataset.name} is of {dataset.metric} "
                "(--metric auto).",
                stacklevel=1,
            )
    return dataset


def _check(args: argparse.Namespace, dataset: VectorDataset) -> None:
    """Refuse before any worker is asked for, as of Slurm, what the search would refuse."""
    choose_metric(args.metric, dataset)
    ends_of(args.prefixes, dataset.n_rows, args.k, args.exclude_self)
    if args.checkpoint is not None:
        check_free(checkpoint_path(args.checkpoint))


def _run_rows(args: argparse.Namespace) -> tuple[Any, Rows]:
    dataset = _open(args)
    report = search_rows(
        dataset,
        k=args.k,
        metric=args.metric,
        rows=_rows(args, dataset.n_rows),
        checkpoint=args.checkpoint,
        chunk_size=args.chunk_size,
        progress=not args.quiet,
    )
    facts = {
        "rows": [report.start, report.stop],
        "searched_rows": report.n_rows_searched,
        "partitions": report.n_blocks,
        "seconds": round(report.seconds, 3),
        "peak_rss_bytes": report.peak_rss_bytes,
        "projected_bytes": report.projection.total_bytes,
        "checkpoint": args.checkpoint,
    }
    table = [
        ("rows", f"{report.start:,}:{report.stop:,}, {report.n_rows_searched:,} of them now"),
        ("blocks", f"{report.n_blocks:,} in {report.seconds:.1f} s"),
        (
            "memory",
            f"{format_bytes(report.peak_rss_bytes)} peak, "
            f"{format_bytes(report.projection.total_bytes)} projected",
        ),
        ("kept in", args.checkpoint),
    ]
    return facts, table


def _has_rows(args: argparse.Namespace) -> bool:
    """Whether some rows only are asked for; UsageError if there is what does not go with that."""
    if args.rows is None and args.part is None:
        return False
    if args.rows is not None and args.part is not None:
        raise UsageError("--rows and --part both say which rows; give one of them.")
    asked = "--rows" if args.part is None else "--part"
    if args.checkpoint is None:
        raise UsageError(f"{asked} needs --checkpoint: the directory that all such tasks share.")
    for name in ("out", "prefixes", "exclude_self"):
        if getattr(args, name):
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} does not go with {asked}; give it to `haag-vq merge`.")
    for name in ("cluster", "workers", "memory_limit", "jobs", "settings"):
        if getattr(args, name) not in (None, [], "local"):
            option = "--" + {"settings": "set"}.get(name, name.replace("_", "-"))
            raise UsageError(
                f"{option} does not go with {asked}, which searches in this process alone, with "
                "all its cores and memory."
            )
    return True


def _rows(args: argparse.Namespace, n_rows: int) -> tuple[int, int]:
    """Rows that --rows or --part asks for."""
    rows: tuple[int, int] = args.rows if args.part is None else rows_of_part(args.part, n_rows)
    return rows
