"""What `haag-vq plan` says of ten jobs, beside what the same words take when they are run.

The machine is calibrated first (`haag-vq doctor --calibrate`, which keeps its rates for the user).
Then each job is planned and run: its peak RSS must not pass what was projected, and where the
block is its largest part, be within 25% of it; its time must be within a factor of two of the
estimate.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from measuring import MIB, machine, note, parser, print_table, run_benchmark
from memory import DATA, Job, generate, haag_vq

JOBS = (
    Job("npy-1536", "l2", 10, 1, "128MiB"),
    Job("npy-1536", "cosine", 100, 1000, "512MiB"),
    Job("npy-1536", "ip", 100, 5000, "64MiB"),
    Job("parquet-1536", "l2", 10, 100, "128MiB"),
    Job("parquet-1536", "cosine", 100, 100, "64MiB", 2),
    Job("fbin-384", "ip", 1000, 100, "64MiB"),
    Job("fbin-384", "l2", 100, 1000, "512MiB", 2),
    Job("fbin-384", "cosine", 10, 10000, "32MiB", 1, 100_000),
    Job("npy-384", "l2", 1000, 1000, "32MiB", 2),
    Job("npy-384", "cosine", 100, 10000, "128MiB", 2, 200_000),
)


def run_job(home: Path, job: Job) -> dict[str, Any]:
    """Plan and run one search; returns both sides."""
    file = DATA[job.data][0]
    words = ["ground-truth", str(home / file), "--queries", f"sample:{job.n_queries}"]
    words += ["--k", str(job.k), "--metric", job.metric, "--chunk-size", job.chunk]
    words += ["--workers", str(job.workers), "--out", str(home / "out.npz")]
    if job.limit is not None:
        words += ["--limit", str(job.limit)]
    plan = haag_vq("plan", *words)
    parts = plan["memory_parts"]
    started = time.perf_counter()
    run = haag_vq(*words)
    seconds = time.perf_counter() - started
    return {
        "data": job.data,
        "metric": job.metric,
        "k": job.k,
        "n_queries": job.n_queries,
        "chunk": job.chunk,
        "workers": job.workers,
        "projected_bytes": plan["projected_bytes"],
        "peak_rss_bytes": run["peak_rss_bytes"],
        "same_projection": plan["projected_bytes"] == run["projected_bytes"],
        "data_dominates": max(parts, key=lambda name: parts[name]) == "buffer",
        "planned_seconds": plan["time"]["seconds"],
        "low_seconds": plan["time"]["low_seconds"],
        "high_seconds": plan["time"]["high_seconds"],
        "bottleneck": plan["time"]["bottleneck"],
        "seconds": seconds,
    }


def show(found: dict[str, Any]) -> None:
    """Print the table and what must hold."""
    print(f"{found['machine']}\n")
    head = ["data", "metric", "k", "queries", "chunk", "workers", "projected MiB", "peak MiB"]
    head += ["projected/peak", "planned s (range)", "measured s", "planned/measured", "most of it"]
    rows = [
        [
            run["data"],
            run["metric"],
            f"{run['k']:,}",
            f"{run['n_queries']:,}",
            run["chunk"],
            str(run["workers"]),
            f"{run['projected_bytes'] / MIB:,.0f}",
            f"{run['peak_rss_bytes'] / MIB:,.0f}",
            f"{run['projected_bytes'] / run['peak_rss_bytes']:.2f}{'*' * run['data_dominates']}",
            f"{run['planned_seconds']:.1f} ({run['low_seconds']:.0f}–{run['high_seconds']:.0f})",
            f"{run['seconds']:.1f}",
            f"{run['planned_seconds'] / run['seconds']:.2f}",
            run["bottleneck"],
        ]
        for run in found["jobs"]
    ]
    print_table(head, rows)
    ratios = [run["projected_bytes"] / run["peak_rss_bytes"] for run in found["jobs"]]
    most = max(
        (
            run["projected_bytes"] / run["peak_rss_bytes"]
            for run in found["jobs"]
            if run["data_dominates"]
        ),
        default=1.0,
    )
    times = [run["planned_seconds"] / run["seconds"] for run in found["jobs"]]
    print(f"\nleast projected/peak: {min(ratios):.2f} (must be at least 1)")
    print(f"most where data dominates (*): {most:.2f} (must be at most 1.25)")
    print(f"planned/measured seconds: {min(times):.2f} to {max(times):.2f} (must be 0.5 to 2)")


def measure(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Calibrate, generate the data, plan and run the jobs."""
    jobs = [JOBS[i] for i in args.jobs] if args.jobs else list(JOBS)
    generate(home, sorted({job.data for job in jobs}), args.mib)
    if not args.rates_kept:
        note("calibrating")
        haag_vq("doctor", "--calibrate", str(home))
    found = []
    for i, job in enumerate(jobs):
        note(f"job {i + 1} of {len(jobs)}: {job}")
        found.append(run_job(home, job))
    return {"machine": machine(), "jobs": found}


def main() -> None:
    """Run the benchmark."""
    args_parser = parser(__doc__)
    args_parser.add_argument("--mib", type=int, default=400, help="of each base, as float32")
    args_parser.add_argument("--jobs", type=int, nargs="*", help="numbers of jobs (default: all)")
    args_parser.add_argument(
        "--rates-kept", action="store_true", help="go by the rates that are there"
    )
    args = args_parser.parse_args()
    run_benchmark(args, "haag-vq-plan-", measure, show)


if __name__ == "__main__":
    main()
