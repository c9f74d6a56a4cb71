"""What this process would compute with, how fast that is, and what would make it faster."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version

import psutil

from haag_vq.errors import InsufficientMemoryError
from haag_vq.groundtruth import blas, engine
from haag_vq.groundtruth.openblas import BlasReport
from haag_vq.groundtruth.result import software_versions
from haag_vq.memory import Allowance, format_bytes, machine_memory, n_cores, process_allowance
from haag_vq.speed import Speeds, measure_speeds

# What the libraries below us read when they are loaded.
VARIABLES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "MKL_NUM_THREADS"),
    *("NUMBA_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY", "OMP_THREAD_LIMIT"),
    *("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES"),
    *("NUMBA_CPU_NAME", "NUMBA_DISABLE_JIT", "FAISS_OPT_LEVEL"),
)

# FAISS reached 0.5 to 0.9 of sgemm where all was well, 0.2 with a kernel that was too old
# (measured on two CPUs).
LEAST_SHARE = 0.35

# A limit that leaves this much of the machine's memory is not worth a word (arbitrary).
AMPLE_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What `doctor` found."""

    blas: BlasReport
    """The CPU, and the BLAS kernels against it."""
    n_cores: int
    """Cores that this process may run on: its affinity."""
    n_machine_cores: int
    n_search_threads: int
    """Threads of a search in this process: OMP_NUM_THREADS, or its cores."""
    variables: dict[str, str]
    """Environment variables that are set and change speed or threads."""
    in_slurm: bool
    """This is a Slurm job: what it has is asked for with sbatch."""
    allowance: Allowance
    """What this process may plan to use, and where that comes from."""
    memory_limit_bytes: int
    """The smallest limit that applies to it."""
    memory_origin: str
    physical_bytes: int
    temporary: str
    """Directory for temporary files."""
    temporary_free_bytes: int
    speeds: Speeds | None
    """None: too little memory to measure."""
    versions: dict[str, str]

    @property
    def advice(self) -> tuple[str, ...]:
        """Sentences, each with what to set or run; none where nothing would help."""
        found = [self.blas.complaint(), self._of_threads(), self._of_cores()]
        found += [self._of_memory(), self._of_speed()]
        return tuple(sentence for sentence in found if sentence is not None)

    def _of_threads(self) -> str | None:
        text = self.variables.get("OMP_NUM_THREADS", "")
        n = int(text) if text.isdigit() else 0
        if n in (0, self.n_cores):
            return None
        return (
            f"OMP_NUM_THREADS={n} on {self.n_cores} cores "
            + ("leaves cores idle" if n < self.n_cores else "makes threads wait for each other")
            + f": unset OMP_NUM_THREADS, or export OMP_NUM_THREADS={self.n_cores}."
        )

    def _of_cores(self) -> str | None:
        n = self.n_machine_cores
        if self.n_cores >= n:
            return None
        remedy = f"sbatch --cpus-per-task={n}" if self.in_slurm else f"taskset -c 0-{n - 1} COMMAND"
        return f"this process may run on {self.n_cores} of the machine's {n} cores: {remedy}."

    def _of_memory(self) -> str | None:
        if self.memory_limit_bytes >= AMPLE_SHARE * self.physical_bytes:
            return None
        whole = format_bytes(self.physical_bytes)
        remedy = (
            "sbatch --mem=0 grants a node's whole memory"
            if self.in_slurm
            else f"raise the limit there (of a container: docker run --memory="
            f"{self.physical_bytes >> 30}g)"
        )
        return (
            f"{self.memory_origin} limits this process to "
            f"{format_bytes(self.memory_limit_bytes)} of the machine's {whole}: {remedy}."
        )

    def _of_speed(self) -> str | None:
        if self.speeds is None:
            remedy = "sbatch --mem=4G" if self.in_slurm else "allow this process 1 GiB or more"
            return (
                f"{format_bytes(self.allowance.bytes)} ({self.allowance.origin}) is too little to "
                f"measure the speed in, and for most searches: {remedy}."
            )
        # A kernel that is too old is told already.
        if self.speeds.faiss_share >= LEAST_SHARE or self.blas.too_old:
            return None
        return (
            f"FAISS reaches {self.speeds.faiss_share:.0%} of sgemm's speed, though its kernel "
            "fits: run haag-vq doctor again while nothing else runs; if it stays so, pip install "
            "--upgrade faiss-cpu."
        )


def doctor(quick: bool = False) -> DoctorReport:
    """Look at this process and its machine, and measure for a few seconds.

    Parameters
    ----------
    quick : bool
        Measure with fewer rows, for less than a second.

    Notes
    -----
    Memory: at most 250 MiB beside the process, within its allowance.
    """
    allowance = process_allowance()
    limit, origin = machine_memory()
    temporary = tempfile.gettempdir()
    return DoctorReport(
        blas=engine.blas_report(),
        n_cores=n_cores(),
        n_machine_cores=os.cpu_count() or 1,
        n_search_threads=blas.thread_count(None),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        in_slurm="SLURM_JOB_ID" in os.environ,
        allowance=allowance,
        memory_limit_bytes=limit,
        memory_origin=origin,
        physical_bytes=psutil.virtual_memory().total,
        temporary=temporary,
        temporary_free_bytes=shutil.disk_usage(temporary).free,
        speeds=_speeds(allowance, quick),
        versions=software_versions() | {"pyarrow": version("pyarrow")},
    )


def _speeds(allowance: Allowance, quick: bool) -> Speeds | None:
    try:
        with warnings.catch_warnings():
            # That a kernel is too old is in the report.
            warnings.simplefilter("ignore")
            return measure_speeds(allowance, quick)
    except InsufficientMemoryError:
        return None
