"""Whether a BLAS kernel is the one for a CPU: the rules, on machines that are not this one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from haag_vq.groundtruth import openblas
from haag_vq.groundtruth.openblas import BlasLibrary, BlasReport, Choice, Cpu

AVX512 = "avx avx2 fma avx512f avx512dq avx512bw avx512vl"
SKYLAKE = Cpu("Xeon", (), "AVX-512", "SkylakeX")
NUMPY = BlasLibrary(("NumPy",), "openblas", "0.3.31", "SkylakeX", "AVX-512", 2)
FAISS = BlasLibrary(("FAISS",), "openblas", "0.3.15", "SkylakeX", "AVX-512", 2)
OLD = replace(FAISS, kernel="Prescott", instruction_set="SSE")
OURS = Choice("SkylakeX", by_user=False, too_late=False)


def cpu_of(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cpu:
    """The CPU of a machine whose /proc/cpuinfo has this text, or that has none."""
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(openblas, "Path", lambda _: path)
    return openblas.this_cpu()


@pytest.mark.parametrize(
    ("flags", "instruction_set", "kernel"),
    [
        (AVX512, "AVX-512", "SkylakeX"),
        (AVX512.replace("avx512vl", ""), "AVX2", "Haswell"),  # Knights Landing lacks parts
        ("avx avx2 fma", "AVX2", "Haswell"),
        ("avx avx2", None, None),
        ("sse2 ssse3", None, None),
    ],
)
def test_the_kernel_for_an_x86_cpu(
    flags: str,
    instruction_set: str | None,
    kernel: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = f"processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: {flags}\n\n"
    cpu = cpu_of(one + one.replace("A CPU", "Another"), tmp_path, monkeypatch)
    assert (cpu.instruction_set, cpu.kernel) == (instruction_set, kernel)
    assert cpu.model == "A CPU: fast"
    assert set(cpu.flags) == set(flags.split()) - {"sse2", "ssse3"}


@pytest.mark.parametrize("text", [None, "processor\t: 0\nFeatures\t: fp asimd sve\n"])
def test_no_kernel_for_a_cpu_that_is_not_known(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = cpu_of(text, tmp_path, monkeypatch)
    assert (cpu.instruction_set, cpu.kernel) == (None, None)
    assert cpu.flags == (("asimd", "sve") if text else ())
    monkeypatch.delenv(openblas.VARIABLE, raising=False)
    with openblas.kernel_for_this_cpu() as choice:
        assert openblas.VARIABLE not in os.environ
    assert choice.kernel is None
    assert BlasReport(cpu, choice, (OLD,)).complaint() is None


@pytest.mark.parametrize(
    "library",
    [
        FAISS,
        replace(FAISS, kernel="Cooperlake"),
        replace(OLD, users=()),
        replace(OLD, name="mkl", kernel=None, instruction_set=None),
        replace(OLD, kernel="Novel", instruction_set=None),
    ],
)
def test_what_fits_or_is_not_known_is_no_complaint(library: BlasLibrary) -> None:
    assert BlasReport(SKYLAKE, OURS, (NUMPY, library)).complaint() is None


def test_an_avx2_kernel_fits_an_avx2_cpu_and_no_other() -> None:
    zen = replace(FAISS, kernel="Zen", instruction_set="AVX2")
    assert BlasReport(Cpu("EPYC", (), "AVX2", "Haswell"), OURS, (zen,)).too_old == ()
    assert BlasReport(SKYLAKE, OURS, (NUMPY, zen)).too_old == (zen,)


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (
            Choice("Prescott", by_user=True, too_late=True),
            "OPENBLAS_CORETYPE=Prescott is set: unset OPENBLAS_CORETYPE, or export",
        ),
        (replace(OURS, too_late=True), "imported before haag_vq, too late"),
        (OURS, "does not know the CPU"),
    ],
)
def test_a_complaint_says_why_and_what_to_set(choice: Choice, told: str) -> None:
    said = BlasReport(SKYLAKE, choice, (NUMPY, OLD)).complaint()
    assert said is not None
    assert "\n" not in said
    for part in ("FAISS", "Prescott, OpenBLAS 0.3.15", "AVX-512", told):
        assert part in said
    assert "NumPy" not in said
    assert said.endswith("export OPENBLAS_CORETYPE=SkylakeX.")


@pytest.mark.parametrize(
    ("paths", "users"),
    [
        (["/e/site-packages/faiss_cpu.libs/a.so", "/e/site-packages/numpy.libs/b.so"], "FN"),
        (["/e/site-packages/faiss/.dylibs/a.dylib", "/e/numpy/.dylibs/b.dylib"], "FN"),
        (["/numpy-work/faiss_cpu.libs/a.so", "/faiss/env/lib/numpy.libs/b.so"], "FN"),
        (["/envs/faiss-test/lib/libopenblas.so"], "B"),
        (["/e/numpy.libs/a.so", "/e/scipy.libs/b.so"], "N-"),
    ],
)
def test_whose_a_library_is(paths: list[str], users: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> list[dict[str, Any]]:
        openmp = {"user_api": "openmp", "filepath": "/e/faiss_cpu.libs/libgomp.so"}
        blas = {"user_api": "blas", "internal_api": "openblas", "version": None, "num_threads": 1}
        return [openmp, *({**blas, "filepath": p, "architecture": "Zen"} for p in paths)]

    monkeypatch.setattr(openblas, "threadpool_info", found)
    names = {"F": ("FAISS",), "N": ("NumPy",), "B": ("FAISS", "NumPy"), "-": ()}
    libraries = openblas.loaded_libraries()
    assert [library.users for library in libraries] == [names[letter] for letter in users]
    assert {library.instruction_set for library in libraries} == {"AVX2"}


@pytest.mark.parametrize(
    "other", [{"internal_api": "mkl"}, {"internal_api": "blis", "architecture": "generic"}]
)
def test_no_opinion_of_another_blas(other: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    blas = {"user_api": "blas", "version": "1.0", "num_threads": 1, "filepath": "/lib/blas.so"}
    monkeypatch.setattr(openblas, "threadpool_info", lambda: [{**blas, **other}])
    (library,) = openblas.loaded_libraries()
    assert (library.users, library.instruction_set) == (("FAISS", "NumPy"), None)
    assert BlasReport(SKYLAKE, OURS, (library,)).complaint() is None
