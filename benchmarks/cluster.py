"""Ground truth on a real Slurm of three nodes, all on this machine: the start, scaling, overhead.

    python benchmarks/cluster.py [--rows 400000] [--queries 1677] [--runs 3] [--blocks 2000]
                                 [--port 23000] [--data DIR] [--json]

Needs Slurm's programs (Debian: slurmctld slurmd slurm-client munge) and starts a private Slurm,
cluster/one-machine/slurm, which it stops again. Rows have MS MARCO's shape: 1024 dimensions, six
float16 .npy shards in the page cache, cosine, k=100. Three things are measured:

    start      from no Slurm at all: until it is up, the first worker is, three workers are on three
               nodes, and they have searched the first tenth of the rows
    scaling    one-core workers, 1, 2 and 3 of them, beside as many processes that do nothing but
               NumPy's sgemm on one thread, in turns; medians. Each job and each process is bound
               to one core, as a site's Slurm binds it: what else a worker does would run on the
               other core where it is free. A search is timed from the call to the answer, its
               workers being there and warm.
    overhead   many blocks of 16 rows, on one worker and without Dask's scheduler: what a task costs
               beyond its work

Efficiency is the time of one worker over n times that of n. With more workers than cores, sgemm's
says what there was to be had.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import dask
import numpy as np
from clustered import Clustered
from measuring import Served, machine, note, parser, print_table, run_benchmark, warm

LAUNCHER = Path(__file__).parents[1] / "cluster" / "one-machine" / "slurm"
NODES, N_SHARDS, DIM, K = 3, 6, 1024, 100
COUNTS = (1, 2, 3)
SGEMM_ROWS, SGEMM_TIMES = 32_768, 4
TINY_ROWS = 16

# One core and 1.5 GB a job; what a worker keeps lies on this machine's disk.
PROFILE = """\
inherit: generic-slurm
cores: 1
memory: 1500MB
walltime: "60"
interface: lo
shared-temp-directory: {home}/shared
log-directory: {home}/logs
local-directory: {home}/local
job-script-prologue: taskset -pc $(( SLURM_JOB_ID % $(nproc --all) )) $$ > /dev/null
"""


@contextmanager
def one_machine(home: Path, port: int) -> Iterator[str]:
    """Start the private Slurm; yield the path of a profile for it."""
    daemons = home / "daemons"
    os.environ["HAAG_VQ_SLURM_PORT"] = str(port)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    profile = home / "one-machine.yaml"
    profile.write_text(PROFILE.format(home=home))
    try:
        start = [str(LAUNCHER), "start", str(daemons), str(NODES), "4", "8192"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL)
        os.environ["SLURM_CONF"] = str(daemons / "slurm.conf")
        yield str(profile)
    finally:
        subprocess.run([str(LAUNCHER), "stop", str(daemons)], check=True)


def make_data(home: Path, n_rows: int, n_queries: int) -> tuple[str, Path]:
    """Write shards and queries, unless they are there; returns the shards' pattern."""
    drawn, step = Clustered(DIM), -(-n_rows // N_SHARDS)
    shards = [home / f"passages-{n_rows}-{i}.npy" for i in range(N_SHARDS)]
    for path in shards:
        if not path.exists():
            note(f"writing {path.name}")
            drawn.write(path, step)
    queries = home / f"queries-{n_queries}.npy"
    np.save(queries, drawn.rows(n_queries))
    warm(shards)
    return str(home / f"passages-{n_rows}-*.npy"), queries


def serve_sgemm(queries: Path, number: int) -> None:
    """Multiply on one core, once for every line that comes in; answer with the seconds."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})
    xq = np.load(queries)
    x = np.random.default_rng(0).standard_normal((SGEMM_ROWS, DIM), np.float32)
    out = np.empty((len(xq), len(x)), np.float32)
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(SGEMM_TIMES):
            np.matmul(xq, x.T, out=out)
        print(time.perf_counter() - started, flush=True)


def sgemm(queries: Path, number: int) -> Served:
    """Start a process of `serve_sgemm`."""
    words = [__file__, "--way", "sgemm", "--query-file", str(queries), "--number", str(number)]
    return Served(words, {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})


def at_once(processes: Sequence[Served]) -> float:
    """Let all of them do their work at the same time; returns the seconds of the last."""
    for process in processes:
        process.begin()
    return max(float(process.answer()) for process in processes)


def nodes_of(connection: Any) -> list[str]:
    """Names of the nodes of the workers that are there."""
    return list(connection.client.run(lambda: os.environ["SLURMD_NODENAME"]).values())


def measure_start(home: Path, shards: str, queries: Path, args: Any) -> dict[str, Any]:
    """Time the way from no Slurm to an answer of three nodes."""
    from haag_vq import connect, ground_truth, open_dataset

    begun = time.perf_counter()
    times: dict[str, Any] = {}

    def passed(name: str) -> None:
        times[name] = time.perf_counter() - begun

    with one_machine(home, args.port) as profile:
        passed("slurm")
        with connect(profile, jobs=NODES) as connection:
            passed("submitted")
            connection.client.wait_for_workers(1)
            passed("first_worker")
            connection.client.wait_for_workers(NODES)
            passed("all_workers")
            times["nodes"] = sorted(nodes_of(connection))
            dataset = open_dataset(shards, limit=max(1, args.rows // 10))
            truth = ground_truth(dataset, np.load(queries), k=K, metric="cosine")
            passed("answer")
    with dask.config.set(scheduler="synchronous"):
        alone = ground_truth(dataset, np.load(queries), k=K, metric="cosine")
    times["same_bits"] = (
        truth.ids.tobytes() == alone.ids.tobytes()
        and truth.distances.tobytes() == alone.distances.tobytes()
    )
    return times


def measure_scaling(profile: str, shards: str, queries: Path, n_runs: int) -> dict[str, Any]:
    """Let searches with 1, 2 and 3 workers, and as many sgemm processes, take turns."""
    from haag_vq import connect, ground_truth, open_dataset

    dataset, xq = open_dataset(shards), np.load(queries)

    def search(n: int) -> float:
        with connect(profile, jobs=n) as connection:
            connection.client.wait_for_workers(n)
            # Each of them compiles or loads what it needs, and touches its buffers.
            ground_truth(dataset[: dataset.n_rows // 10], xq, k=K, metric="cosine")
            started = time.perf_counter()
            ground_truth(dataset, xq, k=K, metric="cosine")
            return time.perf_counter() - started

    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        products = [stack.enter_context(sgemm(queries, i)) for i in range(max(COUNTS))]
        for turn in range(n_runs):
            for n in COUNTS:
                for name, seconds in (("search", search(n)), ("sgemm", at_once(products[:n]))):
                    note(f"  {name} {n}: {seconds:.2f} s, turn {turn + 1}")
                    found.setdefault(f"{name} {n}", []).append(seconds)
    return {name: median(all_runs) for name, all_runs in found.items()}


def measure_overhead(profile: str, n_blocks: int, n_runs: int) -> dict[str, float]:
    """Time many tiny blocks, on one worker and without a scheduler; returns seconds a task."""
    from haag_vq import connect, ground_truth, load_dummy_dataset

    dataset = load_dummy_dataset(n_blocks * TINY_ROWS, 16, num_queries=10)

    def seconds() -> float:
        started = time.perf_counter()
        truth = ground_truth(dataset, k=10, chunk_size=TINY_ROWS * 16 * 4)
        if truth.run is None or truth.run.n_partitions != n_blocks:
            raise RuntimeError(f"{n_blocks} blocks were asked for, not {truth.run}")
        return time.perf_counter() - started

    with connect(profile, jobs=1) as connection:
        connection.client.wait_for_workers(1)
        seconds()
        on_worker = median(seconds() for _ in range(n_runs))
    with dask.config.set(scheduler="synchronous"):
        seconds()
        alone = median(seconds() for _ in range(n_runs))
    return {
        "blocks": n_blocks,
        "worker_seconds": on_worker,
        "alone_seconds": alone,
        "seconds_per_task": (on_worker - alone) / n_blocks,
    }


def measure(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Make the data, and measure the three things."""
    shards, queries = make_data(home, args.rows, args.queries)
    found: dict[str, Any] = {"machine": machine(), "rows": args.rows, "queries": args.queries}
    note("from an empty machine")
    found["start"] = measure_start(home, shards, queries, args)
    with one_machine(home, args.port) as profile:
        note("scaling")
        found["scaling"] = measure_scaling(profile, shards, queries, args.runs)
        note("overhead")
        found["overhead"] = measure_overhead(profile, args.blocks, args.runs)
    return found


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    start, scaling, overhead = found["start"], found["scaling"], found["overhead"]
    print(f"{found['machine']}; {found['rows']:,} × {DIM}, {found['queries']:,} queries\n")
    rows = [
        ["Slurm is up", f"{start['slurm']:.1f}"],
        ["three jobs are submitted", f"{start['submitted']:.1f}"],
        ["the first worker is up", f"{start['first_worker']:.1f}"],
        [f"three are, on {', '.join(start['nodes'])}", f"{start['all_workers']:.1f}"],
        [f"answer for {found['rows'] // 10:,} rows", f"{start['answer']:.1f}"],
    ]
    print_table(["from an empty machine to", "s"], rows)
    print(f"\nthe same bits as in one process: {'yes' if start['same_bits'] else 'NO'}\n")
    rows = []
    for n in COUNTS:
        ours, limit = (
            scaling[f"{way} 1"] / (n * scaling[f"{way} {n}"]) * (n if way == "sgemm" else 1)
            for way in ("search", "sgemm")
        )
        rows.append(
            [str(n), f"{scaling[f'search {n}']:.2f}", f"{ours:.2f}", f"{limit:.2f}"]
            + [f"{ours / limit:.2f}"]
        )
    print_table(["workers", "search, s", "efficiency", "of sgemm processes", "ratio"], rows)
    print(
        f"\n{overhead['blocks']:,} blocks of {TINY_ROWS} rows: {overhead['worker_seconds']:.2f} s "
        f"on one worker, {overhead['alone_seconds']:.2f} s without a scheduler: "
        f"{overhead['seconds_per_task'] * 1e3:.2f} ms a task"
    )


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--rows", type=int, default=400_000)
    made.add_argument("--queries", type=int, default=1677)
    made.add_argument("--runs", type=int, default=3)
    made.add_argument("--blocks", type=int, default=2000)
    made.add_argument("--port", type=int, default=23_000, help="the first of four that are free")
    made.add_argument("--query-file", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    args = made.parse_args()
    if args.way:
        serve_sgemm(args.query_file, args.number)
        return
    run_benchmark(args, "haag-vq-cluster-", measure, show)


if __name__ == "__main__":
    main()
