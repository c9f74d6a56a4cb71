"""Load vectors into one float32 array, each way in a process of its own, in one run.

On Parquet (lists of float64, snappy, row groups of 1,000, a text column beside): the row loop
that the project began with, over `datasets`; `datasets` with NumPy batches; pyarrow; ours. On
the float16 .npy twin: NumPy's cast of a memory map, and ours. Ways are interleaved and medians
of `--repeat` processes shown; the page cache is warm for all.

"over" is the peak RSS less the RSS after imports and less the output array. Memory-mapped pages
(Arrow's cache, the .npy map) count, because they do where a worker's memory is judged.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import (
    MIB,
    answer,
    machine,
    medians,
    note,
    parser,
    print_table,
    run_benchmark,
    run_json,
    warm,
)

COLUMN = "embedding"
N_SHARDS = 3
GROUP_ROWS = 1000

# A read of the .npy takes so little time that the host's own page faults decide it: so many
# reads in one process, of which the median counts.
NPY_READS = 5

LABELS = {
    "loop-streaming": "row loop, datasets streaming",
    "loop-faiss": "row loop, then IndexFlatL2.add",
    "loop-cached": "row loop, datasets from its Arrow cache",
    "numpy-batches": "datasets streaming, numpy batches",
    "pyarrow": "pyarrow iter_batches + copy",
    "ours-1": "haag_vq, 1 thread",
    "ours-all": "haag_vq, all cores",
    "npy-astype": "npy: astype of the memory map",
    "npy-ours-1": "npy: haag_vq, 1 thread",
    "npy-ours-all": "npy: haag_vq, all cores",
}
LOOPS = ("loop-streaming", "loop-faiss", "loop-cached")


def generate(home: Path, n_rows: int, dim: int, loop_rows: int) -> None:
    """Write the shards, the .npy twin, and, where it is shorter, the file for the row loops."""
    if (home / "done").exists() and (home / "done").read_text() == f"{n_rows} {dim} {loop_rows}":
        return
    note(f"writing {n_rows:,} × {dim} as float64 Parquet and float16 .npy in {home}")
    cuts = [round(n_rows * i / N_SHARDS) for i in range(N_SHARDS + 1)]
    twin = np.lib.format.open_memmap(home / "x.npy", "w+", np.float16, (n_rows, dim))
    for s in range(N_SHARDS):
        write_parquet(home / f"x-{s}.parquet", cuts[s], cuts[s + 1], dim, twin)
    del twin
    if loop_rows < n_rows:
        write_parquet(home / "loop.parquet", 0, loop_rows, dim)
    (home / "done").write_text(f"{n_rows} {dim} {loop_rows}")


def write_parquet(path: Path, start: int, stop: int, dim: int, twin: Any = None) -> None:
    """Write rows ``start:stop`` of the synthetic set as one shard, and into `twin`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from haag_vq.sources import SyntheticSource

    source = SyntheticSource(stop, dim)
    kind = pa.list_(pa.float64())
    schema = pa.schema([("_id", pa.string()), ("text", pa.string()), (COLUMN, kind)])
    with pq.ParquetWriter(path, schema, compression="snappy") as writer:
        for at in range(start, stop, GROUP_ROWS):
            rows = np.empty((min(GROUP_ROWS, stop - at), dim), np.float32)
            source.read_into(at, rows)
            if twin is not None:
                twin[at : at + len(rows)] = rows
            numbers = range(at, at + len(rows))
            offsets = np.arange(0, rows.size + 1, dim, dtype=np.int32)
            columns = [
                [f"<dbpedia:{i}>" for i in numbers],
                [f"An abstract of some hundred letters about entity {i}. " * 6 for i in numbers],
                pa.ListArray.from_arrays(offsets, pa.array(rows.astype(np.float64).ravel())),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def _shards(home: Path) -> list[str]:
    return [str(home / f"x-{s}.parquet") for s in range(N_SHARDS)]


def _loop_files(home: Path) -> list[str]:
    short = home / "loop.parquet"
    return [str(short)] if short.exists() else _shards(home)


def _row_loop(home: Path, n_rows: int, dim: int, streaming: bool) -> tuple[float, Any]:
    """The original's loader: a preallocated array, filled an item at a time."""
    from datasets import load_dataset

    started = time.perf_counter()
    rows = load_dataset("parquet", data_files=_loop_files(home), split="train", streaming=streaming)
    opened = time.perf_counter() - started
    vectors = np.zeros((n_rows, dim), dtype=np.float32)
    # To the end: an iterator of datasets that is left half-way hangs the interpreter at exit.
    for i, item in enumerate(rows):
        vectors[i] = item[COLUMN]
    return opened, vectors


def _numpy_batches(home: Path, n_rows: int, dim: int) -> tuple[float, Any]:
    from datasets import load_dataset

    started = time.perf_counter()
    rows = load_dataset(
        "parquet", data_files=_shards(home), split="train", streaming=True, columns=[COLUMN]
    ).with_format("numpy")
    opened = time.perf_counter() - started
    vectors = np.zeros((n_rows, dim), dtype=np.float32)
    at = 0
    for batch in rows.iter(batch_size=GROUP_ROWS):
        found = batch[COLUMN]
        vectors[at : at + len(found)] = found
        at += len(found)
    return opened, vectors


def _pyarrow(home: Path, n_rows: int, dim: int) -> tuple[float, Any]:
    import pyarrow.parquet as pq

    started = time.perf_counter()
    files = [pq.ParquetFile(path) for path in _shards(home)]
    opened = time.perf_counter() - started
    vectors = np.zeros((n_rows, dim), dtype=np.float32)
    at = 0
    for file in files:
        for batch in file.iter_batches(columns=[COLUMN]):
            found = batch.column(0).flatten().to_numpy().reshape(-1, dim)
            vectors[at : at + len(found)] = found
            at += len(found)
    return opened, vectors


def _ours(where: str | list[str], n_threads: int | None) -> tuple[float, Any]:
    from haag_vq.data import VectorDataset
    from haag_vq.sources import open_source

    started = time.perf_counter()
    dataset = VectorDataset(open_source(where), "benchmark")
    opened = time.perf_counter() - started
    return opened, dataset.compute(n_threads)


def _astype(path: Path) -> tuple[float, Any]:
    return 0.0, np.load(path, mmap_mode="r").astype(np.float32)


def _ways(home: Path, n_rows: int, dim: int) -> dict[str, Callable[[], tuple[float, Any]]]:
    return {
        "loop-streaming": lambda: _row_loop(home, n_rows, dim, True),
        "loop-faiss": lambda: _row_loop(home, n_rows, dim, True),
        "loop-cached": lambda: _row_loop(home, n_rows, dim, False),
        "numpy-batches": lambda: _numpy_batches(home, n_rows, dim),
        "pyarrow": lambda: _pyarrow(home, n_rows, dim),
        "ours-1": lambda: _ours(_shards(home), 1),
        "ours-all": lambda: _ours(_shards(home), None),
        "npy-astype": lambda: _astype(home / "x.npy"),
        "npy-ours-1": lambda: _ours(str(home / "x.npy"), 1),
        "npy-ours-all": lambda: _ours(str(home / "x.npy"), None),
    }


def _import_for(way: str) -> None:
    """Import what a way needs, so that its RSS counts as the process's and not as the load's."""
    if way.startswith("loop") or way == "numpy-batches":
        import datasets  # noqa: F401
    if way == "loop-faiss":
        import faiss  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import haag_vq.data  # noqa: F401


def run_way(home: Path, way: str, n_rows: int, dim: int) -> dict[str, Any]:
    """Load in this process; returns seconds and bytes."""
    _import_for(way)
    from haag_vq.memory import peak_rss_bytes, rss_bytes

    before = rss_bytes()
    seconds, opened, vectors = [], 0.0, None
    for _ in range(NPY_READS if way.startswith("npy") else 1):
        del vectors
        started = time.perf_counter()
        opened, vectors = _ways(home, n_rows, dim)[way]()
        seconds.append(time.perf_counter() - started - opened)
    if way == "loop-faiss":
        import faiss

        started = time.perf_counter()
        index = faiss.IndexFlatL2(dim)
        index.add(vectors)
        seconds[0] += time.perf_counter() - started
    assert vectors is not None
    assert vectors.shape == (n_rows, dim)
    return {
        "way": way,
        "rows": n_rows,
        "seconds": float(np.median(seconds)),
        "open_seconds": opened,
        "rows_per_second": n_rows / float(np.median(seconds)),
        "array_bytes": vectors.nbytes,
        "over_bytes": peak_rss_bytes() - before - vectors.nbytes,
        # Every row counts: a way that skipped some would be fast.
        "checksum": float(vectors.sum(dtype=np.float64)),
    }


def build_cache(home: Path) -> dict[str, Any]:
    """Let `datasets` convert the shards to its Arrow cache, for the way that reads from there."""
    from datasets import load_dataset

    started = time.perf_counter()
    load_dataset("parquet", data_files=_loop_files(home), split="train")
    return {"seconds": time.perf_counter() - started}


def measure(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run all ways, interleaved, and ours at several sizes."""
    loop_rows = min(args.loop_rows or args.rows, args.rows)
    generate(home, args.rows, args.dim, loop_rows)
    env = {
        "HF_HOME": str(home / "hub"),
        "HF_DATASETS_CACHE": str(home / "cache"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    base = [sys.executable, str(Path(__file__)), "--data", str(home), "--dim", str(args.dim)]
    cache = {"seconds": 0.0}
    if "loop-cached" in args.ways:
        note("building the Arrow cache of datasets")
        cache = run_json([*base, "--way", "build-cache"], env)
    warm(sorted(home.glob("x*")) + sorted(home.glob("*.parquet")) + sorted(home.rglob("*.arrow")))
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in args.ways}
    for i in range(args.repeat):
        for way in args.ways:
            note(f"round {i + 1} of {args.repeat}: {LABELS[way]}")
            rows = loop_rows if way in LOOPS else args.rows
            runs[way].append(run_json([*base, "--way", way, "--rows", str(rows)], env))
    sizes = []
    for share in (10, 2, 1):
        rows = args.rows // share
        small = [*base, "--way", "ours-part", "--rows", str(rows)]
        sizes.append({"rows": rows, **medians([run_json(small, env) for _ in range(args.repeat)])})
    return {
        "machine": machine(),
        "rows": args.rows,
        "loop_rows": loop_rows,
        "dim": args.dim,
        "repeat": args.repeat,
        "cache_seconds": cache["seconds"],
        "ways": {way: medians(found) for way, found in runs.items()},
        "sizes": sizes,
    }


def _run_part(home: Path, n_rows: int) -> dict[str, Any]:
    """Load the first rows with all cores: the overhead must not depend on how many."""
    from haag_vq.data import VectorDataset
    from haag_vq.memory import peak_rss_bytes, rss_bytes
    from haag_vq.sources import open_source

    before = rss_bytes()
    array = VectorDataset(open_source(_shards(home)), "benchmark").limit(n_rows).compute()
    return {"array_bytes": array.nbytes, "over_bytes": peak_rss_bytes() - before - array.nbytes}


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    n, d = found["rows"], found["dim"]
    print(f"{n:,} × {d}, medians of {found['repeat']} interleaved processes; {found['machine']}\n")
    table = []
    for way, run in found["ways"].items():
        # A way that was not asked for has no ratio to it: nan.
        beside = found["ways"].get(
            "npy-astype" if way.startswith("npy") else "loop-streaming",
            {"rows_per_second": float("nan")},
        )
        table.append(
            [
                LABELS[way],
                f"{run['rows']:,.0f}",
                f"{run['open_seconds']:.2f}",
                f"{run['rows_per_second']:,.0f}",
                f"{run['rows_per_second'] / beside['rows_per_second']:.2f}",
                f"{run['array_bytes'] / MIB:,.0f}",
                f"{run['over_bytes'] / MIB:,.0f}",
                f"{1 + run['over_bytes'] / run['array_bytes']:.2f}",
            ]
        )
    head = ["way", "rows", "open s", "rows/s", "ratio", "array MiB", "over MiB", "peak/array"]
    print_table(head, table)
    print(
        "\nratio: to the streaming row loop; of npy, to astype of the memory map. Opening is not "
        f"in rows/s;\nbuilding the Arrow cache that one row loop reads took "
        f"{found['cache_seconds']:.1f} s more. npy: median of {NPY_READS} reads a process.\n"
    )
    sizes = [
        [f"{s['rows']:,.0f}", f"{s['array_bytes'] / MIB:,.0f}", f"{s['over_bytes'] / MIB:,.0f}"]
        for s in found["sizes"]
    ]
    print_table(["ours, all cores: rows", "array MiB", "over MiB"], sizes)


def main() -> None:
    """Run the benchmark, or one way of it."""
    args_parser = parser(__doc__)
    args_parser.add_argument("--rows", type=int, default=100_000)
    args_parser.add_argument("--loop-rows", type=int, help="rows of the row loops (default: all)")
    args_parser.add_argument("--dim", type=int, default=1536)
    args_parser.add_argument("--repeat", type=int, default=3)
    args_parser.add_argument(
        "--ways", nargs="*", choices=list(LABELS), default=list(LABELS), help="default: all"
    )
    args = args_parser.parse_args()
    if args.way is not None:
        home = Path(args.data)
        if args.way == "build-cache":
            found = build_cache(home)
        elif args.way == "ours-part":
            found = _run_part(home, args.rows)
        else:
            found = run_way(home, args.way, args.rows, args.dim)
        answer(found)
    run_benchmark(args, "haag-vq-loading-", measure, show)


if __name__ == "__main__":
    main()
