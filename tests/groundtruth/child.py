"""Hashes of the truth of given cases, by a process of its own: another machine, as it were.

``python -m tests.groundtruth.child CASES.npz`` prints one JSON object. The cases are read, not
made, because how they are made might itself depend on the machine.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
from threadpoolctl import threadpool_info

from haag_vq import ground_truth
from tests.groundtruth.cases import METRICS, pair_of


@dataclass(frozen=True, slots=True)
class Fixed:
    """A case whose answer must not depend on the machine; all metrics are asked of it."""

    kind: str
    n: int
    nq: int
    d: int
    k: int
    block_rows: int


# Between them: FAISS opens the block, several tiles and threads, ties and near-ties at the k-th
# place, cancellation, rows that only D64 can score, and lists merged from many blocks.
FIXED = (
    Fixed("moderate mixture", 5000, 140, 65, 20, 5000),
    Fixed("one ulp apart", 4500, 10, 128, 60, 4500),
    Fixed("two far clusters", 900, 10, 70, 30, 200),
    Fixed("offset", 900, 10, 31, 30, 300),
    Fixed("cancelling", 900, 10, 64, 30, 250),
    Fixed("mixture", 700, 10, 33, 50, 70),
)


def save_cases(path: Path) -> None:
    """Make the vectors of all cases, none of them zero, and keep them in `path`."""
    arrays: dict[str, Any] = {}
    for case in FIXED:
        x, xq = pair_of(case.kind, case.n, case.nq, case.d, 11, "cosine")
        arrays[f"{case.kind}, base"], arrays[f"{case.kind}, queries"] = x, xq
    with path.open("wb") as file:
        np.savez(file, **arrays)


def hashes_of(path: Path) -> dict[str, str]:
    """Search every case under every metric; SHA-256 of ids and of distances."""
    found = {}
    with np.load(path, allow_pickle=False) as arrays, dask.config.set(scheduler="sync"):
        for case in FIXED:
            x, xq = arrays[f"{case.kind}, base"], arrays[f"{case.kind}, queries"]
            for metric in METRICS:
                truth = ground_truth(x, xq, case.k, metric, chunk_size=case.block_rows * case.d * 4)
                for part in ("ids", "distances"):
                    digest = hashlib.sha256(getattr(truth, part).tobytes()).hexdigest()
                    found[f"{case.kind}, {metric}, {part}"] = digest
    return found


def numpy_features() -> list[str]:
    """Instructions beyond NumPy's least that it was compiled for and uses in this process."""
    umath = importlib.import_module("numpy._core._multiarray_umath")
    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]]


def machine_of(path: Path) -> dict[str, Any]:
    """Describe what this process computes with, as far as settings can change it."""
    target = importlib.import_module("numba.core.registry").cpu_target.target_context
    with np.load(path, allow_pickle=False) as arrays:
        kind = FIXED[0].kind
        product = arrays[f"{kind}, base"] @ arrays[f"{kind}, queries"].T
    return {
        "faiss_kernels": [
            library["architecture"]
            for library in threadpool_info()
            if library["user_api"] == "blas" and "faiss" in library["filepath"]
        ],
        "numpy_features": numpy_features(),
        "compiled_for": target.codegen().magic_tuple()[1],
        "float32_product": hashlib.sha256(product.tobytes()).hexdigest(),
    }


if __name__ == "__main__":
    cases_path = Path(sys.argv[1])
    print(json.dumps({"hashes": hashes_of(cases_path), **machine_of(cases_path)}))
