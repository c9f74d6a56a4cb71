"""Which kernel an OpenBLAS runs, and whether that is the one for this CPU.

OpenBLAS chooses its kernel when it is loaded. One that is older than the CPU takes it for an
ancient one: the OpenBLAS 0.3.15 that faiss-cpu bundles runs SSE code on recent Intel, at a fifth
of the speed, and AVX2 code on recent AMD. OPENBLAS_CORETYPE chooses for it, if set in time.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from threadpoolctl import threadpool_info

VARIABLE = "OPENBLAS_CORETYPE"

# From the oldest. What a kernel is worth is the widest that it computes with.
INSTRUCTION_SETS = ("SSE", "AVX", "AVX2", "AVX-512")

# Flags of a CPU, the instruction set they stand for, and the kernel every OpenBLAS since 0.3.3 has
# for it. A CPU with neither is old enough to be known.
_CHOICES = (
    ({"avx512f", "avx512dq", "avx512bw", "avx512vl"}, "AVX-512", "SkylakeX"),
    ({"avx2", "fma"}, "AVX2", "Haswell"),
)

_KERNELS = {
    "AVX-512": "skylakex cooperlake sapphirerapids",
    "AVX2": "haswell zen excavator",
    "AVX": "sandybridge bulldozer piledriver steamroller",
    "SSE": "generic katmai coppermine northwood prescott banias atom core2 penryn dunnington "
    "nehalem athlon opteron opteron_sse3 barcelona bobcat nano",
}
_SET_OF = {kernel: name for name, kernels in _KERNELS.items() for kernel in kernels.split()}

_SHOWN_FLAGS = (
    *("avx", "f16c", "fma", "avx2", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "asimd", "sve", "sve2"),
)


@dataclass(frozen=True, slots=True)
class Cpu:
    """This machine's processor, as its system describes it."""

    model: str
    flags: tuple[str, ...]
    """Those of its vector instructions that matter here; none where the system does not tell."""
    instruction_set: str | None
    """AVX2 or AVX-512; None: older, not x86 or not known, so that no kernel is recommended."""
    kernel: str | None
    """OpenBLAS's kernel for it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided before FAISS was imported."""

    kernel: str | None
    """Value of OPENBLAS_CORETYPE while FAISS was imported; None: not set."""
    by_user: bool
    """It was set before, and stands."""
    too_late: bool
    """FAISS was there already."""


@dataclass(frozen=True, slots=True)
class BlasLibrary:
    """A BLAS that is loaded in this process."""

    users: tuple[str, ...]
    """FAISS, NumPy, both, or neither."""
    name: str
    """openblas, mkl, blis, …"""
    version: str
    kernel: str | None
    """As the library calls it: Prescott, SkylakeX."""
    instruction_set: str | None
    """What that kernel computes with; None: not known."""
    n_threads: int


@dataclass(frozen=True, slots=True)
class BlasReport:
    """The kernels that FAISS and NumPy got, against the CPU."""

    cpu: Cpu
    choice: Choice
    libraries: tuple[BlasLibrary, ...]

    @property
    def too_old(self) -> tuple[BlasLibrary, ...]:
        """Libraries of FAISS or NumPy whose kernel computes with less than the CPU has."""
        best = self.cpu.instruction_set
        if best is None:
            return ()
        newer = INSTRUCTION_SETS[INSTRUCTION_SETS.index(best) :]
        return tuple(
            library
            for library in self.libraries
            if library.users and library.instruction_set not in (None, *newer)
        )

    def complaint(self) -> str | None:
        """Say in a sentence which kernels are too old, why, and what to do; None: all fit."""
        if not self.too_old:
            return None
        got = " and ".join(
            f"{'/'.join(library.users)} computes with an {library.instruction_set} kernel "
            f"({library.kernel}, OpenBLAS {library.version})"
            for library in self.too_old
        )
        export = f"export {VARIABLE}={self.cpu.kernel}"
        if self.choice.by_user:
            why = f"{VARIABLE}={self.choice.kernel} is set: unset {VARIABLE}, or {export}"
        elif self.choice.too_late:
            why = (
                "faiss was imported before haag_vq, too late to choose: import haag_vq first, or "
                + export
            )
        else:
            why = f"this OpenBLAS does not know the CPU: {export}"
        return f"{got} on a CPU with {self.cpu.instruction_set}; {why}."


def this_cpu() -> Cpu:
    """Read the processor from /proc/cpuinfo; where there is none, it has no flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    # ARM's list is called Features, and has no flag of x86.
    flags = set((fields.get("flags") or fields.get("Features", "")).split())
    instruction_set, kernel = next(
        ((name, kernel) for needed, name, kernel in _CHOICES if needed <= flags), (None, None)
    )
    return Cpu(
        fields.get("model name") or platform.processor() or platform.machine(),
        tuple(flag for flag in _SHOWN_FLAGS if flag in flags),
        instruction_set,
        kernel,
    )


@contextmanager
def kernel_for_this_cpu() -> Iterator[Choice]:
    """Name the kernel for this process's own CPU, for an OpenBLAS that is loaded meanwhile.

    The variable is taken back: a child process may run elsewhere, as a Slurm job that inherits
    the environment, and a forced AVX-512 kernel kills one on a CPU without. A user's own choice
    stands.
    """
    too_late = "faiss" in sys.modules
    own = os.environ.get(VARIABLE)
    kernel = this_cpu().kernel
    if own is not None or kernel is None:
        yield Choice(own, own is not None, too_late)
        return
    os.environ[VARIABLE] = kernel
    try:
        yield Choice(kernel, False, too_late)
    finally:
        del os.environ[VARIABLE]


def loaded_libraries() -> tuple[BlasLibrary, ...]:
    """Find the BLAS libraries of this process, and whose they are."""
    found = [info for info in threadpool_info() if info["user_api"] == "blas"]
    return tuple(
        BlasLibrary(
            _users(info["filepath"], len(found)),
            info["internal_api"],
            info["version"] or "?",
            kernel := info.get("architecture"),
            _SET_OF.get(str(kernel).lower()) if info["internal_api"] == "openblas" else None,
            info["num_threads"],
        )
        for info in found
    )


def _users(path: str, n_libraries: int) -> tuple[str, ...]:
    """Tell who uses the library at `path`: wheels keep theirs in a directory of their name."""
    # site-packages/numpy.libs/libopenblas.so; on macOS site-packages/numpy/.dylibs/….
    for part in Path(path).parts[-2:-4:-1]:
        for user in ("FAISS", "NumPy"):
            if re.fullmatch(rf"{user}(?:_cpu)?(?:\.libs)?", part, re.IGNORECASE):
                return (user,)
    # Outside wheels there is one for all, as in conda.
    return ("FAISS", "NumPy") if n_libraries == 1 else ()
