"""`haag-vq merge`: the answer of a checkpoint whose rows were searched by separate tasks."""

from __future__ import annotations

import argparse
from typing import Any

from haag_vq.commands.arguments import check_out, directory, positive
from haag_vq.commands.truths import prefix_list, prefix_outs, save_truths
from haag_vq.groundtruth import check_suffix, merge_checkpoint
from haag_vq.report import Rows

NAME = "merge"
HELP = "make the answer of a checkpoint whose rows are all there (ground-truth --rows)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint and the file to write."""
    parser.add_argument("checkpoint", metavar="DIR", type=directory, help="the checkpoint")
    parser.add_argument("--k", type=positive, help="neighbours (default: as many as were found)")
    parser.add_argument(
        "--exclude-self", action="store_true", help="leave out each query's own row"
    )
    parser.add_argument(
        "--prefixes", type=prefix_list, help="answers for the first N rows each, as 100000,all"
    )
    parser.add_argument("--out", required=True, help=".hdf5, .npz or .ibin")


def run(args: argparse.Namespace) -> tuple[Any, Rows]:
    """Merge, certify and write."""
    outs = prefix_outs(args.out, args.prefixes)
    for out in outs:
        check_suffix(out)
        check_out(out)
    truths = merge_checkpoint(args.checkpoint, args.k, args.prefixes, args.exclude_self)
    return save_truths(truths, outs)
