"""Does ground truth change with how the base is cut? A trial on a base of repeated rows.

    python benchmarks/duplicates.py [--partitionings 200] [--json]

4,000 × 256 normal vectors in groups of 40 equal ones, in random order; the 20 nearest of 600
queries. The 40 rows nearest to a query are equal, so which 20 are named is a matter of ties alone.
The base is cut at random into blocks, some of a single row, once for every partitioning; FAISS's
contrib.exhaustive_search.knn_ground_truth and haag_vq search the same blocks. Each is compared with
its own answer for one block: a query is changed if any id of its list, or any bit of a distance, is
another.

FAISS is as installed, in a process of its own: how much it changes depends on the kernel that its
BLAS chooses. Under cosine it gets what its users give it, vectors normalized in float32. Nothing
is stored and no time is measured; --data is not used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import machine, note, parser, print_table, run_json, tell
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

Answer = tuple[Any, I64]
"""Distances and ids, each (nq, k), nearest first."""

GROUP_ROWS = 40
MOST_CUTS = 64
TINY_ROWS = 20

METRICS = ("l2", "ip", "cosine")


def make_data(n_rows: int, dim: int, n_queries: int) -> tuple[F32, F32]:
    """Make the base, whose rows come in groups of equal ones, and queries that are not in it."""
    rng = np.random.default_rng(0)
    n_groups = -(-n_rows // GROUP_ROWS)
    groups = rng.standard_normal((n_groups, dim), dtype=np.float32)
    x = np.repeat(groups, GROUP_ROWS, axis=0)[:n_rows]
    return x[rng.permutation(n_rows)], rng.standard_normal((n_queries, dim), dtype=np.float32)


def random_sizes(rng: np.random.Generator, n_rows: int) -> tuple[int, ...]:
    """Cut `n_rows` at random: few blocks or many, and some of one to `TINY_ROWS` rows."""
    n_cuts = round(MOST_CUTS ** rng.random())
    cuts = rng.integers(1, n_rows, n_cuts)
    beside = cuts[rng.random(n_cuts) < 0.3]
    beside = beside + rng.integers(1, TINY_ROWS + 1, len(beside))
    inner = np.unique(np.concatenate((cuts, beside[beside < n_rows])))
    return tuple(np.diff(np.concatenate(([0], inner, [n_rows]))).tolist())


def search_faiss(x: F32, xq: F32, k: int, metric: str, sizes: Sequence[int]) -> Answer:
    """Search block after block with FAISS's own tool."""
    import faiss
    from faiss.contrib.exhaustive_search import knn_ground_truth

    if metric == "cosine":
        x, xq = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, xq))
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    blocks = np.split(x, np.cumsum(sizes)[:-1])
    distances, ids = knn_ground_truth(xq, iter(blocks), k, kind)
    return distances, ids


def search_ours(x: F32, xq: F32, k: int, metric: str, sizes: Sequence[int]) -> Answer:
    """Search an array of these blocks, on Dask's threads, in whatever order they come."""
    import dask
    import dask.array as da

    from haag_vq import ground_truth

    array = da.from_array(x, chunks=(tuple(sizes), x.shape[1]))
    with dask.config.set(scheduler="threads"):
        truth = ground_truth(array, xq, k, metric)
    return truth.distances, truth.ids


TOOLS: dict[str, Callable[[F32, F32, int, str, Sequence[int]], Answer]] = {
    "faiss": search_faiss,
    "haag_vq": search_ours,
}


