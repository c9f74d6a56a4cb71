"""`doctor`: what it reports here, and what it advises where something is amiss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import faiss
import numpy as np
import pytest

from haag_vq.cli import main
from haag_vq.doctor import DoctorReport, doctor
from haag_vq.errors import InsufficientMemoryError
from haag_vq.groundtruth import blas
from haag_vq.groundtruth.openblas import this_cpu
from haag_vq.memory import Allowance
from haag_vq.speed import LEAST_ROWS, Speeds, measure_speeds

CORES = sorted(os.sched_getaffinity(0))

SPEEDS = Speeds(1677, 4096, 1024, 100.0, 110.0, 80.0, 500_000.0)


@pytest.fixture(scope="module")
def report() -> DoctorReport:
    return doctor(quick=True)


@pytest.fixture
def well(report: DoctorReport) -> DoctorReport:
    """A machine of which nothing is to be said: eight cores and 64 GiB, all ours."""
    return replace(
        report,
        blas=replace(report.blas, libraries=()),
        n_cores=8,
        n_machine_cores=8,
        n_search_threads=8,
        variables={"OMP_NUM_THREADS": "8"},
        in_slurm=False,
        memory_limit_bytes=64 << 30,
        physical_bytes=64 << 30,
        speeds=SPEEDS,
    )


def command(*argv: str, **variables: str) -> tuple[dict[str, Any], str]:
    """Run `haag-vq doctor --quick --json` by itself: its facts, and standard error."""
    dropped = ("OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "SLURM_JOB_ID")
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    program = [*argv, sys.executable, "-c", CHILD]
    done = subprocess.run(program, env=env | variables, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts, done.stderr


# The peak is the command's own: what it says of memory is held against it.
CHILD = """
import sys
from haag_vq.cli import main
from haag_vq.memory import peak_rss_bytes
code = main(["doctor", "--quick", "--json"])
print(peak_rss_bytes(), file=sys.stderr)
sys.exit(code)
"""


def test_what_it_reports_of_this_machine(report: DoctorReport) -> None:
    assert (report.n_cores, report.n_machine_cores) == (len(CORES), os.cpu_count())
    assert report.n_search_threads == blas.thread_count(None)
    users = [user for library in report.blas.libraries for user in library.users]
    assert sorted(users) == ["FAISS", "NumPy"]
    assert report.variables == {name: os.environ[name] for name in report.variables}
    assert 0 < report.allowance.bytes < report.memory_limit_bytes <= report.physical_bytes
    assert report.temporary_free_bytes > 0
    assert report.versions["numpy"] == np.__version__
    assert report.versions["faiss-cpu"] == faiss.__version__
    assert set(report.versions) == {
        *("haag_vq", "python", "faiss-cpu", "numpy", "dask", "distributed", "pyarrow", "numba")
    }
    speeds = report.speeds
    assert speeds is not None
    assert (speeds.n_queries, speeds.dim) == (1677, 1024)
    assert speeds.n_rows >= LEAST_ROWS
    assert speeds.faiss_share == speeds.faiss_gflops / speeds.queries_by_rows_gflops
    for rate in (speeds.faiss_gflops, speeds.rows_by_queries_gflops, speeds.half_rows_per_second):
        assert np.isfinite(rate)
        assert rate > 0


def test_the_table(
    report: DoctorReport, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bool] = []

    def made(quick: bool) -> DoctorReport:
        asked.append(quick)
        return replace(report, speeds=None if quick else SPEEDS)

    monkeypatch.setattr("haag_vq.commands.doctor.doctor", made)
    monkeypatch.setattr("warnings.showwarning", None)  # main() replaces it
    assert (main(["doctor"]), main(["doctor", "--quick"])) == (0, 0)
    full, quick = capsys.readouterr().out.split("CPU  ")[1:]
    for part in (report.blas.cpu.model, "BLAS of FAISS", "Q @ Xᵀ", "80%", "it would change"):
        assert part in full
    assert "not measured" in quick
    assert asked == [False, True]


def test_nothing_to_change(well: DoctorReport) -> None:
    assert well.advice == ()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"variables": {"OMP_NUM_THREADS": "2"}}, ["idle", "export OMP_NUM_THREADS=8"]),
        ({"variables": {"OMP_NUM_THREADS": "9"}}, ["wait", "unset OMP_NUM_THREADS"]),
        ({"n_machine_cores": 12}, ["8 of the machine's 12", "taskset -c 0-11"]),
        ({"n_machine_cores": 12, "in_slurm": True}, ["sbatch --cpus-per-task=12"]),
        (
            {"memory_limit_bytes": 4 << 30, "memory_origin": "cgroup /sys/x"},
            ["cgroup /sys/x", "4 GiB of the machine's 64 GiB", "--memory=64g"],
        ),
        ({"memory_limit_bytes": 4 << 30, "in_slurm": True}, ["sbatch --mem=0"]),
        ({"speeds": None}, ["too little", "1 GiB or more"]),
        ({"speeds": None, "in_slurm": True}, ["sbatch --mem=4G"]),
        ({"speeds": replace(SPEEDS, faiss_gflops=20.0)}, ["20%", "pip install --upgrade"]),
    ],
)
def test_one_thing_amiss_is_one_line(
    well: DoctorReport, changed: dict[str, Any], told: list[str]
) -> None:
    (line,) = replace(well, **changed).advice
    assert "\n" not in line
    for part in told:
        assert part in line


@pytest.mark.parametrize("value", ["", "many", "8,2"])
def test_a_number_of_threads_that_is_none_is_left_alone(well: DoctorReport, value: str) -> None:
    # As the search does: thread counts of nested levels and nonsense are the library's.
    assert replace(well, variables={"OMP_NUM_THREADS": value}).advice == ()


@pytest.mark.skipif(this_cpu().kernel is None, reason="this CPU's kernel is not ours to choose")
@pytest.mark.skipif(len(CORES) < 2, reason="one core is all that there is")
def test_an_old_kernel_and_too_few_threads_are_found() -> None:
    facts, err = command(OPENBLAS_CORETYPE="Prescott", OMP_NUM_THREADS="1")
    assert facts["variables"] == {
        **facts["variables"],
        "OPENBLAS_CORETYPE": "Prescott",
        "OMP_NUM_THREADS": "1",
    }
    advice = "\n".join(facts["advice"])
    assert f"export OPENBLAS_CORETYPE={this_cpu().kernel}" in advice
    assert f"export OMP_NUM_THREADS={len(CORES)}" in advice
    assert "note:" not in err, "the report says it; no warning beside it"


@pytest.mark.skipif(len(CORES) < 2, reason="one core is all that there is")
def test_too_few_cores_are_found_and_a_small_grant_is_kept_to() -> None:
    facts, err = command(
        *("taskset", "-c", str(CORES[0])), SLURM_JOB_ID="1", SLURM_MEM_PER_NODE="480"
    )
    assert facts["n_cores"] == 1
    advice = "\n".join(facts["advice"])
    assert f"sbatch --cpus-per-task={os.cpu_count()}" in advice
    assert "480 MiB" in advice
    assert facts["speeds"]["n_rows"] > 0
    assert int(err) < facts["allowance"]["bytes"] == 360 << 20


def test_what_does_not_fit_is_not_measured() -> None:
    with pytest.raises(InsufficientMemoryError, match="Measuring needs .* more memory"):
        measure_speeds(Allowance(100 << 20, "a test"), quick=True)


def test_a_small_allowance_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haag_vq.doctor.process_allowance", lambda: Allowance(9 << 20, "a test"))
    report = doctor(quick=True)
    assert report.speeds is None
    assert any("9 MiB (a test) is too little" in line for line in report.advice)
