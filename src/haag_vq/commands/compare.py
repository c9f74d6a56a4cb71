"""`haag-vq compare`: whether two files of ground truth agree, up to ties."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from haag_vq.commands.base import add_base, open_base_of
from haag_vq.groundtruth.compare import compare
from haag_vq.groundtruth.result import load_ground_truth
from haag_vq.report import Rows

NAME = "compare"
HELP = "compare two ground truths: ties, misordering within float32 error, errors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two files and the vectors that settle where they differ."""
    parser.add_argument("a", metavar="A", help="ground truth: .hdf5, .npz or .ibin")
    parser.add_argument("b", metavar="B", help="another of the same queries and base")
    parser.add_argument(
        "--metric", choices=("l2", "ip", "cosine"), help="of files that do not say: .ibin"
    )
    add_base(parser)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], Rows]:
    """Compare; that they differ is a finding, told by the facts and by the exit code."""
    a, b = (load_ground_truth(path, args.metric) for path in (args.a, args.b))
    found = compare(a, b, base=open_base_of(args))
    facts = {"agree": found.agree, "verdict": found.verdict, "a": args.a, "b": args.b}
    return facts | asdict(found), found.rows()


def exit_code(facts: dict[str, Any]) -> int:
    """Return 0 where both are the same answer up to ties, else 1."""
    return 0 if facts["agree"] else 1
