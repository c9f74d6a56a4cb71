"""Every example runs, from an empty directory, and says something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))

# Smaller than by default, so that the suite stays short.
ARGUMENTS = {"demo.py": ["4000", "64"], "lazy_subsets.py": ["synthetic:200000x64"]}


def test_the_examples_are_there() -> None:
    assert {"demo.py", "lazy_subsets.py"} <= {path.name for path in EXAMPLES}


def run_example(path: Path, directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, path, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    printed = run_example(path, tmp_path, *ARGUMENTS.get(path.name, []))
    if path.name == "demo.py":
        for part in ("4,000 vectors × 64", "before", "after", "neighbours that agree"):
            assert part in printed
        assert (tmp_path / "demo_memory.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_as_it_is_given(path: Path, tmp_path: Path) -> None:
    run_example(path, tmp_path)