def changes(
    search: Callable[[Sequence[int]], Answer], n_rows: int, partitionings: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Count queries whose answer for some partitioning is not the one for a single block."""
    distances, ids = search((n_rows,))
    ever = {name: np.zeros(len(ids), bool) for name in ("ids", "sets", "distances")}
    n_changed = []
    for sizes in partitionings:
        D, I = search(sizes)
        other = (ids != I).any(axis=1)
        ever["ids"] |= other
        ever["sets"] |= (np.sort(I, axis=1) != np.sort(ids, axis=1)).any(axis=1)
        ever["distances"] |= (distances != D).any(axis=1)
        n_changed.append(int(other.sum()))
    return {
        **{f"{name}_changed": int(found.sum()) for name, found in ever.items()},
        "median_ids_changed": float(np.median(n_changed)),
        "most_ids_changed": max(n_changed),
        "partitionings_changed": sum(n > 0 for n in n_changed),
    }


def draw_partitionings(n_rows: int, n: int) -> list[tuple[int, ...]]:
    """Draw `n` partitionings, the same ones in every process."""
    rng = np.random.default_rng(1)
    return [random_sizes(rng, n_rows) for _ in range(n)]


def run_tool(tool: str, args: argparse.Namespace) -> dict[str, Any]:
    """Search all partitionings under every metric in this process."""
    x, xq = make_data(args.rows, args.dim, args.queries)
    partitionings = draw_partitionings(args.rows, args.partitionings)
    found: dict[str, Any] = {}
    for metric in METRICS:
        search = partial(TOOLS[tool], x, xq, args.k, metric)
        found[metric] = changes(search, args.rows, partitionings)
    return {"metrics": found, "faiss_kernel": faiss_kernel()}


def faiss_kernel() -> str:
    """Name the kernel that FAISS's BLAS chose, once FAISS is loaded."""
    from threadpoolctl import threadpool_info

    chosen = [
        str(library.get("architecture"))
        for library in threadpool_info()
        if library["user_api"] == "blas" and "faiss" in library["filepath"]
    ]
    return ", ".join(chosen) or "unknown"


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run each tool in a process of its own over the same partitionings."""
    command = [sys.executable, str(Path(__file__))]
    for name in ("rows", "dim", "queries", "k", "partitionings"):
        command += [f"--{name}", str(getattr(args, name))]
    tools = {}
    for tool in TOOLS:
        note(f"{tool}: {args.partitionings} partitionings, {len(METRICS)} metrics")
        tools[tool] = run_json([*command, "--way", tool])
    drawn = draw_partitionings(args.rows, args.partitionings)
    n_blocks = [len(sizes) for sizes in drawn]
    return {
        "machine": machine(),
        "rows": args.rows,
        "dim": args.dim,
        "queries": args.queries,
        "k": args.k,
        "partitionings": args.partitionings,
        "blocks": [min(n_blocks), max(n_blocks)],
        "smallest_block": min(min(sizes) for sizes in drawn),
        "tools": tools,
    }


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print(
        f"{found['rows']:,} × {found['dim']} in groups of {GROUP_ROWS} duplicates, "
        f"k={found['k']}, {found['queries']:,} queries; {found['partitionings']} partitionings of "
        f"{found['blocks'][0]} to {found['blocks'][1]} blocks, the smallest of "
        f"{found['smallest_block']} row(s); {found['machine']}; FAISS's BLAS kernel as installed: "
        f"{found['tools']['faiss']['faiss_kernel']}\n"
    )
    print("Queries whose answer is not the one for a single block:\n")
    runs = [
        (f"{metric}, {tool}", found["tools"][tool]["metrics"][metric])
        for metric in METRICS
        for tool in TOOLS
    ]
    rows = [
        [
            label,
            *(f"{run[f'{name}_changed']:,}" for name in ("ids", "sets", "distances")),
            f"{run['median_ids_changed']:,.0f}",
            f"{run['most_ids_changed']:,}",
            f"{run['partitionings_changed']:,}",
        ]
        for label, run in runs
    ]
    head = ["", "ids, ever", "set of ids, ever", "distances, ever"]
    head += ["ids: median", "ids: most", "partitionings with any"]
    print_table(head, rows)


def main() -> None:
    """Run the trial."""
    made = parser(__doc__)
    made.add_argument("--rows", type=int, default=4000)
    made.add_argument("--dim", type=int, default=256)
    made.add_argument("--queries", type=int, default=600)
    made.add_argument("--k", type=int, default=20)
    made.add_argument("--partitionings", type=int, default=200)
    args = made.parse_args()
    if args.way is not None:
        print(json.dumps(run_tool(args.way, args)), flush=True)
        return
    tell(args, measure(args), show)


if __name__ == "__main__":
    main()
