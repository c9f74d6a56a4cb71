"""The original demo: load, find the truth with FAISS, and compare memory before and after.

    python examples/demo.py [ROWS DIM]

Each way runs in a process of its own, so that its peak is its own. "Before" is what the loaders
used to do: a Python list of rows, an array made of it, an index that copies the array. "After"
fills preallocated blocks and searches each where it is read. The picture is demo_memory.png.
"""

import subprocess
import sys

import numpy as np
from numpy.typing import NDArray

from haag_vq import ground_truth, load_dummy_dataset
from haag_vq.memory import format_bytes, peak_rss_bytes, rss_bytes
from haag_vq.plots import plot_bars

K = 10


def before(n_rows: int, dim: int) -> NDArray[np.int64]:
    """Build a list of rows, an array of it, and a FAISS index of that."""
    import faiss

    dataset = load_dummy_dataset(n_rows, dim)
    rows: list[list[float]] = []
    for start in range(0, n_rows, 1000):
        rows.extend(row.tolist() for row in dataset[start : start + 1000].compute())
    vectors = np.array(rows, dtype=np.float32)
    index = faiss.IndexFlatL2(dim)
    index.add(vectors)
    found: NDArray[np.int64] = index.search(dataset.queries, K)[1]
    return found


def after(n_rows: int, dim: int) -> NDArray[np.int64]:
    """Search block by block, each read into a buffer of its own."""
    import dask

    with dask.config.set(scheduler="sync"):
        return ground_truth(load_dummy_dataset(n_rows, dim), k=K, chunk_size="16MiB").ids


def measure(way: str, n_rows: int, dim: int) -> int:
    """Run one way in its own process; return its peak memory above that of the imports."""
    command = [sys.executable, __file__, str(n_rows), str(dim), way]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(output.split()[-1])


def compare(n_rows: int, dim: int) -> None:
    """Measure both ways and draw them."""
    dataset = load_dummy_dataset(n_rows, dim)
    print(f"{n_rows:,} vectors × {dim}: {format_bytes(dataset.nbytes)} as float32")
    peaks = {way: measure(way, n_rows, dim) for way in ("before", "after")}
    for way, peak in peaks.items():
        times = peak / dataset.nbytes
        print(f"{way:<7} {format_bytes(peak):>9} above the imports, {times:.1f} × the set")
    same = np.mean(before(n_rows, dim) == after(n_rows, dim))
    print(f"neighbours that agree: {same:.1%} (the rest are ties and float32 rounding)")
    names = ["before: list, array, index", "after: block by block"]
    values = [peak / 2**20 for peak in peaks.values()]
    plot_bars(names, values, "MiB above the imports", "Peak memory", "demo_memory.png")
    print("wrote demo_memory.png")


if __name__ == "__main__":
    rows, columns = (int(text) for text in (sys.argv[1:3] or ("30000", "512")))
    if len(sys.argv) > 3:
        started_with = rss_bytes()
        {"before": before, "after": after}[sys.argv[3]](rows, columns)
        print(peak_rss_bytes() - started_with)
    else:
        compare(rows, columns)
