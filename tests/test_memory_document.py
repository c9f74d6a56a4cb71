"""docs/memory.md is what the planner says now."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from haag_vq.groundtruth.precompile import compiler_bytes

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "memory.md"


def test_the_document_is_current() -> None:
    if compiler_bytes():
        pytest.skip("where compiled code cannot be kept, each worker is projected with a compiler")
    script = ROOT / "benchmarks" / "memory_document.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"run python {script}\n{done.stderr}"


def test_what_was_measured_is_within_what_is_planned() -> None:
    n_measured = 0
    for line in DOCUMENT.read_text().splitlines():
        found = re.fullmatch(r"\| Total peak.* \| ([\d.]+) ([MG])B \| ([\d.]+) ([MG])B \|", line)
        if found:
            planned, measured = (
                float(found[i]) * {"M": 1e6, "G": 1e9}[found[i + 1]] for i in (1, 3)
            )
            assert 0 < measured <= planned
            n_measured += 1
    assert n_measured >= 4
