"""Encode a set that lies in a float16 .npy by product quantization: FAISS's own way, and ours.

"faiss": the whole set as float32, `ProductQuantizer.train` on a sample of it, `compute_codes`,
`numpy.save`. "faiss by blocks": the same by 16 MiB of a memory map at a time. "haag_vq":
`quantize`, which trains with FAISS too, on the sample less its mean. Each way has processes of its
own, which take turns; medians of `--repeat`. The page cache is warm for all.
"""

from __future__ import annotations

import argparse
import shutil
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

WAYS = ("faiss", "faiss by blocks", "haag_vq")
BLOCK_BYTES = 16 * MIB
N_TRAIN = 65_536


def generate(path: Path, n_rows: int, dim: int) -> None:
    """Write the set, if it is not there."""
    if path.exists():
        return
    from haag_vq.export import export_vectors
    from haag_vq.sources import SyntheticSource

    note(f"writing {n_rows:,} × {dim} as float16 in {path}")
    export_vectors(SyntheticSource(n_rows, dim), path, "float16")


def of_faiss(path: Path, m: int, out: Path, by_blocks: bool) -> dict[str, float]:
    """Train and encode with FAISS alone."""
    import faiss

    stored = np.load(path, mmap_mode="r")
    n_rows, dim = stored.shape
    step = max(1, BLOCK_BYTES // (4 * dim)) if by_blocks else n_rows
    whole = None if by_blocks else stored.astype(np.float32)
    started = time.perf_counter()
    rows = np.sort(np.random.default_rng(0).permutation(n_rows)[:N_TRAIN])
    sample = (stored if whole is None else whole)[rows].astype(np.float32)
    quantizer = faiss.ProductQuantizer(dim, m, 8)
    quantizer.cp.min_points_per_centroid = 1
    quantizer.train(sample)
    del sample
    trained = time.perf_counter()
    codes = np.empty((n_rows, m), np.uint8)
    for at in range(0, n_rows, step):
        x = whole if whole is not None else stored[at : at + step].astype(np.float32)
        codes[at : at + step] = quantizer.compute_codes(x)
    np.save(out, codes)
    return {"train_seconds": trained - started, "encode_seconds": time.perf_counter() - trained}


def of_ours(path: Path, m: int, out: Path) -> dict[str, float]:
    """Train and encode with `quantize`."""
    from haag_vq import open_dataset, quantize

    report = quantize(open_dataset(path), f"PQ{m}", out, n_train=N_TRAIN)
    return {
        "train_seconds": report.train_seconds,
        "encode_seconds": report.encode_seconds,
        "projected_bytes": report.projection.total_bytes,
        "relative_error": report.relative_error,
    }


def run_way(way: str, path: Path, m: int) -> None:
    """Do one way in this process, and answer."""
    from haag_vq.memory import peak_rss_bytes

    out = path.with_name("codes.npy" if way != "haag_vq" else "codes")
    do: dict[str, Callable[[], dict[str, float]]] = {
        "faiss": lambda: of_faiss(path, m, out, False),
        "faiss by blocks": lambda: of_faiss(path, m, out, True),
        "haag_vq": lambda: of_ours(path, m, out),
    }
    found = do[way]()
    out.unlink() if out.is_file() else shutil.rmtree(out)
    answer(found | {"peak_rss_bytes": peak_rss_bytes()})


def measure(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Let the ways take turns."""
    path = home / f"x-{args.rows}x{args.dim}.npy"
    generate(path, args.rows, args.dim)
    warm([path])
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(args.repeat):
        for way in WAYS:
            words = [
                sys.executable,
                __file__,
                "--way",
                way,
                "--data",
                str(path),
                "--m",
                str(args.m),
            ]
            runs[way].append(run_json(words))
            note(f"{way}: {runs[way][-1]}")
    return {way: medians(found) for way, found in runs.items()}


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print_table(
        ["", "train, s", "encode, s", "peak MiB", "projected MiB"],
        [
            [
                way,
                f"{run['train_seconds']:.1f}",
                f"{run['encode_seconds']:.1f}",
                f"{run['peak_rss_bytes'] / MIB:.0f}",
                f"{run['projected_bytes'] / MIB:.0f}" if "projected_bytes" in run else "",
            ]
            for way, run in found.items()
        ],
    )
    print(f"\n{machine()}")


def main() -> None:
    """Parse and run."""
    made = parser(__doc__)
    made.add_argument("--rows", type=int, default=200_000)
    made.add_argument("--dim", type=int, default=1024)
    made.add_argument("--m", type=int, default=64, help="sub-quantizers")
    made.add_argument("--repeat", type=int, default=3)
    args = made.parse_args()
    if args.way:
        run_way(args.way, Path(args.data), args.m)
    run_benchmark(args, "haag-vq-quantize-", measure, show)


if __name__ == "__main__":
    main()
