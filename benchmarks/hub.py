"""Load a Hub dataset into one float32 array, each way in a process of its own, in one run.

    python benchmarks/hub.py [--rows 60000] [--dim 1536] [--repeat 3] [--latency-ms 30]

The Hub is the tests' loopback server, which lets every request wait for `--latency-ms`; the clients
are the real ones. The set has three Parquet shards in the shape of DBpedia-OpenAI: lists of
float64, row groups of 1,000, a text column beside. Every process begins with an empty cache. Ways
are interleaved, medians shown.

    row loop         datasets, streaming, an item at a time into a preallocated array
    numpy batches    datasets, streaming, the one column, batches of 1,000
    snapshot         snapshot_download, then pyarrow batches
    ours, streaming  open_dataset(…, streaming=True).compute()
    ours, staged     open_dataset(…, streaming=False).compute()

"bytes" are those of file bodies that the server sent, over the bytes of the embedding column as
stored; requests are all that it answered; "over" is the peak RSS less the array and less the RSS
after imports; disk is what the cache holds at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from loading import COLUMN, GROUP_ROWS, N_SHARDS, write_parquet
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
)
from numpy.typing import NDArray

# The server stands among the tests.
sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.hub.server import Hub

F32 = NDArray[np.float32]

REPO = "somebody/embeddings-in-the-shape-of-dbpedia"


def generate(root: Path, n_rows: int, dim: int) -> None:
    """Write the repository, unless it is there."""
    folder = root / REPO / "data"
    folder.mkdir(parents=True, exist_ok=True)
    cuts = [round(n_rows * i / N_SHARDS) for i in range(N_SHARDS + 1)]
    for i in range(N_SHARDS):
        path = folder / f"train-{i:05}-of-{N_SHARDS:05}.parquet"
        if not path.exists():
            note(f"writing {path.name}")
            write_parquet(path, cuts[i], cuts[i + 1], dim)


def stored_bytes(root: Path) -> int:
    """Bytes of the embedding column's chunks in all shards."""
    import pyarrow.parquet as pq

    total = 0
    for path in (root / REPO / "data").glob("*.parquet"):
        footer = pq.read_metadata(path)
        for g in range(footer.num_row_groups):
            group = footer.row_group(g)
            for c in range(group.num_columns):
                column = group.column(c)
                if column.path_in_schema.startswith(COLUMN):
                    total += column.total_compressed_size
    return total


def way_loop(out: F32) -> F32:
    """The original's loader."""
    from datasets import load_dataset

    # To the end: an iterator of datasets that is left half-way hangs the interpreter at exit.
    for i, item in enumerate(load_dataset(REPO, split="train", streaming=True)):
        out[i] = item[COLUMN]
    return out


def way_batches(out: F32) -> F32:
    """What `datasets` does best while streaming."""
    from datasets import load_dataset

    rows = load_dataset(REPO, split="train", streaming=True, columns=[COLUMN])
    at = 0
    for batch in rows.with_format("numpy").iter(batch_size=GROUP_ROWS):
        out[at : at + len(batch[COLUMN])] = batch[COLUMN]
        at += len(batch[COLUMN])
    return out


def way_snapshot(out: F32) -> F32:
    """Download all, then read the column."""
    import pyarrow.parquet as pq
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(REPO, repo_type="dataset")) / "data"
    at = 0
    for path in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(GROUP_ROWS, columns=[COLUMN]):
            flat = batch.column(0).flatten().to_numpy()
            out[at : at + len(batch)] = flat.reshape(len(batch), -1)
            at += len(batch)
    return out


def _ours(streaming: bool) -> F32:
    from haag_vq import open_dataset

    return open_dataset(REPO, streaming=streaming).compute()


# Ours make their own array.
WAYS: dict[str, tuple[str, Callable[[int, int], F32]]] = {
    "loop": ("row loop", lambda n, d: way_loop(np.zeros((n, d), np.float32))),
    "batches": ("numpy batches", lambda n, d: way_batches(np.zeros((n, d), np.float32))),
    "snapshot": ("snapshot, then pyarrow", lambda n, d: way_snapshot(np.zeros((n, d), np.float32))),
    "ours-streaming": ("haag_vq, streaming", lambda n, d: _ours(True)),
    "ours-staged": ("haag_vq, staged", lambda n, d: _ours(False)),
}


def load(way: str, n_rows: int, dim: int) -> dict[str, float]:
    """Load all rows one way, imports not counted."""
    import datasets  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import haag_vq  # noqa: F401
    from haag_vq.memory import peak_rss_bytes, rss_bytes

    before = rss_bytes()
    started = time.perf_counter()
    out = WAYS[way][1](n_rows, dim)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "rows_per_second": n_rows / seconds,
        "over_bytes": peak_rss_bytes() - before - out.nbytes,
        "checksum": float(out.sum(dtype=np.float64)),
    }


def run_way(hub: Hub, way: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run a way with an empty cache; adds what the server saw and what is left on disk."""
    with tempfile.TemporaryDirectory(prefix="haag-vq-hub-") as home:
        seen = len(hub.log)
        words = ["--way", way, "--rows", str(args.rows), "--dim", str(args.dim)]
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": home, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        found = run_json([sys.executable, __file__, *words], settings)
        asked = hub.log[seen:]
        files = [path for path in Path(home).rglob("*") if path.is_file() and not path.is_symlink()]
        return {
            **found,
            "requests": len(asked),
            "body_bytes": sum(r.n_bytes for r in asked if "/resolve/" in r.path),
            "disk_bytes": sum(path.stat().st_size for path in files),
        }


def measure(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run all ways in turn."""
    generate(home, args.rows, args.dim)
    column = stored_bytes(home)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        os.environ.pop(name, None)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with Hub(home, latency_seconds=args.latency_ms / 1000).running() as hub:
        for _ in range(args.repeat):
            for way in WAYS:
                runs[way].append(run_way(hub, way, args))
                note(f"  {WAYS[way][0]}: {runs[way][-1]['seconds']:.2f} s")
    ways = {way: medians(found) for way, found in runs.items()}
    for run in ways.values():
        run["bytes_ratio"] = run["body_bytes"] / column
        run["speedup"] = run["rows_per_second"] / ways["loop"]["rows_per_second"]
    return {"machine": machine(), "column_bytes": column, "ways": ways}


def show(found: dict[str, Any], args: argparse.Namespace) -> None:
    """Print the table."""
    table = [
        [
            WAYS[way][0],
            f"{run['rows_per_second']:,.0f}",
            f"{run['speedup']:.2f}",
            f"{run['bytes_ratio']:.3f}",
            f"{run['requests']:.0f}",
            f"{run['over_bytes'] / MIB:,.0f}",
            f"{run['disk_bytes'] / MIB:,.1f}",
        ]
        for way, run in found["ways"].items()
    ]
    print_table(["", "rows/s", "ratio", "bytes", "requests", "over, MiB", "disk, MiB"], table)
    print(
        f"\n{args.rows:,} × {args.dim}, {found['column_bytes'] / MIB:,.0f} MiB of embeddings, "
        f"{args.latency_ms} ms a request, medians of {args.repeat}; {found['machine']}"
    )


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--rows", type=int, default=60_000)
    made.add_argument("--dim", type=int, default=1536)
    made.add_argument("--repeat", type=int, default=3)
    made.add_argument("--latency-ms", type=int, default=30)
    args = made.parse_args()
    if args.way:
        answer(load(args.way, args.rows, args.dim))
    run_benchmark(args, "haag-vq-hub-", measure, lambda found: show(found, args))


if __name__ == "__main__":
    main()
