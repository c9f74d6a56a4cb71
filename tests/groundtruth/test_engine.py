"""The BLAS kernel that FAISS gets, in processes of their own: it is chosen once, at import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from haag_vq.groundtruth.openblas import VARIABLE, this_cpu

CPU = this_cpu()

pytestmark = pytest.mark.skipif(
    CPU.kernel is None, reason="this CPU's kernel is not ours to choose"
)

REPORT = """
import json, os, warnings
import numpy as np
with warnings.catch_warnings(record=True) as at_import:
    warnings.simplefilter("always")
    from haag_vq.groundtruth import engine
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    x = np.eye(4, dtype=np.float32)
    for _ in range(2):
        D, I = engine.knn(x, x, 1, False)
report = engine.blas_report()
(faiss,) = [library for library in report.libraries if "FAISS" in library.users]
print(json.dumps({
    "kernel": faiss.kernel, "set": faiss.instruction_set, "complaint": report.complaint(),
    "chosen": report.choice.kernel, "by_user": report.choice.by_user,
    "too_late": report.choice.too_late, "variable": os.environ.get("OPENBLAS_CORETYPE"),
    "at_import": [str(w.message) for w in at_import], "told": [str(w.message) for w in told],
    "ids": I[:, 0].tolist(),
}))
"""

# As if FAISS's OpenBLAS knew no newer CPU, on any machine.
FAISS_BEFORE = """
import os
os.environ["OPENBLAS_CORETYPE"] = "Prescott"
import faiss
del os.environ["OPENBLAS_CORETYPE"]
"""


def child(program: str, **variables: str) -> dict[str, Any]:
    """Run `program` with these variables, and no other that names a kernel."""
    env = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=env | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["ids"] == [0, 1, 2, 3]
    assert found["at_import"] == []
    return found


def test_by_default_the_kernel_fits_and_the_choice_does_not_leak() -> None:
    found = child(REPORT)
    assert found["set"] == CPU.instruction_set
    assert (found["chosen"], found["by_user"], found["too_late"]) == (CPU.kernel, False, False)
    assert (found["complaint"], found["told"]) == (None, [])
    # A child may be started on another CPU, with this environment.
    assert found["variable"] is None


def test_a_users_own_kernel_is_kept_and_told_only_when_asked_for() -> None:
    found = child(REPORT, OPENBLAS_CORETYPE="Prescott")
    assert (found["kernel"], found["set"], found["variable"]) == ("Prescott", "SSE", "Prescott")
    assert (found["chosen"], found["by_user"]) == ("Prescott", True)
    assert found["told"] == []
    assert "OPENBLAS_CORETYPE=Prescott is set" in found["complaint"]


def test_a_users_own_kernel_that_fits_is_no_matter() -> None:
    found = child(REPORT, OPENBLAS_CORETYPE=str(CPU.kernel))
    assert (found["by_user"], found["complaint"], found["told"]) == (True, None, [])
    assert found["variable"] == CPU.kernel


def test_faiss_imported_before_is_told_as_too_late() -> None:
    found = child(FAISS_BEFORE + REPORT)
    assert (found["kernel"], found["too_late"], found["by_user"]) == ("Prescott", True, False)
    assert found["told"] == [found["complaint"]]
    assert "faiss was imported before haag_vq" in found["complaint"]
    assert f"export OPENBLAS_CORETYPE={CPU.kernel}" in found["complaint"]
