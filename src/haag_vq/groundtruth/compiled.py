"""Compiling functions with Numba, and keeping on disk what it has made.

So only the first process on a kind of CPU waits for it.
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

# Files whose functions and constants end up in each other's machine code.
_SOURCES = (
    "bounds.py",
    "compiled.py",
    "exact.py",
    "halves.py",
    "merge.py",
    "norms.py",
    "order.py",
    "prefetch.py",
    "scan.py",
    "../quantizing/kernels.py",
    "../sources/convert.py",
)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, without the GIL, and keep the result for the next process.

    Sums are taken in the order that is written.
    """
    return _compiled(function, set())


def compiled_in_any_order(function: Callable[..., Any]) -> Any:
    """Compile likewise what may sum in any order and fuse multiplications with additions.

    For bounds that hold for every order: what such a function returns differs between CPUs.
    """
    return _compiled(function, {"reassoc", "contract"})


def _compiled(function: Callable[..., Any], liberties: set[str]) -> Any:
    options = {"nogil": True, "error_model": "numpy", "fastmath": liberties or False}
    directory = cache_directory()
    if directory is None:
        return numba.njit(**options)(function)
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = directory
    try:
        return numba.njit(**options, cache=True)(function)
    except RuntimeError:  # not a place that Numba can write to
        return numba.njit(**options)(function)
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
            source = Path(__file__).parent / name
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
