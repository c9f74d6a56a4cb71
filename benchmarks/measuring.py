"""What the benchmarks share: ways in processes of their own, medians, tables, data."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

MIB = 1 << 20


@contextmanager
def data_directory(kept: str | None, prefix: str) -> Iterator[Path]:
    """Yield `kept`, made if need be and left in place, or a new directory that is removed."""
    if kept is not None:
        path = Path(kept).absolute()
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def warm(paths: Sequence[Path]) -> None:
    """Read files once, so that every way finds them in the page cache."""
    buffer = bytearray(8 * MIB)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def run_json(command: Sequence[str], env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a program whose last line of output is one JSON object; return it.

    Raises
    ------
    RuntimeError
        If it fails; with what it wrote.
    """
    done = subprocess.run(
        command, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def answer(found: dict[str, Any]) -> NoReturn:
    """Print one JSON object for `run_json` and end this process at once.

    Without Python's teardown: threads that Arrow still has from a stream of `datasets` can abort
    the process there ("terminate called without an active exception", seen once).
    """
    print(json.dumps(found), flush=True)
    os._exit(0)


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Median of each number over several runs of one way."""
    return {
        key: float(median(float(run[key]) for run in runs))
        for key, value in runs[0].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as Markdown, padded so that it reads as plain text too."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "| " + " | ".join([first, *rest]) + " |"

    print(line(head))
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in rows:
        print(line(row))


def parser(text: str | None) -> argparse.ArgumentParser:
    """Parse what every benchmark takes: --data, --json, and --way of an inner process."""
    made = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", help="directory to keep the generated data in and reuse")
    made.add_argument("--json", action="store_true", help="print one JSON object, no table")
    made.add_argument("--way", help=argparse.SUPPRESS)
    return made


def run_benchmark(
    args: argparse.Namespace,
    prefix: str,
    measure: Callable[[Path, argparse.Namespace], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
) -> None:
    """Measure with a directory for the data, and tell what was found."""
    with data_directory(args.data, prefix) as home:
        found = measure(home, args)
    tell(args, found, show)


def tell(
    args: argparse.Namespace, found: dict[str, Any], show: Callable[[dict[str, Any]], None]
) -> None:
    """Print what was found: as one JSON object where that is asked for, or as `show` does."""
    if args.json:
        print(json.dumps(found))
    else:
        show(found)


class Served:
    """A process of a benchmark that lives through all runs: its buffers are warm.

    It answers each line that it gets with a line that is JSON. A context manager.

    Parameters
    ----------
    words : sequence of str
        What its Python runs.
    """

    def __init__(self, words: Sequence[str], env: dict[str, str]) -> None:
        self._words = [sys.executable, *words]
        self._child = subprocess.Popen(
            self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def begin(self) -> None:
        """Let it do its work once."""
        if self._child.stdin is None:
            raise RuntimeError("no pipe")
        self._child.stdin.write("run\n")
        self._child.stdin.flush()

    def answer(self) -> Any:
        """Wait for what it found; RuntimeError if it has ended."""
        line = self._child.stdout.readline() if self._child.stdout else ""
        if not line:
            raise RuntimeError(f"{' '.join(self._words)} ended: exit {self._child.wait()}")
        return json.loads(line)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.communicate("")


def machine() -> str:
    """Describe this machine in a line."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {memory / 2**30:.0f} GiB, Python {platform.python_version()}"


def note(text: str) -> None:
    """Say what is being done, on standard error."""
    print(text, file=sys.stderr, flush=True)
