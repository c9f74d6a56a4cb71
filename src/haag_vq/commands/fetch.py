"""`haag-vq fetch`: stage a Hub dataset's files ahead, on a node that has internet."""

from __future__ import annotations

import argparse
from typing import Any

from haag_vq.commands.arguments import add_hub_options, positive
from haag_vq.commands.planned import Planned
from haag_vq.data.catalog import CATALOG
from haag_vq.errors import UsageError
from haag_vq.hub import HubFile, Repository, hub_cache, parse_address, resolve, stage
from haag_vq.memory import format_bytes
from haag_vq.planning import FetchJob, this_process
from haag_vq.progress import ProgressLine
from haag_vq.report import Rows

NAME = "fetch"
HELP = "stage a Hub dataset's files ahead, verified; goes on where it was interrupted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the dataset, where to, and how much of it."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a name from `haag-vq datasets`, organisation/name, or hf://datasets/…",
    )
    add_hub_options(parser)
    parser.add_argument("--cache-dir", help="where to (default: the Hub client's cache)")
    parser.add_argument("--limit", type=positive, help="the first so many files, not all")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], Rows]:
    """Stage the files; those that are there already are not asked for."""
    found = _asked(args)
    n_bytes = sum(file.size_bytes for file in found.files)
    line = ProgressLine("bytes", n_bytes)
    try:
        paths = stage(found, args.cache_dir, line)
    finally:
        line.close()
    facts = {
        "repository": found.repo,
        "commit": found.sha,
        "files": len(paths),
        "bytes": n_bytes,
        "cache_dir": str(hub_cache(args.cache_dir)),
    }
    table: Rows = [
        ("repository", found.repo),
        ("commit", found.sha),
        ("files", f"{len(paths):,}"),
        ("bytes", format_bytes(n_bytes)),
        ("in", str(hub_cache(args.cache_dir))),
    ]
    return facts, table


def planned(args: argparse.Namespace) -> Planned:
    """Plan what `run` would do; asks the Hub for the list of files alone."""
    found, home = _asked(args), hub_cache(args.cache_dir)
    blobs = home / f"datasets--{found.repo.replace('/', '--')}" / "blobs"
    missing = [file for file in found.files if not (blobs / file.blob).exists()]
    job = FetchJob(sum(file.size_bytes for file in missing), len(missing))
    return Planned(job, this_process(), str(home))


def _asked(args: argparse.Namespace) -> Repository:
    found = _resolved(args)
    if args.limit is None:
        return found
    return Repository(found.repo, found.sha, found.revision, found.files[: args.limit])


def _resolved(args: argparse.Namespace) -> Repository:
    """Files of the vectors, and of a catalogued set's own queries."""
    if args.source in CATALOG:
        entry = CATALOG[args.source]
        found = resolve(entry.repository, revision=args.revision, patterns=entry.patterns)
        queries: tuple[HubFile, ...] = ()
        if entry.query_pattern:
            # At the same commit, should the branch move meanwhile.
            own = resolve(entry.repository, revision=found.sha, patterns=(entry.query_pattern,))
            queries = own.files
        # The queries first: --limit cuts the rest, and they are small.
        return Repository(found.repo, found.sha, found.revision, queries + found.files)
    address = parse_address(args.source)
    if address is None:
        raise UsageError(
            f"{args.source!r} is no dataset of the Hub: name organisation/name, "
            f"hf://datasets/organisation/name, or one of {', '.join(CATALOG)}."
        )
    repo, revision, pattern = address
    return resolve(
        repo,
        revision=revision or args.revision,
        config=args.config,
        split=args.split,
        patterns=(pattern,) if pattern else (),
    )
