"""The optional base: vectors by which `evaluate` and `compare` settle what files cannot."""

from __future__ import annotations

import argparse

from haag_vq.commands.arguments import add_part, open_source_of
from haag_vq.data import VectorDataset
from haag_vq.errors import UsageError


def add_base(parser: argparse.ArgumentParser) -> None:
    """Add --base and the options that say which part of it, and which queries, are meant."""
    group = parser.add_argument_group("the vectors, as they were given to ground-truth")
    group.add_argument(
        "--base",
        dest="source",
        metavar="SOURCE",
        help="a file, directory or quoted pattern; a name from `haag-vq datasets`; synthetic:NxD",
    )
    group.add_argument(
        "--queries", help="first:N, holdout:N, sample:N or a file (default: the set's own)"
    )
    group.add_argument(
        "--query-column", help="column of a Parquet, array of an HDF5 file of queries"
    )
    add_part(group)


def open_base_of(args: argparse.Namespace) -> VectorDataset | None:
    """Open the base with its queries; None where none is named.

    Raises
    ------
    UsageError
        If a part or queries are named without a base, or a base has no queries.
    """
    if args.source is None:
        for name in ("queries", "query_column", "column", "limit", "dims", "renormalize"):
            if getattr(args, name):
                raise UsageError(f"--{name.replace('_', '-')} goes with --base.")
        return None
    dataset = open_source_of(args)
    if dataset.query_source is None:
        raise UsageError(
            f"{dataset.name} has no queries of its own: pass --queries as it was given to "
            "ground-truth."
        )
    return dataset
