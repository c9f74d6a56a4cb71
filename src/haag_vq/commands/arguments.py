"""What several commands parse alike: numbers, sizes, the set of vectors, the output."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from haag_vq.data import VectorDataset, open_dataset
from haag_vq.errors import UsageError
from haag_vq.memory import parse_bytes


def positive(text: str) -> int:
    """Parse a whole number of at least 1, with or without underscores."""
    if not text.replace("_", "").isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def directory(text: str) -> str:
    """Check the name of a directory: an empty one, of an unset variable, would be this one."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a directory is needed, not an empty name")
    return text


def size(text: str) -> str:
    """Check a size as ``128MiB``; returns it as it was written, for messages."""
    try:
        parse_bytes(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add SOURCE and the options that say which part of it is meant."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a file, directory or quoted pattern; a name from `haag-vq datasets`; a Hub dataset "
        "(organisation/name or hf://…); synthetic:NxD",
    )
    add_part(parser)


def add_part(group: argparse._ActionsContainer) -> None:
    """Add the options that say which part of a source is meant."""
    group.add_argument("--column", help="embedding column of Parquet, array of HDF5 files")
    group.add_argument(
        "--cache-dir", help="where copies of named sets are, and where --no-streaming stages"
    )
    add_hub_options(group)
    group.add_argument(
        "--streaming",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read a Hub dataset where it is, or stage its files first (default: read)",
    )
    group.add_argument("--limit", type=positive, help="the first so many vectors")
    group.add_argument("--dims", type=positive, help="the first so many dimensions")
    group.add_argument(
        "--renormalize", action="store_true", help="scale shortened vectors to unit length"
    )
    group.add_argument("--seed", type=int, default=0, help="of holdout and sample (default: 0)")


def add_hub_options(group: argparse._ActionsContainer) -> None:
    """Add the options that say which part of a Hub dataset is meant."""
    group.add_argument("--config", help="configuration of a Hub dataset")
    group.add_argument("--split", help="split of a Hub dataset (default: train, or the only one)")
    group.add_argument("--revision", help="branch, tag or commit of a Hub dataset")


def open_source_of(args: argparse.Namespace) -> VectorDataset:
    """Open the dataset that parsed arguments name; what a command does not take is left out."""
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
        config=args.config,
        split=args.split,
        revision=args.revision,
        streaming=args.streaming,
    )


def check_out(out: str) -> None:
    """Refuse an output that cannot be created, before the work and not after it.

    Raises
    ------
    UsageError
        If its directory is missing or closed to us, or if it is a directory itself.
    """
    parent = Path(out).absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{out}: there is no directory {parent}; create it first.")
    if Path(out).is_dir():
        raise UsageError(f"{out} is a directory; name a file.")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{out}: nothing may be written in {parent}; choose another directory.")
