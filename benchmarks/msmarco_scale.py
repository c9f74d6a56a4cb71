"""Ground truth of MS MARCO's size: planned, killed in the middle, resumed, beside sgemm alone.

    python benchmarks/msmarco_scale.py [--fraction 1.0] [--physical 4] [--unbroken] [--data DIR]

113,520,750 × 1024 float16 in 60 .npy shards with real headers, 1,677 queries, k=100, cosine,
certified, by the commands that a user would type. The shards are links to a few physical files of
clustered unit vectors, so each row is there 60 / `--physical` times: every answer is full of ties,
which row numbers alone tell apart, and fewer bytes come from the disk than would, whence reading
alone is timed beside it. Of a further copy of a file as many rows are among a query's nearest so
far as of as many new rows.

    --fraction   rows of each shard, as a share of 1,892,012, a sixtieth (0.01 takes a minute)
    --physical   files that the 60 shards share
    --unbroken   search once more without the kill, and compare the two answers bit for bit

The run is killed (SIGKILL to all of its processes) after half of the time that sgemm alone would
take, and the same command is given again. sgemm (Q@Xᵀ, NumPy's, in memory) is timed before, between
and after; seconds of the search are those of both commands, with their starts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from clustered import Clustered
from measuring import (
    MIB,
    data_directory,
    machine,
    note,
    parser,
    print_table,
    run_benchmark,
    run_json,
)

N_ROWS, DIM, N_SHARDS, N_QUERIES, K = 113_520_750, 1024, 60, 1677, 100
SGEMM_ROWS = 32_768
SGEMM_SECONDS = 5.0


def make_data(home: Path, fraction: float, n_physical: int) -> Path:
    """Make the shards and the queries, unless they are there; returns their directory."""
    shard_rows = max(1, round(N_ROWS / N_SHARDS * fraction))
    folder = home / f"msmarco-{shard_rows}x{DIM}-{n_physical}"
    shards = folder / "passages_npy"
    shards.mkdir(parents=True, exist_ok=True)
    for i in range(n_physical):
        path = folder / f"physical-{i}.npy"
        if not path.exists():
            note(f"writing {path.name}, {i + 1} of {n_physical}")
            Clustered(DIM, seed=i + 1).write(path, shard_rows)
    for i in range(N_SHARDS):
        link = shards / f"msmarco_v2.1_doc_segmented_{i:02}.npy"
        if not link.exists():
            os.link(folder / f"physical-{i % n_physical}.npy", link)
    np.save(folder / "queries.npy", Clustered(DIM, seed=999).rows(N_QUERIES))
    return folder


def way_sgemm(folder: Path) -> dict[str, float]:
    """Multiply queries and rows for some seconds; returns GFLOP/s."""
    xq = np.load(folder / "queries.npy")
    x = np.load(folder / "physical-0.npy", mmap_mode="r")[:SGEMM_ROWS].astype(np.float32)
    out = np.empty((len(xq), len(x)), np.float32)
    np.matmul(xq, x.T, out=out)
    n_times, started = 0, time.perf_counter()
    while time.perf_counter() - started < SGEMM_SECONDS:
        np.matmul(xq, x.T, out=out)
        n_times += 1
    seconds = time.perf_counter() - started
    return {"gflops": 2e-9 * n_times * out.size * DIM / seconds}


def way_read(folder: Path) -> dict[str, float]:
    """Read all physical files as float32, two threads; returns rows a second."""
    from haag_vq import open_dataset

    sources = [open_dataset(path).source for path in sorted(folder.glob("physical-*.npy"))]
    step = 32_768

    def read(span: tuple[Any, int, int]) -> int:
        source, start, stop = span
        source.read_into(start, np.empty((stop - start, DIM), np.float32))
        return stop - start

    spans = [
        (source, at, min(at + step, source.n_rows))
        for source in sources
        for at in range(0, source.n_rows, step)
    ]
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        n_rows = sum(pool.map(read, spans))
    return {"rows_per_second": n_rows / (time.perf_counter() - started)}


WAYS = {"sgemm": way_sgemm, "read": way_read}


def alone(way: str, folder: Path) -> dict[str, Any]:
    """Time a way in a process of its own."""
    return run_json([sys.executable, __file__, "--way", way, "--data", str(folder)])


def words_of(folder: Path, out: Path, checkpoint: Path) -> list[str]:
    """Words of the command, as a user would type them."""
    words = ["ground-truth", str(folder / "passages_npy" / "*.npy")]
    words += ["--queries", str(folder / "queries.npy"), "--k", str(K), "--metric", "cosine"]
    words += ["--workers", "1", "--checkpoint", str(checkpoint), "--out", str(out)]
    return words


def haag_vq(*words: str) -> list[str]:
    """Return the command as this interpreter runs it."""
    return [sys.executable, "-m", "haag_vq.cli", *words, "--json", "--quiet"]


def run_and_kill(words: list[str], checkpoint: Path, seconds: float) -> float:
    """Begin a search, kill all of its processes after a time; returns the seconds that it had.

    Not before some rows are finished, however short the time.
    """
    started = time.perf_counter()
    process = subprocess.Popen(haag_vq(*words), stdout=subprocess.DEVNULL)
    while time.perf_counter() - started < seconds or not list(checkpoint.glob("rows-*.part")):
        if process.poll() is not None:
            raise RuntimeError("the search ended: nothing was there to kill")
        time.sleep(0.05)
    tree = [*psutil.Process(process.pid).children(recursive=True), process]
    for one in tree:
        one.kill()
    process.wait()
    psutil.wait_procs(tree[:-1])
    return time.perf_counter() - started


def timed(words: list[str]) -> dict[str, Any]:
    """Run a search to its end; returns its facts and the seconds of the whole command."""
    started = time.perf_counter()
    facts = run_json(haag_vq(*words))
    return {**facts, "command_seconds": time.perf_counter() - started}


def measure(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Plan, search with a kill in the middle, and time what it is held against."""
    folder = make_data(home, args.fraction, args.physical)
    n_rows = N_SHARDS * len(np.load(folder / "physical-0.npy", mmap_mode="r"))
    gflop = 2e-9 * n_rows * DIM * N_QUERIES
    with data_directory(None, "haag-vq-msmarco-") as scratch:
        words = words_of(folder, scratch / "truth.npz", scratch / "checkpoint")
        plan = run_json(haag_vq("plan", *words))
        note("reading alone, sgemm alone")
        read = alone("read", folder)
        rates = [alone("sgemm", folder)["gflops"]]
        # What compiles, compiles before the clock starts.
        some = words_of(folder, scratch / "some.npz", scratch / "some")
        run_json(haag_vq(*some, "--limit", "5000"))
        half = gflop / rates[0] / 2
        note(f"searching {n_rows:,} rows, to be killed after {half:,.0f} s")
        first = run_and_kill(words, scratch / "checkpoint", half)
        rates.append(alone("sgemm", folder)["gflops"])
        note("resuming")
        second = timed(words)
        rates.append(alone("sgemm", folder)["gflops"])
        found = {
            "machine": machine(),
            "rows": n_rows,
            "physical_files": args.physical,
            "gflop": gflop,
            "sgemm_gflops": rates,
            "sgemm_seconds": gflop / median(rates),
            "read_seconds": n_rows / read["rows_per_second"],
            "seconds": first + second["command_seconds"],
            "killed_after_seconds": first,
            "resumed": second,
            "plan": plan,
        }
        if args.unbroken:
            note("once more, unbroken")
            whole = words_of(folder, scratch / "whole.npz", scratch / "other")
            found["unbroken"] = timed(whole)
            found["same_bits"] = _same(scratch / "truth.npz", scratch / "whole.npz")
    return found


