"""Command lines of `ground-truth` and `merge` on small files, and what they leave."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import dask
import numpy as np
from numpy.typing import NDArray

from haag_vq import cli, load_ground_truth
from haag_vq.commands import workers
from haag_vq.groundtruth.result import GroundTruth
from tests.support.files import vectors, write_bigann, write_npy, write_parquet

N, DIM, K = 900, 8, 6

# Row groups of 130 rows: no cut of any test is at an edge of one.
BASES = ("base.npy", "base.parquet", "base.fbin")


@dataclass(frozen=True, slots=True)
class Told:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def facts(self) -> Any:
        """What it printed with ``--json``: one line, and nothing that is no JSON."""
        if self.code or self.out.count("\n") != 1:
            raise AssertionError(self)
        return json.loads(self.out, parse_constant=_refuse)

    def refused(self, code: int, *parts: str) -> None:
        """It was refused in one paragraph that says these things."""
        assert self.code == code, self
        assert self.out == "", self
        assert self.err.startswith("haag-vq: "), self
        assert self.err.count("\n") == 1, self
        for part in parts:
            assert part in self.err, self


def tell(*argv: object) -> Told:
    """Run a command line in this process, its searches with Dask's scheduler of one thread."""
    out, err = io.StringIO(), io.StringIO()
    # main() replaces what shows warnings.
    with warnings.catch_warnings(), redirect_stdout(out), redirect_stderr(err), _no_workers():
        warnings.simplefilter("always")
        try:
            code = cli.main([str(arg) for arg in argv])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Told(code, out.getvalue(), err.getvalue())


def done(*argv: object) -> Any:
    """Run a command line that must end well and say nothing else; returns its facts."""
    told = tell(*argv, "--json", *(["--quiet"] if argv[0] == "ground-truth" else []))
    # Small blocks cut row groups, which is told.
    complaints = [
        line for line in told.err.splitlines() if not line.startswith("haag-vq: note: row groups")
    ]
    assert (told.code, complaints) == (0, []), told
    return told.facts


def program(*argv: object, **options: Any) -> subprocess.Popen[str]:
    """Start a command line as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "haag_vq.cli", *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def ended(process: subprocess.Popen[str]) -> Told:
    """Wait for a process."""
    out, err = process.communicate(timeout=60)
    return Told(process.returncode, out, err)


def write_base(home: Path, name: str = "base.npy") -> NDArray[np.float32]:
    """Write rows that float16 can hold, some of them twice, by the suffix; returns float32 rows."""
    rows = vectors(N, DIM, "float16")
    rows[700:760] = rows[:60]
    if name.endswith(".npy"):
        write_npy(home / name, rows)
    elif name.endswith(".parquet"):
        write_parquet(home / name, rows.astype(np.float32), row_group_size=130)
    else:
        write_bigann(home / name, rows.astype(np.float32))
    return rows.astype(np.float32)


def write_queries(home: Path, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Write queries of which the first five are rows of the base: 3 to 7, and twice there."""
    queries = np.concatenate((rows[3:8], vectors(9, DIM, seed=1)))
    write_npy(home / "queries.npy", queries)
    return queries


def assert_same_answer(a: Path, b: Path) -> None:
    """Two files hold the same, to the bit, with all that they say of it."""
    x, y = load_ground_truth(a), load_ground_truth(b)
    assert x.ids.tobytes() == y.ids.tobytes()
    assert x.distances.tobytes() == y.distances.tobytes()
    assert _said(x) == _said(y)


def contents(directory: Path) -> dict[str, bytes]:
    """Bytes of every file of a checkpoint, but the empty ones that are locks."""
    files = sorted(path for path in directory.iterdir() if not path.name.endswith("lock"))
    return {path.name: path.read_bytes() for path in files}


def intervals(directory: Path) -> list[Path]:
    """Files of finished rows, in the order of the rows."""
    return sorted(directory.glob("rows-*.part"))


def _said(truth: GroundTruth) -> dict[str, Any]:
    names = ["metric", "n_rows", "dim", "base_fingerprint", "queries_sha256", "dataset"]
    names += ["query_source", "excluded_self", "findings", "software"]
    rows = truth.query_rows
    return {name: getattr(truth, name) for name in names} | {
        "query_rows": None if rows is None else rows.tolist()
    }


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@contextmanager
def _no_workers() -> Iterator[None]:
    def connect(*_: Any, **__: Any) -> Any:
        return dask.config.set(scheduler="sync")

    with mock.patch.object(workers, "connect", connect):
        yield
