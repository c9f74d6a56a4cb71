"""`haag-vq doctor`: what this machine computes with, how fast, and what would help."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from haag_vq.doctor import DoctorReport, doctor
from haag_vq.groundtruth.openblas import BlasLibrary
from haag_vq.memory import format_bytes
from haag_vq.planning import calibrate, save_rates
from haag_vq.report import Rows

NAME = "doctor"
HELP = "say what this machine computes with, how fast, and what would make it faster"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how long to measure, and whether to keep what plans go by."""
    parser.add_argument("--quick", action="store_true", help="measure for less than a second")
    parser.add_argument(
        "--calibrate",
        nargs="?",
        const="",
        metavar="DIR",
        help="measure what `haag-vq plan` goes by, half a minute, and keep it for this CPU; "
        "the disk is that of DIR (default: of temporary files)",
    )


def run(args: argparse.Namespace) -> tuple[dict[str, Any], Rows]:
    """Look, measure and advise."""
    if args.calibrate is not None:
        return _calibrate(args.calibrate or None)
    report = doctor(args.quick)
    facts = asdict(report) | {"advice": list(report.advice)}
    if report.speeds is not None:
        facts["speeds"]["faiss_share"] = report.speeds.faiss_share
    return facts, [*_machine(report), *_speeds(report), *_advice(report)]


def _calibrate(directory: str | None) -> tuple[dict[str, Any], Rows]:
    rates = calibrate(directory)
    path = save_rates(rates)
    facts = asdict(rates) | {"file": str(path)}
    rows = [
        ("CPU", rates.cpu),
        ("products", f"{rates.multiply_flops / 1e9:.0f} GFLOP/s a core"),
        ("scan", f"{rates.scan_pairs / 1e6:,.0f} million pairs a second, a core"),
        ("rows", f"{rates.row_values / 1e6:,.0f} million values a second, a core"),
        ("scoring", f"{rates.scored_values / 1e6:,.0f} million values a second, a core"),
        ("encoding", f"{rates.encoded_values / 1e6:,.0f} million values a second, a core"),
        *[
            (f"read {kind}", f"{rate / 1e6:,.0f} million values a second, a core")
            for kind, rate in rates.convert.items()
        ],
        (
            "disk",
            f"{format_bytes(rates.read_bytes)} a second read, "
            f"{format_bytes(rates.write_bytes)} written",
        ),
        ("start and end", f"{rates.start_seconds:.1f} s of a command"),
        ("network", f"{format_bytes(rates.network_bytes)} a second, assumed"),
        ("kept in", str(path)),
    ]
    return facts, rows


def _machine(report: DoctorReport) -> Rows:
    cpu = report.blas.cpu
    set_by = "" if report.blas.choice.kernel is None else ", named by haag_vq"
    if report.blas.choice.by_user:
        set_by = f", named by OPENBLAS_CORETYPE={report.blas.choice.kernel}"
    libraries = [
        (
            f"BLAS of {' and '.join(library.users)}",
            _library(library) + (set_by if "FAISS" in library.users else ""),
        )
        for library in report.blas.libraries
        if library.users
    ]
    variables = " ".join(f"{name}={value}" for name, value in report.variables.items())
    return [
        ("CPU", cpu.model),
        ("instructions", " ".join(cpu.flags) or "not told by this system"),
        ("cores", f"{report.n_cores} of the machine's {report.n_machine_cores}"),
        ("threads", f"{report.n_search_threads} of a search"),
        *libraries,
        ("variables", variables or "none that matter"),
        (
            "memory",
            f"{format_bytes(report.allowance.bytes)} may be used ({report.allowance.origin})",
        ),
        (
            "temporary files",
            f"{report.temporary}, {format_bytes(report.temporary_free_bytes)} free",
        ),
        ("versions", ", ".join(f"{name} {text}" for name, text in report.versions.items())),
    ]


def _library(library: BlasLibrary) -> str:
    kernel = "" if library.kernel is None else f", kernel {library.kernel}"
    if library.instruction_set is not None:
        kernel += f" ({library.instruction_set})"
    threads = "1 thread" if library.n_threads == 1 else f"{library.n_threads} threads"
    return f"{library.name} {library.version}{kernel}, {threads}"


def _speeds(report: DoctorReport) -> Rows:
    speeds = report.speeds
    if speeds is None:
        return [("speed", "not measured: too little memory")]
    return [
        ("measured with", f"{speeds.n_queries:,} queries, {speeds.n_rows:,} rows, d={speeds.dim}"),
        (
            "NumPy sgemm",
            f"{speeds.queries_by_rows_gflops:.0f} GFLOP/s as Q @ Xᵀ, "
            f"{speeds.rows_by_queries_gflops:.0f} as X @ Qᵀ",
        ),
        (
            "FAISS search",
            f"{speeds.faiss_gflops:.0f} GFLOP/s, {speeds.faiss_share:.0%} of Q @ Xᵀ",
        ),
        ("float16 to float32", f"{speeds.half_rows_per_second:,.0f} rows a second, one thread"),
    ]


def _advice(report: DoctorReport) -> Rows:
    lines = report.advice or ("nothing",)
    return [("it would change" if i == 0 else "", line) for i, line in enumerate(lines)]
