"""Peak RSS of a worker, measured, beside what was projected before the run.

Each row is one `haag-vq ground-truth … --json`, as a user would call it: its workers are
processes, their peak is the kernel's own high-water mark, and the projection is the one by
which the run would have been refused. The peak must never pass the projection.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import (
    MIB,
    machine,
    note,
    parser,
    print_table,
    run_benchmark,
    run_json,
)


@dataclass(frozen=True, slots=True)
class Job:
    """One search."""

    data: str
    """Name in `DATA`."""
    metric: str
    k: int
    n_queries: int
    chunk: str
    """"" where the search chooses."""
    workers: int = 1
    limit: int | None = None
    memory_limit: str = ""
    """Of a worker; "" for a share of the machine."""


USUAL_MIB = 600

# File, dimension, stored type, rows. --mib asks for more or fewer rows of all alike.
DATA = {
    "npy-1536": ("x1536.npy", 1536, "float16", 102_400),
    "parquet-1536": ("x1536.parquet", 1536, "float64", 102_400),
    "fbin-384": ("x384.fbin", 384, None, 409_600),
    "npy-384": ("x384.npy", 384, "float16", 409_600),
    "npy-64": ("x64.npy", 64, "float16", 5_000_000),
}

JOBS = (
    Job("npy-1536", "l2", 10, 10, "8MiB"),
    Job("npy-1536", "l2", 100, 200, "32MiB", 2),
    Job("npy-1536", "l2", 100, 200, "128MiB"),
    Job("npy-1536", "cosine", 100, 200, "256MiB"),
    Job("npy-1536", "l2", 100, 200, "512MiB"),
    Job("npy-1536", "cosine", 10, 200, "512MiB"),
    Job("parquet-1536", "l2", 10, 10, "8MiB"),
    Job("parquet-1536", "cosine", 100, 200, "64MiB", 2),
    Job("parquet-1536", "ip", 100, 200, "128MiB", 2),
    Job("parquet-1536", "l2", 10, 200, "512MiB"),
    Job("fbin-384", "ip", 10, 10, "8MiB"),
    Job("fbin-384", "cosine", 10, 200, "128MiB", 2),
    Job("fbin-384", "l2", 100, 200, "512MiB"),
    Job("fbin-384", "l2", 1000, 200, "64MiB", 2),
    Job("fbin-384", "l2", 1000, 500, "16MiB", 1, 60_000),
    Job("npy-384", "l2", 100, 2000, "32MiB", 2, 150_000),
    Job("npy-384", "cosine", 100, 10000, "32MiB", 1, 60_000),
    Job("npy-384", "l2", 100, 10000, "16MiB", 2, 60_000),
    Job("npy-64", "l2", 1000, 1000, "", memory_limit="1GB"),
)


def haag_vq(*words: str) -> dict[str, Any]:
    """Run one command of the command line; returns what it printed as JSON."""
    return run_json([sys.executable, "-m", "haag_vq.cli", *words, "--json", "--quiet"])


def generate(home: Path, names: Sequence[str], mib: int) -> None:
    """Export the data that jobs need, if it is not there."""
    for name in names:
        file, dim, dtype, n_rows = DATA[name]
        if not (home / file).exists():
            note(f"writing {file}")
            made = f"synthetic:{n_rows * mib // USUAL_MIB}x{dim}"
            kind = ("--dtype", dtype) if dtype else ()
            haag_vq("export", made, str(home / file), *kind)


def run_job(home: Path, job: Job) -> dict[str, Any]:
    """Search; returns the command's facts and the job's."""
    file = DATA[job.data][0]
    words = ["ground-truth", str(home / file), "--queries", f"sample:{job.n_queries}"]
    words += ["--k", str(job.k), "--metric", job.metric]
    if job.chunk:
        words += ["--chunk-size", job.chunk]
    if job.memory_limit:
        words += ["--memory-limit", job.memory_limit]
    words += ["--workers", str(job.workers), "--out", str(home / "out.npz")]
    if job.limit is not None:
        words += ["--limit", str(job.limit)]
    facts = haag_vq(*words)
    chunk = job.chunk or f"in {job.memory_limit}"
    return {"data": job.data, "chunk": chunk, "workers": job.workers, **facts}


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{found['machine']}\n")
    table = [
        [
            run["data"],
            run["metric"],
            f"{run['k']:,}",
            f"{run['n_queries']:,}",
            run["chunk"],
            f"{run['workers']}",
            f"{run['partitions']:,}",
            f"{run['seconds']:.1f}",
            f"{run['peak_rss_bytes'] / MIB:,.0f}",
            f"{run['projected_bytes'] / MIB:,.0f}",
            f"{run['projected_bytes'] / run['peak_rss_bytes']:.2f}",
        ]
        for run in found["jobs"]
    ]
    head = ["data", "metric", "k", "queries", "chunk", "workers", "blocks", "s"]
    print_table([*head, "peak MiB", "projected MiB", "projected/peak"], table)
    worst = max(run["peak_rss_bytes"] / run["projected_bytes"] for run in found["jobs"])
    print(f"\nlargest peak/projection: {worst:.2f} (must not pass 1)")


def measure(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Generate the data and run the jobs."""
    jobs = [JOBS[i] for i in args.jobs] if args.jobs else list(JOBS)
    generate(home, sorted({job.data for job in jobs}), args.mib)
    found = []
    for i, job in enumerate(jobs):
        note(f"job {i + 1} of {len(jobs)}: {job}")
        found.append(run_job(home, job))
        peak, most = (found[-1][name] / MIB for name in ("peak_rss_bytes", "projected_bytes"))
        note(f"  peak {peak:,.0f} MiB, projected {most:,.0f} MiB")
    return {"machine": machine(), "jobs": found}


def main() -> None:
    """Run the benchmark."""
    args_parser = parser(__doc__)
    args_parser.add_argument("--mib", type=int, default=USUAL_MIB, help="of most bases, as float32")
    args_parser.add_argument("--jobs", type=int, nargs="*", help="numbers of jobs (default: all)")
    args = args_parser.parse_args()
    run_benchmark(args, "haag-vq-memory-", measure, show)


if __name__ == "__main__":
    main()
