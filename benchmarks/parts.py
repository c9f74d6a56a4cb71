"""Where the CPU time of a search goes: reading, products, scan, rescoring.

    python benchmarks/parts.py [--rows 200000] [--dim 1024] [--queries 100,1677,10000] [--k 100]
                               [--runs 3] [--data DIR] [--json]

The job of `ground_truth.py`, block by block in one process without Dask, on two threads. Each
part's CPU time is that of the thread that does it (FAISS's helpers in the opening count in the
rest), so that what waits costs nothing; medians of the runs, of which the first, that warms the
buffers, does not count.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any
from unittest.mock import patch

import numpy as np
from ground_truth import N_THREADS, make_data
from measuring import note, parser, print_table, run_benchmark, warm

from haag_vq import open_dataset
from haag_vq.groundtruth import blas, engine, kernel, products, scan, workspace
from haag_vq.groundtruth.inputs import EXTRA
from haag_vq.groundtruth.tasks import BlockTask, Search
from haag_vq.sources.fixed import FixedRowSource

# What is timed: a part's name, where a function of it is looked up, and its name there.
PARTS: list[tuple[str, Any, str]] = [
    ("reading", FixedRowSource, "read_into"),
    ("norms", kernel, "measure"),
    ("norms", products, "rests"),
    ("opening", kernel, "first_ceilings"),
    ("choosing", products, "best_head"),
    ("products", np, "matmul"),
    ("scan", scan, "scan"),
    ("rescoring", scan, "settle"),
]


class Clock:
    """Adds up the CPU seconds that threads spend in each part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys((name for name, _, _ in PARTS), 0.0)
        self._lock = Lock()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function of a part."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                with self._lock:
                    self.seconds[part] += time.thread_time() - started

        return wrapped


def search(base: Path, queries: Path, k: int, n_blocks: int, job: str) -> dict[str, float]:
    """Search the base; returns wall and CPU seconds, of all and of each part."""
    source, xq = open_dataset(base).source, np.load(queries)
    task = Search(job, k + EXTRA, "l2", N_THREADS)
    cuts = np.linspace(0, source.n_rows, n_blocks + 1).astype(int).tolist()
    clock = Clock()
    with ExitStack() as stack:
        for part, place, name in PARTS:
            stack.enter_context(patch.object(place, name, clock.timed(part, getattr(place, name))))
        wall, cpu = time.perf_counter(), time.process_time()
        for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
            BlockTask(source.narrow(start, stop), start, 0, task)(xq)
        whole = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return whole | clock.seconds


def measure(home: Path, args: Namespace) -> dict[str, Any]:
    """Search for each number of queries, several times."""
    found = {}
    engine.use_threads(N_THREADS)
    n_blocks = max(1, round(args.rows * args.dim * 4 / (200 << 20)))
    for n_queries in (int(n) for n in args.queries.split(",")):
        base, queries = make_data(home, args.rows, args.dim, n_queries)
        warm([base])
        runs = []
        for run in range(args.runs + 1):
            took = search(base, queries, args.k, n_blocks, f"{n_queries}-{run}")
            note(f"{n_queries:,} queries: {took['wall']:.2f} s" + ("" if run else " (warming)"))
            runs += [took] if run else []
        found[str(n_queries)] = {name: median(one[name] for one in runs) for name in runs[0]}
    workspace.release()
    return {"threads": blas.thread_count(N_THREADS), "queries": found}


def show(found: dict[str, Any]) -> None:
    """Print shares of the CPU time."""
    names = list(dict.fromkeys(name for name, _, _ in PARTS))
    table = []
    for n_queries, took in found["queries"].items():
        rest = took["cpu"] - sum(took[name] for name in names)
        shares = [took[name] / took["cpu"] for name in names] + [rest / took["cpu"]]
        cells = [f"{took['wall']:.2f}", f"{took['cpu']:.2f}", *(f"{s:.1%}" for s in shares)]
        table.append([f"{int(n_queries):,}", *cells])
    print_table(["queries", "s", "CPU s", *names, "rest"], table)


def main() -> None:
    """Parse, measure, print."""
    made = parser(__doc__)
    made.add_argument("--rows", type=int, default=200_000)
    made.add_argument("--dim", type=int, default=1024)
    made.add_argument("--queries", default="100,1677,10000")
    made.add_argument("--runs", type=int, default=3)
    made.add_argument("--k", type=int, default=100)
    run_benchmark(made.parse_args(), "haag-vq-parts-", measure, show)


if __name__ == "__main__":
    main()
