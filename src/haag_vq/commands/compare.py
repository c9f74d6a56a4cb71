"""`haag-vq compare`: whether two files of ground truth agree, up to ties."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from haag_vq.commands.base import add_base, open_base_of
from haag_vq.commands.truths import PUBLISHED, load_truth
from haag_vq.errors import UsageError
from haag_vq.groundtruth import compare, compare_heads, is_of_prefix
from haag_vq.report import Rows

NAME = "compare"
HELP = "compare two ground truths: ties, misordering within float32 error, errors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two files and the vectors that settle where they differ."""
    parser.add_argument(
        "a", metavar="A", help="ground truth: .hdf5, .npz, .ibin; .ivecs with --base"
    )
    parser.add_argument(
        "b", metavar="B", help="another of the same queries and base; or published:msmarco"
    )
    parser.add_argument(
        "--metric", choices=("l2", "ip", "cosine"), help="of files that do not say: .ibin, .ivecs"
    )
    add_base(parser)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], Rows]:
    """Compare; that they differ is a finding, told by the facts and by the exit code."""
    if args.a.startswith(PUBLISHED):
        raise UsageError(f"{args.a} is to be B, what is held against it A: exchange the two.")
    base = open_base_of(args)
    a, b = (load_truth(text, args, base) for text in (args.a, args.b))
    heads_only = args.b.startswith(PUBLISHED) and is_of_prefix(a, b)
    found = (compare_heads if heads_only else compare)(a, b, base=base)
    facts = {"agree": found.agree, "verdict": found.verdict, "a": args.a, "b": args.b}
    facts["heads_only"] = heads_only
    return facts | asdict(found), found.rows()


def exit_code(facts: dict[str, Any]) -> int:
    """Return 0 where both are the same answer up to ties, else 1."""
    return 0 if facts["agree"] else 1
