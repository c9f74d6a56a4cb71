"""`haag-vq cluster`: which Slurm profiles there are, what their jobs ask for, and one tried."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from haag_vq.cluster.profiles import MODES, read_settings, shipped_names
from haag_vq.cluster.request import Caps, JobRequest, format_walltime, job_request
from haag_vq.cluster.slurm import job_script
from haag_vq.commands.workers import add_settings
from haag_vq.errors import UsageError
from haag_vq.job_check import check_profile
from haag_vq.memory import format_bytes
from haag_vq.report import Rows

NAME = "cluster"
HELP = "list Slurm profiles, show what one asks for, or try it with one job"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to do, and to which profile."""
    parser.add_argument("action", choices=("list", "show", "check"))
    parser.add_argument("profile", nargs="?", help="a name of `haag-vq cluster list`, or a path")
    add_settings(parser)
    parser.add_argument(
        "--wait",
        type=float,
        default=600,
        metavar="SECONDS",
        help="check: how long the job may wait in the queue (default: 600)",
    )


def run(args: argparse.Namespace) -> tuple[Any, Rows]:
    """List, show or check."""
    if args.action == "list":
        found = {name: read_settings(name, {}).get("description", "") for name in shipped_names()}
        return found, list(found.items())
    if args.profile is None or args.profile in MODES:
        raise UsageError(
            f"cluster {args.action} needs a Slurm profile: a name of `haag-vq cluster list` "
            "or the path of one."
        )
    if args.action == "show":
        return _show(job_request(args.profile, dict(args.settings)))
    return _check(args)


def _show(request: JobRequest) -> tuple[Any, Rows]:
    script = job_script(request)
    facts = {
        "profile": request.profile,
        "cores": request.job_cores,
        "memory_bytes": request.memory_bytes,
        "job_memory_bytes": request.job_memory_bytes,
        "walltime_seconds": request.walltime_seconds,
        "lifetime_seconds": request.lifetime_seconds,
        "stagger_seconds": request.stagger_seconds,
        "cpu_hours": request.cpu_hours,
        "caps": asdict(request.caps),
        "job_script": script,
    }
    table = [
        ("each job", f"1 node, {request.job_cores} cores, {_walltime(request)}"),
        (
            "memory",
            f"{format_bytes(request.job_memory_bytes)} asked of Slurm, of which the worker may use "
            f"{format_bytes(request.memory_bytes)}",
        ),
        (
            "leaves after",
            f"{format_walltime(request.lifetime_seconds)}, give or take "
            f"{format_walltime(request.stagger_seconds)}",
        ),
        ("CPU-hours", f"{request.cpu_hours:.0f} at most"),
        ("caps", _caps(request.caps)),
        ("job script", ""),
        *[("", line) for line in script.strip().splitlines()],
    ]
    return facts, table


def _walltime(request: JobRequest) -> str:
    return f"for {format_walltime(request.walltime_seconds)}"


def _caps(caps: Caps) -> str:
    named = [
        (caps.jobs, f"{caps.jobs} jobs"),
        (caps.cores, f"{caps.cores} cores a job"),
        (caps.memory_bytes, f"{format_bytes(caps.memory_bytes or 0)} a job"),
        (caps.walltime_seconds, format_walltime(caps.walltime_seconds or 0)),
        (caps.cpu_hours, f"{caps.cpu_hours or 0:g} CPU-hours a job"),
    ]
    return ", ".join(text for value, text in named if value is not None) or "none known"


def _check(args: argparse.Namespace) -> tuple[Any, Rows]:
    facts = check_profile(args.profile, args.wait, **dict(args.settings))
    data = "the profile names none"
    if facts.data_root:
        seen = f"{facts.data_entries:,} entries" if facts.data_entries >= 0 else "NOT seen there"
        data = f"{facts.data_root}, {seen}"
    table = [
        ("node", facts.node),
        ("up after", f"{facts.seconds:.1f} s"),
        ("address", f"{facts.address} ({facts.interface or 'interface not known'})"),
        ("cores", f"{facts.n_cores}, {facts.cpu}"),
        ("memory", f"{format_bytes(facts.memory_bytes)} may be used ({facts.memory_origin})"),
        ("scratch", f"{facts.scratch}, {format_bytes(facts.scratch_free_bytes)} free"),
        ("search", f"{facts.gflops:.0f} GFLOP/s" if facts.gflops else "not measured"),
        ("data root", data),
    ]
    return asdict(facts), table
