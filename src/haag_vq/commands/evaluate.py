"""`haag-vq evaluate`: recall of a file of search results against a file of ground truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from haag_vq.commands.arguments import positive
from haag_vq.commands.base import add_base, open_base_of
from haag_vq.commands.truths import PUBLISHED, load_truth
from haag_vq.errors import UsageError
from haag_vq.groundtruth.recall import recall
from haag_vq.groundtruth.result import GroundTruth
from haag_vq.groundtruth.results import SearchResult, read_results
from haag_vq.report import Rows

NAME = "evaluate"
HELP = "score search results against ground truth: recall@k, by ids and tie-aware"

# Those that result and truth are wide enough for are reported by default, and the widest.
USUAL_K = (1, 10, 100)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two files, the places to score and the vectors that settle ties."""
    parser.add_argument(
        "result", metavar="RESULT", help="ids: .npz, .npy, .ibin, .ivecs or .hdf5, best first"
    )
    parser.add_argument(
        "truth",
        metavar="TRUTH",
        help="ground truth: .hdf5, .npz, .ibin; .ivecs with --base; or published:msmarco (whole "
        "base only)",
    )
    parser.add_argument(
        "--k", type=_several, metavar="K,K,…", help="as 1,10,100 (default: those that there are)"
    )
    parser.add_argument(
        "--metric",
        choices=("l2", "ip", "cosine"),
        help="of a TRUTH that does not say: .ibin, .ivecs",
    )
    add_base(parser)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], Rows]:
    """Read both files and score the result at each k."""
    result = read_results(args.result)
    base = open_base_of(args)
    truth = load_truth(args.truth, args, base)
    most = min(result.ids.shape[1], truth.k)
    wanted = args.k or sorted({*(k for k in USUAL_K if k <= most), most})
    claims = _claims(result, truth, args.truth)
    if args.truth.startswith(PUBLISHED) and base is not None:
        _check_whole(base.n_rows, truth, args.truth)
    reports = [recall(result.ids, truth, k, result_distances=claims, base=base) for k in wanted]
    facts = {
        "result": args.result,
        "truth": args.truth,
        "n_queries": truth.n_queries,
        "metric": truth.metric,
        "recall": {
            str(report.k): {
                "mean": report.mean,
                "min": report.min,
                "strict_mean": report.strict_mean,
                "duplicates": report.n_duplicates,
                "padding": report.n_padding,
                "disbelieved_queries": report.n_disbelieved,
            }
            for report in reports
        },
    }
    widest = reports[-1]
    without = ", their own rows left out" if truth.excluded_self else ""
    rows = [("queries", f"{truth.n_queries:,}, {truth.metric}{without}")]
    rows += [
        (
            f"recall@{report.k}",
            f"{report.mean:.4f}  by ids alone {report.strict_mean:.4f}, worst query "
            f"{report.min:.4f}",
        )
        for report in reports
    ]
    notes = (
        (widest.n_duplicates, "ids returned twice to one query; they count once"),
        (widest.n_padding, "places without a row (-1)"),
        (
            widest.n_disbelieved,
            "queries judged by ids alone: the result's distances contradict the truth's",
        ),
    )
    return facts, rows + [("note", f"{n:,} {what}") for n, what in notes if n]


def _check_whole(n_rows: int, truth: GroundTruth, name: str) -> None:
    """Raise UsageError where a prefix is to be scored by neighbours in the whole base."""
    most = int(truth.ids.max(initial=-1))
    if n_rows <= most:
        raise UsageError(
            f"{name} holds neighbours in the whole base (up to row {most:,}), the base given has "
            f"{n_rows:,} rows: most of them are not in it, and recall against them would mean "
            "nothing. Make the prefix's own truth with `haag-vq ground-truth`; `haag-vq compare` "
            "holds its heads against the published ones."
        )


def _claims(result: SearchResult, truth: GroundTruth, path: str) -> Any:
    """The result's distances, where they can be held against the truth's."""
    if result.distances is None or result.metric not in (None, truth.metric):
        return None
    if Path(path).suffix.lower() == ".npz":
        return result.distances
    # The truth's own were rounded to float32 in its file: no more of the result's can be equal.
    return np.asarray(result.distances, np.float32)


def _several(text: str) -> list[int]:
    return sorted({positive(part) for part in text.split(",")})