def _same(a: Path, b: Path) -> bool:
    with np.load(a, allow_pickle=False) as x, np.load(b, allow_pickle=False) as y:
        return all(x[name].tobytes() == y[name].tobytes() for name in ("ids", "distances"))


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    resumed, plan = found["resumed"], found["plan"]["time"]
    share = found["seconds"] / found["sgemm_seconds"]
    table = [
        ["rows × queries", f"{found['rows']:,} × {N_QUERIES:,}"],
        ["sgemm alone, the same FLOP", f"{found['sgemm_seconds']:,.0f} s"],
        ["reading alone", f"{found['read_seconds']:,.0f} s"],
        ["search, killed and resumed", f"{found['seconds']:,.0f} s, {share:.2f}× sgemm"],
        ["killed after", f"{found['killed_after_seconds']:,.0f} s"],
        ["rows not searched again", f"{resumed['reused_rows']:,}"],
        ["peak RSS of the worker", f"{resumed['peak_rss_bytes'] / MIB:,.0f} MiB"],
        ["projected", f"{resumed['projected_bytes'] / MIB:,.0f} MiB"],
        ["planned before", f"{plan['low_seconds']:,.0f} to {plan['high_seconds']:,.0f} s"],
    ]
    if "unbroken" in found:
        whole = found["unbroken"]["command_seconds"]
        table.append(["unbroken", f"{whole:,.0f} s, {whole / found['sgemm_seconds']:.2f}× sgemm"])
        table.append(["answer the same to the bit", "yes" if found["same_bits"] else "NO"])
    print(f"{found['machine']}; {found['physical_files']} physical files\n")
    print_table(["", "value"], table)


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--fraction", type=float, default=1.0)
    made.add_argument("--physical", type=int, default=4)
    made.add_argument("--unbroken", action="store_true")
    args = made.parse_args()
    if args.way:
        print(json.dumps(WAYS[args.way](Path(args.data))))
        return
    run_benchmark(args, "haag-vq-msmarco-", measure, show)


if __name__ == "__main__":
    main()
