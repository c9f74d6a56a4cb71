"""The main job on an embedded set: what `make demo` and `haag-vq demo` run."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import psutil
from numpy.typing import NDArray

from haag_vq.cluster import Connection, connect
from haag_vq.data import open_dataset
from haag_vq.errors import UsageError
from haag_vq.groundtruth import GroundTruth, ground_truth
from haag_vq.plots import plot_distances, plot_memory

N_ROWS = 200_000
DIM = 256
CHUNK_SIZE = "16MiB"
SAMPLE_SECONDS = 0.05


class MemoryWatch:
    """Samples the resident memory of a local connection's workers while it is open."""

    def __init__(self, connection: Connection) -> None:
        pids = sorted(connection.client.run(os.getpid).values())
        self._workers = [psutil.Process(pid) for pid in pids]
        self._seconds: list[float] = []
        self._rss: list[list[int]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def seconds(self) -> list[float]:
        """Times of the samples, since the start."""
        return self._seconds

    @property
    def rss_bytes(self) -> NDArray[np.int64]:
        """(samples, workers) int64."""
        return np.array(self._rss, dtype=np.int64).reshape(-1, len(self._workers))

    def _sample(self) -> None:
        started = time.monotonic()
        while True:
            # The counters of a worker that was restarted are gone with it.
            rss = [w.memory_info().rss if w.is_running() else 0 for w in self._workers]
            self._rss.append(rss)
            self._seconds.append(time.monotonic() - started)
            if self._done.wait(SAMPLE_SECONDS):
                return

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo did."""

    truth: GroundTruth
    n_workers: int
    files: tuple[Path, ...]
    """Ground truth, picture of memory, picture of distances."""


def run_demo(
    directory: str | os.PathLike[str],
    n_rows: int = N_ROWS,
    dim: int = DIM,
    n_workers: int = 2,
    k: int = 100,
    progress: bool = True,
) -> DemoReport:
    """Search a synthetic set exactly on local workers, and leave truth and pictures.

    Parameters
    ----------
    directory : path-like
        Made if it is not there.

    Notes
    -----
    Memory: about 400 MiB a worker by default; nothing is read from elsewhere.
    """
    if n_rows < 1000:
        raise UsageError(f"a demo of {n_rows:,} vectors: take 1,000 or more (--rows).")
    n_queries = min(500, n_rows // 10)
    home = Path(directory)
    home.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(f"synthetic:{n_rows}x{dim}", queries=f"holdout:{n_queries}")
    with connect("local", jobs=n_workers) as workers, MemoryWatch(workers) as watch:
        truth = ground_truth(
            dataset,
            k=k,
            metric="cosine",
            chunk_size=CHUNK_SIZE,
            progress=progress,
        )
    files = (home / "ground_truth.hdf5", home / "memory.png", home / "distances.png")
    truth.save(files[0])
    projected = truth.run.projection.total_bytes if truth.run else 0
    plot_memory(watch.seconds, watch.rss_bytes, projected, files[1])
    plot_distances(truth, files[2])
    return DemoReport(truth, n_workers, files)
