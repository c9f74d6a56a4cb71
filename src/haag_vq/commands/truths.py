"""Answers for one or several prefixes: how they are asked for, named, written and told."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from haag_vq.data import VectorDataset, load_published_truth
from haag_vq.errors import UsageError
from haag_vq.groundtruth import GroundTruth, load_ground_truth, score_ids
from haag_vq.groundtruth.results import read_results
from haag_vq.report import Rows, truth_facts, truth_table

# Before the name of a set or of a file whose publisher's own neighbours are meant.
PUBLISHED = "published:"


def load_truth(text: str, args: argparse.Namespace, base: VectorDataset | None) -> GroundTruth:
    """Load a file of ground truth, or what ``published:msmarco`` or ``published:FILE`` names.

    Raises
    ------
    UsageError
        If the file has ids alone and no base is there to score them by, or no metric.
    """
    if text.startswith(PUBLISHED):
        truth = load_published_truth(
            text.removeprefix(PUBLISHED), args.cache_dir, args.streaming, args.revision
        )
        if args.metric not in (None, truth.metric):
            raise UsageError(f"{text} is of {truth.metric}, --metric {args.metric} was given.")
        return truth
    if not text.lower().endswith(".ivecs"):
        return load_ground_truth(text, args.metric)
    if base is None:
        raise UsageError(
            f"{text} holds ids alone, whose distances are computed from the vectors: give --base "
            "and --queries as they were searched."
        )
    metric = args.metric or base.metric
    if metric is None:
        raise UsageError(f"{text} does not say its metric, nor does the base: give --metric.")
    return score_ids(read_results(text).ids, metric, base, name=text)


def prefix_list(text: str) -> list[int | None]:
    """Parse ``100000,1_000_000,all``."""
    found: list[int | None] = []
    for word in text.split(","):
        digits = word.strip().replace("_", "")
        if word.strip() == "all":
            found.append(None)
        elif digits.isdecimal() and int(digits):
            found.append(int(digits))
        else:
            raise argparse.ArgumentTypeError(
                f"{word!r} is no number of rows; write them as 100000,1000000,all"
            )
    # One file for each: twice the same would be written twice.
    return list(dict.fromkeys(found))


def row_range(text: str) -> tuple[int, int]:
    """Parse ``0:1_000_000``."""
    start, colon, stop = text.replace("_", "").partition(":")
    if not (colon and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise argparse.ArgumentTypeError(f"{text!r} is no range of rows; write A:B, A below B")
    return int(start), int(stop)


def part_of(text: str) -> tuple[int, int]:
    """Parse ``3/60``: the third of sixty."""
    i, slash, n = text.replace("_", "").partition("/")
    if not (slash and i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; write I/N, from 1/N to N/N")
    return int(i), int(n)


def rows_of_part(part: tuple[int, int], n_rows: int) -> tuple[int, int]:
    """Rows of the i-th of n parts, as even as can be; together they are all rows.

    Raises
    ------
    UsageError
        If there are more parts than rows: some would be empty.
    """
    i, n = part
    if n > n_rows:
        raise UsageError(f"--part {i}/{n}: there are {n_rows:,} rows; at most that many parts.")
    return n_rows * (i - 1) // n, n_rows * i // n


def prefix_outs(out: str, prefixes: Sequence[int | None] | None) -> list[str]:
    """Name the file of each prefix: ``truth.hdf5``, and ``truth.100000.hdf5``."""
    path = Path(out)
    return [
        out if prefix is None else str(path.with_suffix(f".{prefix}{path.suffix}"))
        for prefix in prefixes or [None]
    ]


def save_truths(truths: Sequence[GroundTruth], outs: Sequence[str]) -> tuple[Any, Rows]:
    """Write each answer and describe them: facts of one, or a list of them."""
    facts, table = [], []
    for truth, out in zip(truths, outs, strict=True):
        truth.save(out)
        facts.append(truth_facts(truth, out))
        table += truth_table(truth, out)
    return (facts[0] if len(facts) == 1 else facts), table
