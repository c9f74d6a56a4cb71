"""D64 and its fingerprints, compiled: the bits of `groundtruth.d64` at a fifth of the time.

No fused multiply-adds and no reordering of sums, which Numba does not do unless it is asked to
(``fastmath``); tests hold the two against each other. What is compiled is kept on disk, so that
only the first process on a kind of CPU waits for it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U64 = NDArray[np.uint64]

L2, IP, COSINE = 0, 1, 2
METRIC_CODES = {"l2": L2, "ip": IP, "cosine": COSINE}

MINUS_ZERO = np.uint32(0x80000000)

# Files whose functions end up in each other's machine code.
_SOURCES = ("bounds.py", "compiled.py", "merge.py", "order.py", "prefetch.py", "scan.py")


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, without the GIL, and keep the result for the next process."""
    directory = cache_directory()
    if directory is None:
        return numba.njit(nogil=True, error_model="numpy")(function)
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = directory
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # not a place that Numba can write to
        return numba.njit(nogil=True, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = before


@cache
def cache_directory() -> str | None:
    """Where compiled code is kept; None if it can be kept nowhere.

    NUMBA_CACHE_DIR or the user's cache, or, where that cannot be written to (a container, a full
    quota), a directory of the user's own under the system's temporary one.

    By a digest of all the sources: Numba itself looks only at the file of the function called,
    and would go on using what it compiled from another version of a function inside. Also by
    their path and times, which is what Numba knows its files by: what another installation of the
    same sources has compiled is not used by this one.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    first = os.environ.get("NUMBA_CACHE_DIR") or os.path.join(home, "haag_vq")
    digest = hashlib.sha256(os.fsencode(Path(__file__).parent))
    try:
        for name in _SOURCES:
            source = Path(__file__).with_name(name)
            digest.update(source.read_bytes())
            digest.update(repr((source.stat().st_mtime, source.stat().st_size)).encode())
    except OSError:  # installed without its sources
        return None
    kept = f"compiled-{digest.hexdigest()[:16]}"
    # Directly below the temporary directory, where nobody else can put another in its place.
    last = os.path.join(tempfile.gettempdir(), f"haag_vq-{os.getuid()}-{kept}")
    for directory in (Path(first) / kept, Path(last)):
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_private(directory):
                return str(directory)
        except OSError:
            continue
    return None


def _is_private(directory: Path) -> bool:
    """Tell whether only the user can write there: what is kept there is run."""
    found = directory.lstat()
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.getuid()
        and not found.st_mode & 0o022
        and os.access(directory, os.W_OK)
    )


@compiled
def dot(x: F32, y: F32, terms: F64) -> float:
    """Fold x·y; `terms` has half the padded dimension, which is at least 1 and at most d."""
    half = terms.shape[0]
    x_low, y_low, x_high, y_high = x[:half], y[:half], x[half:], y[half:]
    for j in range(half):
        terms[j] = np.float64(x_low[j]) * np.float64(y_low[j])
    for j in range(x_high.shape[0]):
        terms[j] += np.float64(x_high[j]) * np.float64(y_high[j])
    return _fold(terms)  # type: ignore[no-any-return]


@compiled
def _squared_distance(x: F32, y: F32, terms: F64) -> float:
    """Fold (x − y)²."""
    half = terms.shape[0]
    x_low, y_low, x_high, y_high = x[:half], y[:half], x[half:], y[half:]
    for j in range(half):
        difference = np.float64(x_low[j]) - np.float64(y_low[j])
        terms[j] = difference * difference
    for j in range(x_high.shape[0]):
        difference = np.float64(x_high[j]) - np.float64(y_high[j])
        terms[j] += difference * difference
    return _fold(terms)  # type: ignore[no-any-return]


@compiled
def _fold(terms: F64) -> float:
    half = terms.shape[0]
    while half > 1:
        half //= 2
        low, high = terms[:half], terms[half : 2 * half]
        for j in range(half):
            low[j] += high[j]
    return terms[0]  # type: ignore[no-any-return]


@compiled
def exact_key(metric: int, x: F32, q: F32, q_squared_norm: float, terms: F64) -> float:
    """D64 of a pair, similarities negated: the bits of `d64.keys`."""
    if metric == L2:
        return _squared_distance(x, q, terms)  # type: ignore[no-any-return]
    product = dot(x, q, terms)
    if metric == COSINE:
        product /= np.sqrt(dot(x, x, terms)) * np.sqrt(q_squared_norm)
    # 0.0 and -0.0 are one distance.
    return -product + 0.0  # type: ignore[no-any-return]


@compiled
def row_hash(x: F32, multipliers: U64) -> np.uint64:
    """Fingerprint a row: the bits of `d64.row_hashes`."""
    bits = x.view(np.uint32)
    total = np.uint64(0)
    for j in range(bits.shape[0]):
        word = np.uint64(0) if bits[j] == MINUS_ZERO else np.uint64(bits[j])
        total += word * multipliers[j]
    return total


@compiled
def padded_dim(d: int) -> int:
    """Smallest power of two that is at least `d`."""
    size = 1
    while size < d:
        size *= 2
    return size


@compiled
def squared_norms(x: F32) -> F64:
    """Squared norms of rows, the bits of `d64.squared_norms`: (n, d) → (n,) float64."""
    out = np.empty(x.shape[0])
    terms = np.empty(max(1, padded_dim(x.shape[1]) // 2))
    for i in range(x.shape[0]):
        out[i] = dot(x[i], x[i], terms)
    return out
