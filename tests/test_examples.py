"""Every example runs, from an empty directory, and says something."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))

# Smaller than by default, so that the suite stays short.
ARGUMENTS = {"demo.py": ["4000", "64"], "lazy_subsets.py": ["synthetic:200000x64"]}


def test_the_examples_are_there() -> None:
    names = {"demo.py", "lazy_subsets.py", "truth_and_recall.py"}
    assert names <= {path.name for path in EXAMPLES}


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
    if path.name == "truth_and_recall.py":
        for part in ("base 5,000 × 64", "base 20,000 × 64", "n_excluded", "in error             0"):
            assert part in printed
        # More of the index searched, more found: the last of the three is nearly all.
        found = [float(text) for text in re.findall(r"recall@10 (\d\.\d+)", printed)]
        assert found == sorted(found)
        assert len(found) == 3
        assert found[-1] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_as_it_is_given(path: Path, tmp_path: Path) -> None:
    run_example(path, tmp_path)
