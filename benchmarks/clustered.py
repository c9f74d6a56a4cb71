"""Clustered unit vectors, which real embeddings resemble more than noise does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

N_CENTRES = 1000
# Rows drawn at a time.
BATCH_ROWS = 32_768


class Clustered:
    """Draws (n, dim) float32 unit vectors around `N_CENTRES` centres; the same for one seed."""

    def __init__(self, dim: int, seed: int = 0) -> None:
        # One set of centres, whatever is drawn around them.
        self._rng = np.random.default_rng(0)
        self._centres = self._rng.standard_normal((N_CENTRES, dim), dtype=np.float32)
        if seed:
            self._rng = np.random.default_rng(seed)

    def rows(self, n: int) -> NDArray[np.float32]:
        """Draw the next n."""
        dim = self._centres.shape[1]
        x = self._centres[self._rng.integers(0, N_CENTRES, n)]
        x = x + np.float32(0.7) * self._rng.standard_normal((n, dim), dtype=np.float32)
        unit: NDArray[np.float32] = x / np.linalg.norm(x, axis=1, keepdims=True)
        return unit

    def write(self, path: Path, n_rows: int) -> None:
        """Write the next rows as one float16 .npy, whole or not at all."""
        part = path.with_suffix(".part")
        with open(part, "wb") as file:
            dim = self._centres.shape[1]
            header = {"descr": "<f2", "fortran_order": False, "shape": (n_rows, dim)}
            np.lib.format.write_array_header_1_0(file, header)
            for at in range(0, n_rows, BATCH_ROWS):
                file.write(self.rows(min(BATCH_ROWS, n_rows - at)).astype(np.float16).tobytes())
        os.replace(part, path)
