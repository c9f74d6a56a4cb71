"""Open 10⁹ rows in 1,000 shards, and build the graphs over them: what planning alone costs.

Headers and footers are real, data is not: .npy shards are sparse files; the Parquet shard is
written once, of constant vectors in row groups of 1,000, and linked under 1,000 names. Nothing
is read but headers, footers and one slice of 100 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import (
    MIB,
    machine,
    note,
    parser,
    print_table,
    run_benchmark,
    run_json,
)

GROUP_ROWS = 1000
SLICE_ROWS = 100
KINDS = ("npy", "parquet")


def generate(home: Path, kind: str, n_shards: int, shard_rows: int, dim: int) -> None:
    """Make the shards of one kind, if they are not there."""
    folder = home / f"{kind}-{n_shards}-{shard_rows}-{dim}"
    if folder.exists():
        return
    note(f"making {n_shards:,} {kind} shards of {shard_rows:,} × {dim} in {folder}")
    part = home / "part"
    part.mkdir()
    if kind == "npy":
        for i in range(n_shards):
            _sparse_npy(part / f"shard-{i}.npy", shard_rows, dim)
    else:
        first = part / "shard-0.parquet"
        _constant_parquet(first, shard_rows, dim)
        for i in range(1, n_shards):
            os.link(first, part / f"shard-{i}.parquet")
    part.rename(folder)


def _sparse_npy(path: Path, n_rows: int, dim: int) -> None:
    with open(path, "wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (n_rows, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + n_rows * dim * 2)


def _constant_parquet(path: Path, n_rows: int, dim: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = pa.array(np.full(GROUP_ROWS * dim, 0.25, np.float32))
    offsets = np.arange(0, GROUP_ROWS * dim + 1, dim, dtype=np.int32)
    group = pa.table({"emb": pa.ListArray.from_arrays(offsets, values)})
    with pq.ParquetWriter(path, group.schema) as writer:
        for at in range(0, n_rows, GROUP_ROWS):
            writer.write_table(group.slice(0, min(GROUP_ROWS, n_rows - at)))


class Meter:
    """CPU seconds, wall seconds and growth of RSS, step by step."""

    def __init__(self) -> None:
        from haag_vq.memory import rss_bytes

        self._rss = rss_bytes
        self.facts: dict[str, Any] = {}

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """Do `work`, noting what it took under `name`."""
        rss, cpu, wall = self._rss(), time.process_time(), time.perf_counter()
        found = work()
        self.facts[f"{name}_cpu_seconds"] = time.process_time() - cpu
        self.facts[f"{name}_seconds"] = time.perf_counter() - wall
        self.facts[f"{name}_rss_bytes"] = self._rss() - rss
        return found


def run_kind(folder: Path, kind: str, chunk_bytes: int) -> dict[str, Any]:
    """Measure one format in this process."""
    import dask

    from haag_vq.data import VectorDataset
    from haag_vq.sources import open_source

    # Dask imports some of itself at the first graph: that is the process's cost, not a graph's.
    dask.optimize(VectorDataset(open_source(next(folder.iterdir())), "warm").vectors[:1])
    meter = Meter()
    source = meter.step("open", lambda: open_source(folder))
    dataset = VectorDataset(source, "scale", chunk_bytes=chunk_bytes)
    vectors = meter.step("vectors", lambda: dataset.vectors)
    (whole,) = meter.step("vectors_optimized", lambda: dask.optimize(vectors))
    start = source.n_rows // 2 + 50
    sliced = vectors[start : start + SLICE_ROWS]
    (cut,) = meter.step("slice_optimized", lambda: dask.optimize(sliced))
    search = meter.step("search", lambda: _search(source, chunk_bytes))
    sizes = _task_sizes(whole)
    search_sizes = _task_sizes(search)
    reads = _count_reads(cut)
    return {
        "kind": kind,
        "n_rows": source.n_rows,
        "n_shards": len(source.files),
        "n_blocks": int(vectors.numblocks[0]),
        **meter.facts,
        "graph_rss_bytes": sum(
            meter.facts[f"{name}_rss_bytes"]
            for name in ("vectors", "vectors_optimized", "slice_optimized", "search")
        ),
        "slice_tasks": len(dict(cut.dask)),
        "largest_task_bytes": max(sizes),
        "search_tasks": len(search_sizes),
        "largest_search_task_bytes": max(search_sizes),
        "slice_bytes": sum(reads),
        "slice_row_bytes": source.dim * source.dtype.itemsize * SLICE_ROWS,
    }


def _search(source: Any, chunk_bytes: int) -> Any:
    """The whole ground-truth graph, planned and optimized as `compute` would have it."""
    import dask

    from haag_vq.groundtruth import graph
    from haag_vq.groundtruth.runner import InMemory
    from haag_vq.groundtruth.tasks import BlockTask, Search
    from haag_vq.partition import plan_partitions

    search = Search("benchmark", 102, "l2", None)
    leaves = [
        graph.Leaf(BlockTask(source.narrow(a, b), a, 0, search), a, b)
        for a, b in plan_partitions(source.edges, source.dim * 4, chunk_bytes)
    ]
    branch = graph.Branch(leaves, partial(InMemory(search.width).merge, (0, source.n_rows)))
    merged, _ = graph.build([branch], graph.SpilledQueries("/queries"))
    (found,) = dask.optimize(merged)
    return found


def _task_sizes(collection: Any) -> list[int]:
    """Bytes of every task of a graph, pickled on its own."""
    import cloudpickle

    return [len(cloudpickle.dumps(task)) for task in dict(collection.dask).values()]


def _count_reads(collection: Any) -> list[int]:
    """Compute, and return the bytes of each positioned read that it made."""
    reads: list[int] = []
    preadv = os.preadv

    def counted(fd: int, buffers: Any, offset: int, *flags: int) -> int:
        n = preadv(fd, buffers, offset, *flags)
        reads.append(n)
        return n

    os.preadv = counted
    try:
        shape = collection.compute(scheduler="synchronous").shape
    finally:
        os.preadv = preadv
    assert shape[0] == SLICE_ROWS
    return reads


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    runs = [found[kind] for kind in KINDS if kind in found]
    first = runs[0]
    print(f"{first['n_rows']:,} rows in {first['n_shards']:,} shards; {found['machine']}\n")

    def row(label: str, text: Callable[[dict[str, Any]], str]) -> list[str]:
        return [label, *(text(run) for run in runs)]

    def step(label: str, name: str) -> list[str]:
        return row(
            label,
            lambda run: (
                f"{run[f'{name}_cpu_seconds']:.2f} s, {run[f'{name}_rss_bytes'] / MIB:.0f} MiB"
            ),
        )

    table = [
        row("open, 16 threads: wall", lambda run: f"{run['open_seconds']:.2f} s"),
        step("open: CPU, RSS growth", "open"),
        row("blocks", lambda run: f"{run['n_blocks']:,}"),
        step("dataset.vectors: CPU, RSS growth", "vectors"),
        step("… optimized", "vectors_optimized"),
        step("vectors[a:a+100], optimized", "slice_optimized"),
        step("ground-truth graph, optimized", "search"),
        row("RSS growth of all graphs", lambda run: f"{run['graph_rss_bytes'] / MIB:.0f} MiB"),
        row("tasks of the slice", lambda run: f"{run['slice_tasks']}"),
        row("tasks of the ground truth", lambda run: f"{run['search_tasks']:,}"),
        row("largest pickled block task", lambda run: f"{run['largest_task_bytes']:,} B"),
        row("largest pickled search task", lambda run: f"{run['largest_search_task_bytes']:,} B"),
        row(
            "bytes read for 100 rows",
            lambda run: (
                f"{run['slice_bytes']:,} of {run['slice_row_bytes']:,}"
                if run["kind"] == "npy"
                else "a row group"
            ),
        ),
    ]
    print_table(["", *(run["kind"] for run in runs)], table)


def measure(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run each format in a process of its own."""
    found: dict[str, Any] = {"machine": machine()}
    for kind in KINDS:
        generate(home, kind, args.shards, args.shard_rows, args.dim)
        folder = home / f"{kind}-{args.shards}-{args.shard_rows}-{args.dim}"
        command = [sys.executable, str(Path(__file__)), "--data", str(folder), "--way", kind]
        found[kind] = run_json([*command, "--chunk-bytes", str(args.chunk_bytes)])
    return found


def main() -> None:
    """Run the benchmark, or one format of it."""
    args_parser = parser(__doc__)
    args_parser.add_argument("--shards", type=int, default=1000)
    args_parser.add_argument("--shard-rows", type=int, default=1_000_000)
    args_parser.add_argument("--dim", type=int, default=384)
    args_parser.add_argument("--chunk-bytes", type=int, default=128 * MIB)
    args = args_parser.parse_args()
    if args.way is not None:
        print(json.dumps(run_kind(Path(args.data), args.way, args.chunk_bytes)), flush=True)
        return
    run_benchmark(args, "haag-vq-scale-", measure, show)


if __name__ == "__main__":
    main()
