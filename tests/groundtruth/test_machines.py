"""The same bits on other machines: each a process that is told to compute as one would.

Which instructions NumPy, the BLAS libraries and the compiler use, and how many threads, is set by
the environment. That the settings took effect is checked: float32 products then have other bits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from haag_vq.groundtruth.openblas import this_cpu
from tests.groundtruth import child

CPU = this_cpu()

pytestmark = pytest.mark.skipif(CPU.kernel is None, reason="the settings are those of x86-64")

# What the settings of a machine are; none of the tests' own environment may take part.
VARIABLES = (
    "NPY_DISABLE_CPU_FEATURES",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
    "NUMBA_DISABLE_JIT",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine that this one can pretend to be."""

    kernel: str | None = None
    """Of both OpenBLAS libraries."""
    numpy_without: str = ""
    """NumPy's instruction sets that it lacks: "AVX-512", or "all" that NumPy can do without."""
    threads: int | None = None
    generic_code: bool = False
    """What is compiled uses no more than every x86-64 CPU has."""

    def environment(self) -> dict[str, str]:
        """Variables that make a process such a machine."""
        found = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        if self.kernel is not None:
            found["OPENBLAS_CORETYPE"] = self.kernel
        found["NPY_DISABLE_CPU_FEATURES"] = " ".join(self.features_off())
        if self.threads is not None:
            found["OMP_NUM_THREADS"] = str(self.threads)
        if self.generic_code:
            found |= {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
        return found

    def features_off(self) -> list[str]:
        """Names that NumPy has for them; only of what it was compiled for and this CPU has."""
        names = child.numpy_features() if self.numpy_without else []
        if self.numpy_without == "AVX-512":
            names = [name for name in names if name.startswith("AVX512") or name == "X86_V4"]
        return names


MACHINES = [
    pytest.param(Machine(threads=3), id="this-one-three-threads"),
    pytest.param(Machine("Prescott", "all", 1), id="sse"),
    pytest.param(Machine("Sandybridge", "all", 2), id="avx"),
    pytest.param(Machine("Haswell", "AVX-512", 2), id="avx2"),
    pytest.param(Machine("Zen", "AVX-512", 3), id="zen"),
    pytest.param(
        Machine("SkylakeX", "", 1),
        id="avx512",
        marks=pytest.mark.skipif(CPU.instruction_set != "AVX-512", reason="needs AVX-512"),
    ),
    # Compiled anew, which takes most of the time.
    pytest.param(Machine("Prescott", "all", 2, True), id="oldest", marks=pytest.mark.slow),
    pytest.param(Machine(generic_code=True), id="generic-code", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def cases_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("machines") / "cases.npz"
    child.save_cases(path)
    return path


@pytest.fixture(scope="module")
def own_hashes(cases_path: Path) -> dict[str, str]:
    return child.hashes_of(cases_path)


def run_as(machine: Machine, cases_path: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.groundtruth.child", str(cases_path)],
        env=machine.environment(),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("machine", MACHINES)
def test_the_bits_of_another_machine(
    machine: Machine, cases_path: Path, own_hashes: dict[str, str]
) -> None:
    found = run_as(machine, cases_path)
    if machine.kernel is not None:
        assert found["faiss_kernels"] == [machine.kernel]
    assert not set(found["numpy_features"]) & set(machine.features_off())
    if machine.generic_code:
        assert found["compiled_for"] == "generic"
    assert len(own_hashes) == len(child.FIXED) * 3 * 2
    assert found["hashes"] == own_hashes
    # Were these the same, nothing would have been at stake. (Newer kernels can be this CPU's own.)
    if machine.kernel in ("Prescott", "Sandybridge"):
        assert found["float32_product"] != child.machine_of(cases_path)["float32_product"]
