"""What commands print of an answer: facts for machines, and the same as a short table."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from haag_vq.groundtruth import Findings, GroundTruth
from haag_vq.memory import format_bytes

Rows = list[tuple[str, str]]
"""Names and values of a table, in order."""


def truth_facts(truth: GroundTruth, out: str) -> dict[str, Any]:
    """List what a machine wants to know of an answer."""
    run = truth.run
    facts: dict[str, Any] = {
        "n_rows": truth.n_rows,
        "dim": truth.dim,
        "n_queries": truth.n_queries,
        "k": truth.k,
        "metric": truth.metric,
        "base_fingerprint": truth.base_fingerprint,
        "queries_sha256": truth.queries_sha256,
        "out": out,
    }
    facts |= {
        "dataset": truth.dataset,
        "query_source": truth.query_source,
        "excluded_self": truth.excluded_self,
        "commit": truth.commit,
    }
    if truth.findings is not None:
        found = asdict(truth.findings)
        # JSON has no infinity: there is no next neighbour.
        margin = found.pop("smallest_margin")
        facts |= {"smallest_margin": margin if math.isfinite(margin) else None, **found}
    if run is not None:
        facts |= {
            "partitions": run.n_partitions,
            "reused_rows": run.n_reused_rows,
            "seconds": round(run.seconds, 3),
            "peak_rss_bytes": run.peak_rss_bytes,
            "projected_bytes": run.projection.total_bytes,
        }
    if truth.tally is not None:
        facts |= {
            "scored": truth.tally.n_scored,
            "widened": truth.tally.n_widened,
            "largest_error": truth.tally.largest_error,
        }
    return facts


def truth_table(truth: GroundTruth, out: str) -> Rows:
    """Lay out an answer for a person."""
    self_left_out = ", without themselves" if truth.excluded_self else ""
    rows = [
        ("base", f"{truth.n_rows:,} × {truth.dim}"),
        ("queries", f"{truth.n_queries:,}, k={truth.k}, {truth.metric}{self_left_out}"),
    ]
    if truth.commit:
        rows.insert(1, ("commit", truth.commit))
    if truth.run is not None:
        run = truth.run
        reused = f"; {run.n_reused_rows:,} rows were there" if run.n_reused_rows else ""
        rows += [
            ("blocks", f"{run.n_partitions:,} in {run.seconds:.1f} s{reused}"),
            (
                "memory",
                f"{format_bytes(run.peak_rss_bytes)} peak of the largest worker, "
                f"{format_bytes(run.projection.total_bytes)} projected",
            ),
        ]
    if truth.tally is not None:
        tally = truth.tally
        widened = _counted(tally.n_widened, "(block, query) pair")
        rows.append(
            (
                "certified",
                f"all {truth.n_queries:,} queries: {tally.n_scored:,} pairs scored in float64, "
                f"{widened} widened, float32 off by at most {tally.largest_error:.0%} of its bound",
            )
        )
    if truth.findings is not None:
        rows.append(("met", _findings(truth.findings)))
    return [*rows, ("written", out)]


def _findings(found: Findings) -> str:
    told = [
        f"smallest margin {found.smallest_margin:.3g}",
        f"{_counted(found.n_tied, 'query', 'queries')} tied at the last place",
        f"{_counted(found.n_duplicates, 'exact duplicate')} among neighbours",
        f"{_counted(found.n_self_matches, 'query', 'queries')} whose vector is in the base",
    ]
    if found.n_excluded:
        told.append(f"{found.n_excluded:,} left out")
    return ", ".join(told)


def _counted(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def print_table(rows: Rows) -> None:
    """Print names and values in two columns."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
