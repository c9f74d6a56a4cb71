"""`haag-vq fetch`: stage a Hub dataset's files ahead, on a node that has internet."""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from haag_vq.commands.arguments import add_hub_options, positive
from haag_vq.commands.planned import Planned
from haag_vq.commands.workers import add_workers, connect_workers
from haag_vq.data.catalog import CATALOG
from haag_vq.errors import SourceNotFoundError, UsageError
from haag_vq.hub import (
    HubFile,
    RemoteFile,
    Repository,
    hub_cache,
    is_offline,
    is_whole,
    leading,
    parse_address,
    resolve,
    stage,
    staged_file,
)
from haag_vq.memory import format_bytes
from haag_vq.planning import FetchJob, this_process
from haag_vq.progress import ProgressLine
from haag_vq.report import Rows
from haag_vq.sources.fileio import StoredFile

NAME = "fetch"
HELP = "stage a Hub dataset's files ahead, verified; goes on where it was interrupted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the dataset, where to, how much of it, and who brings it."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a name from `haag-vq datasets`, organisation/name, or hf://datasets/…",
    )
    add_hub_options(parser)
    parser.add_argument(
        "--cache-dir",
        help="where to (default: the Hub client's cache); with --cluster, a directory that all "
        "machines see",
    )
    parser.add_argument(
        "--limit", type=positive, help="the files that hold the first so many rows, not all"
    )
    parser.add_argument("--column", help="array of HDF5 files of which these are rows")
    add_workers(parser, "this process alone; with --workers, processes of this machine")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], Rows]:
    """Stage the files; those that are there already are not asked for."""
    started = time.monotonic()
    found = _resolved(args)
    n_files, n_bytes = len(found.files), sum(file.size_bytes for file in found.files)
    missing = [file for file in found.files if not is_whole(file, args.cache_dir)]
    fetched_bytes = sum(file.size_bytes for file in missing)
    if missing and found.from_cache:
        raise SourceNotFoundError(
            f"{len(missing):,} files of {found.repo} are to be fetched, and the Hub cannot be "
            "asked: unset HF_HUB_OFFLINE, or go where there is internet."
        )
    line = None if args.quiet else ProgressLine("bytes", n_bytes)

    def tell(n_bytes_there: int, n_files_there: int) -> None:
        if line is not None:
            line(n_bytes_there, f", {n_files_there:,}/{n_files:,} files")

    try:
        # Workers are for what is to be brought.
        with connect_workers(args) if missing and _wants_workers(args) else nullcontext():
            stage(found, args.cache_dir, tell)
    finally:
        if line is not None:
            line.close()
    seconds = time.monotonic() - started
    facts = {
        "repository": found.repo,
        "revision": found.revision,
        "commit": found.sha,
        "files": n_files,
        "bytes": n_bytes,
        "fetched_files": len(missing),
        "fetched_bytes": fetched_bytes,
        "seconds": round(seconds, 3),
        "cache_dir": str(hub_cache(args.cache_dir)),
    }
    table: Rows = [
        ("repository", found.repo),
        ("commit", f"{found.sha} ({found.revision})"),
        (
            "staged",
            f"{n_files:,} files, {format_bytes(n_bytes)}: {len(missing):,} files, "
            f"{format_bytes(fetched_bytes)}, now, in {seconds:.1f} s; all verified",
        ),
        ("in", str(hub_cache(args.cache_dir))),
    ]
    return facts, table


def planned(args: argparse.Namespace) -> Planned:
    """Plan what `run` would do; asks the Hub for the list of files alone."""
    missing = [f for f in _resolved(args).files if not is_whole(f, args.cache_dir)]
    job = FetchJob(sum(file.size_bytes for file in missing), len(missing))
    return Planned(job, this_process(), str(hub_cache(args.cache_dir)))


def interrupted(args: argparse.Namespace) -> str:
    """Say what an interrupt left."""
    return f"what came is in {hub_cache(args.cache_dir)}: the same command goes on from there."


def _wants_workers(args: argparse.Namespace) -> bool:
    wanted = args.cluster is not None or args.workers is not None
    if not wanted and (args.jobs is not None or args.settings or args.memory_limit):
        raise UsageError("--jobs and --set go with --cluster, --memory-limit with --workers.")
    return wanted


def _resolved(args: argparse.Namespace) -> Repository:
    """Files of the vectors, as many as hold the rows, and of a catalogued set's own queries."""
    patterns: tuple[str, ...] = ()
    query_pattern = ""
    if args.source in CATALOG:
        entry = CATALOG[args.source]
        repo, patterns, query_pattern = entry.repository, entry.patterns, entry.query_pattern
        for name in ("config", "split"):
            if getattr(args, name):
                raise UsageError(
                    f"--{name} is for organisation/name: {entry.name} is certain files of "
                    f"{entry.repository}."
                )
        revision = args.revision
    else:
        address = parse_address(args.source)
        if address is None:
            raise UsageError(
                f"{args.source!r} is no dataset of the Hub: name organisation/name, "
                f"hf://datasets/organisation/name, or one of {', '.join(CATALOG)}."
            )
        repo, named, pattern = address
        patterns, revision = (pattern,) if pattern else (), named or args.revision
    found = resolve(
        repo,
        revision=revision,
        config=args.config,
        split=args.split,
        patterns=patterns,
        cache_dir=args.cache_dir,
    )

    def nearest(file: HubFile) -> StoredFile:
        if is_whole(file, args.cache_dir):
            return staged_file(file, args.cache_dir)
        return RemoteFile(file)

    kept = found if is_offline() else leading(found, args.limit, nearest, args.column)
    if query_pattern:
        # At the same commit, should the branch move meanwhile.
        own = found.matching(query_pattern)
        return replace(kept, files=own + kept.files)
    return kept
