"""Exact ground truth, certified, beside what else finds neighbours, and beside sgemm alone.

    python benchmarks/ground_truth.py [--rows 200000] [--dim 1024] [--queries 100,1677,10000]
                                      [--runs 5] [--k 100] [--ways NAMES] [--data DIR] [--json]

Clustered unit vectors, stored as one float16 .npy in the page cache; squared l2, two threads. Every
way has a process of its own that lives through all runs, and answers 100 queries, untimed, before
each (its buffers are warm, however long the others took); the runs of the ways take turns, and
medians are shown. GFLOP/s count 2 · queries · rows · dimensions, whatever a way really computes.
Only haag_vq reads the file while it is timed; the others have the base in memory as float32. Its
memory is that of its two processes together.

    sgemm Q@Xᵀ, X@Qᵀ   NumPy's matrix product alone, in slabs of 1 GiB: the limit
    faiss              IndexFlatL2: add and search, as installed
    faiss on a new CPU the same, its BLAS told that the CPU is none it knows (OpenBLAS's oldest
                       kernel, as faiss-cpu does by itself on CPUs younger than its OpenBLAS)
    faiss contrib      contrib.exhaustive_search.knn_ground_truth over blocks of 32,768 rows
    scikit-learn       NearestNeighbors(algorithm="brute"): kneighbors
    haag_vq            ground_truth() on one local Dask worker of two threads
    haag_vq whole      the same, told to multiply all dimensions of every pair
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from clustered import Clustered
from measuring import MIB, Served, data_directory, machine, note, parser, print_table, warm

SLAB_BYTES = 1 << 30
BLOCK_ROWS = 32_768
N_THREADS = 2
N_WARMING = 100

# Answers queries (nq, d).
Way = Callable[[Any], None]


def make_data(home: Path, n_rows: int, dim: int, n_queries: int) -> tuple[Path, Path]:
    """Write the base (float16) and the queries (float32), unless they are there."""
    base, queries = home / f"base-{n_rows}x{dim}.npy", home / f"queries-{n_queries}x{dim}.npy"
    drawn = Clustered(dim)
    if not base.exists():
        note(f"writing {base.name}")
        drawn.write(base, n_rows)
    np.save(queries, drawn.rows(n_queries))
    return base, queries


def way_sgemm(base: Path, most: int, k: int, transposed: bool) -> Way:
    """NumPy's product of queries and base, into a buffer that is used again."""
    x = np.load(base).astype(np.float32)
    step = max(1, min(len(x), SLAB_BYTES // (4 * most)))
    buffer = np.empty(step * most, np.float32)

    def run(xq: Any) -> None:
        for at in range(0, len(x), step):
            rows = x[at : at + step]
            out = buffer[: len(rows) * len(xq)]
            if transposed:
                np.matmul(rows, xq.T, out=out.reshape(len(rows), len(xq)))
            else:
                np.matmul(xq, rows.T, out=out.reshape(len(xq), len(rows)))

    return run


def way_faiss(base: Path, most: int, k: int) -> Way:
    """FAISS's flat index, out of the box."""
    import faiss

    x = np.load(base).astype(np.float32)
    faiss.omp_set_num_threads(N_THREADS)

    def run(xq: Any) -> None:
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(x)
        index.search(xq, k)

    return run


def way_contrib(base: Path, most: int, k: int) -> Way:
    """FAISS's own partitioned ground truth."""
    import faiss
    from faiss.contrib.exhaustive_search import knn_ground_truth

    x = np.load(base).astype(np.float32)
    faiss.omp_set_num_threads(N_THREADS)

    def blocks() -> Iterator[Any]:
        for at in range(0, len(x), BLOCK_ROWS):
            yield x[at : at + BLOCK_ROWS]

    return lambda xq: knn_ground_truth(xq, blocks(), k, metric_type=faiss.METRIC_L2)


def way_sklearn(base: Path, most: int, k: int) -> Way:
    """scikit-learn's brute force."""
    from sklearn.neighbors import NearestNeighbors

    x = np.load(base).astype(np.float32)
    found = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="sqeuclidean").fit(x)
    return lambda xq: found.kneighbors(xq)


def way_ours(base: Path, most: int, k: int) -> Way:
    """This package, through Dask, from the file."""
    from haag_vq import ground_truth, open_dataset

    dataset = open_dataset(base)

    def run(xq: Any) -> None:
        ground_truth(dataset, xq, k=k)

    return run


def multiply_whole() -> None:
    """Never choose fewer dimensions, in this process."""
    from haag_vq.groundtruth import partial

    partial.LEAST_USE = 1 << 60


WAYS: dict[str, Callable[[Path, Any, int], Way]] = {
    "sgemm Q@Xᵀ": lambda base, most, k: way_sgemm(base, most, k, transposed=False),
    "sgemm X@Qᵀ": lambda base, most, k: way_sgemm(base, most, k, transposed=True),
    "faiss": way_faiss,
    "faiss on a new CPU": way_faiss,
    "faiss contrib": way_contrib,
    "scikit-learn": way_sklearn,
    "haag_vq": way_ours,
    "haag_vq whole": way_ours,
}


# OpenBLAS falls back to this kernel where it does not know the CPU.
ENVIRONMENTS = {"faiss on a new CPU": {"OPENBLAS_CORETYPE": "Prescott"}}


def own_peak_bytes() -> int:
    """Peak resident set size of this process."""
    from pathlib import Path

    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def serve(way: str, base: Path, queries: Path, k: int) -> None:
    """Run a way once for every line that comes in; answer with seconds and peak bytes."""
    xq = np.load(queries)
    with ExitStack() as stack:
        peak = own_peak_bytes
        if way.startswith("haag_vq"):
            # Not before: it chooses the BLAS kernel for FAISS, which the others are to do without.
            from haag_vq import connect

            client = stack.enter_context(connect("local", jobs=1)).client
            if way != "haag_vq":
                client.run(multiply_whole)

            def peak() -> int:
                return own_peak_bytes() + int(sum(client.run(own_peak_bytes).values()))

        run = WAYS[way](base, len(xq), k)
        for _ in sys.stdin:
            run(xq[:N_WARMING])
            started = time.perf_counter()
            run(xq)
            seconds = time.perf_counter() - started
            print(json.dumps({"seconds": seconds, "peak": peak()}), flush=True)


def served(way: str, arguments: list[str]) -> Served:
    """Start a way's process."""
    environment = {name: value for name, value in os.environ.items() if "_NUM_THREADS" not in name}
    return Served(
        [__file__, "--way", way, *arguments], {**environment, **ENVIRONMENTS.get(way, {})}
    )


def measure(
    ways: list[str], base: Path, queries: Path, k: int, n_runs: int, gflop: float
) -> dict[str, Any]:
    """Let the ways take turns; returns GFLOP/s (median, least, most) and peak bytes of each."""
    with ExitStack() as stack:
        arguments = ["--base", str(base), "--query-file", str(queries), "--k", str(k)]
        processes = {way: stack.enter_context(served(way, arguments)) for way in ways}
        found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for turn in range(n_runs + 1):
            for way, process in processes.items():
                process.begin()
                once = process.answer()
                if turn:  # the first warms the buffers
                    found[way].append(once)
                note(f"  {way}: {once['seconds']:.2f} s" + ("" if turn else " (warming)"))
    return {
        way: {
            "gflops": gflop / median(once["seconds"] for once in all_runs),
            "least": gflop / max(once["seconds"] for once in all_runs),
            "most": gflop / min(once["seconds"] for once in all_runs),
            "peak": max(once["peak"] for once in all_runs),
        }
        for way, all_runs in found.items()
    }


def show(n_queries: int, found: dict[str, Any]) -> None:
    """Print one table."""
    limit, stock = (found.get(way, {}).get("gflops") for way in ("sgemm Q@Xᵀ", "faiss"))
    print(f"\n{n_queries:,} queries")
    print_table(
        ["", "GFLOP/s", "least–most", "of Q@Xᵀ", "× faiss", "peak RSS MiB"],
        [
            [
                way,
                f"{row['gflops']:.0f}",
                f"{row['least']:.0f}–{row['most']:.0f}",
                f"{row['gflops'] / limit:.2f}" if limit else "",
                f"{row['gflops'] / stock:.2f}" if stock else "",
                f"{row['peak'] / MIB:.0f}",
            ]
            for way, row in found.items()
        ],
    )


def main() -> None:
    """Parse, measure, print."""
    made = parser(__doc__)
    made.add_argument("--rows", type=int, default=200_000)
    made.add_argument("--dim", type=int, default=1024)
    made.add_argument("--queries", default="100,1677,10000")
    made.add_argument("--runs", type=int, default=5)
    made.add_argument("--k", type=int, default=100)
    made.add_argument("--ways", default=",".join(WAYS), help="which ones, by name")
    made.add_argument("--base", type=Path)
    made.add_argument("--query-file", type=Path)
    args = made.parse_args()
    if args.way:
        serve(args.way, args.base, args.query_file, args.k)
        return
    facts: dict[str, Any] = {}
    ways = [way for way in WAYS if way in args.ways.split(",")]
    with data_directory(args.data, "haag-vq-bench-") as home:
        for n_queries in (int(n) for n in args.queries.split(",")):
            base, queries = make_data(home, args.rows, args.dim, n_queries)
            warm([base])
            note(f"{n_queries:,} queries")
            gflop = 2e-9 * n_queries * args.rows * args.dim
            facts[str(n_queries)] = measure(ways, base, queries, args.k, args.runs, gflop)
            if not args.json:
                show(n_queries, facts[str(n_queries)])
    if args.json:
        print(json.dumps(facts))
    else:
        print(f"\n{args.rows:,} × {args.dim}, k={args.k}, medians of {args.runs}; {machine()}")


if __name__ == "__main__":
    main()
