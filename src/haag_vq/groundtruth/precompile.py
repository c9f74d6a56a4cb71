"""Compiling the search once for a kind of CPU, in a process of its own.

The compiler takes 130 MiB that a process never gives back (measured); loading what it has made
takes none. So a worker that finds nothing compiled has another process do it, before it reads.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numba
import numpy as np
from llvmlite import binding

from haag_vq.groundtruth import halves
from haag_vq.groundtruth.compiled import cache_directory
from haag_vq.groundtruth.kernel import Queries, search_block
from haag_vq.groundtruth.opening import opening_rows
from haag_vq.groundtruth.part import combine
from haag_vq.sources.convert import to_float32

# Eight seconds of CPU measured; a node under load, its files on a network, may take far longer.
TIMEOUT_SECONDS = 300

# Of a process that compiles the search itself (130 MiB measured).
COMPILER_BYTES = 140 << 20

# Set where another process could not be had to compile: this one will, and has to project it.
_compiles_itself = False


@cache
def ensure_compiled(announce: bool = False) -> None:
    """Have the search compiled for this CPU if nobody has; once a process.

    `announce` says so on standard error, where it has to be done.

    Where that cannot be (nowhere to keep it, no process to be had) this process compiles for itself
    when it comes to it.
    """
    global _compiles_itself
    directory = cache_directory()
    if directory is None or _marker(directory).exists():
        return
    try:
        with _one_at_a_time(directory):
            if not _marker(directory).exists():
                if announce:
                    print("compiling the search for this CPU, once …", file=sys.stderr, flush=True)
                subprocess.run(
                    [sys.executable, "-c", f"from {__name__} import compile_all; compile_all()"],
                    check=True,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=TIMEOUT_SECONDS,
                )
                _marker(directory).touch()
    except (OSError, subprocess.SubprocessError):
        _compiles_itself = True


@contextmanager
def _one_at_a_time(directory: str) -> Iterator[None]:
    """Of many workers that start at once, one compiles and the others wait."""
    with open(Path(directory) / "lock", "a") as lock:
        # Not every network file system has locks: all compile then, each to the same files.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def compiler_bytes() -> int:
    """Bytes that a search's process needs to compile for itself: 0 where code can be kept."""
    return COMPILER_BYTES if _compiles_itself or cache_directory() is None else 0


def _marker(directory: str) -> Path:
    # What Numba itself keeps compiled code apart by.
    made_for = (
        binding.get_host_cpu_name(),
        binding.get_host_cpu_features().flatten(),
        numba.__version__,
        sys.implementation.cache_tag,
    )
    return Path(directory) / f"ready-{hashlib.sha256(repr(made_for).encode()).hexdigest()[:16]}"


def compile_all() -> None:
    """Take every compiled path once."""
    x = np.random.default_rng(0).standard_normal((2 * opening_rows(1), 2), dtype=np.float32)
    queries = Queries.of(x[:1].copy())
    for metric in ("l2", "ip", "cosine"):
        part = search_block(x, 0, queries, 1, metric)
    combine([part, part], 1)
    halves.use()
    to_float32(x.astype(np.float16), x)
    # Beyond float32's range.
    far = np.full((1, 2), 3e38, np.float32)
    search_block(far, 0, Queries.of(far), 1, "l2")
