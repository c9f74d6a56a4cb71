"""A plan as facts for machines, and as a table with a bar of the memory's parts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from haag_vq.memory import Allowance, Projection, format_bytes
from haag_vq.planning.duration import Duration
from haag_vq.planning.plans import Plan
from haag_vq.planning.slurm import SlurmPlan, caps_arithmetic

Rows = list[tuple[str, str]]

# Characters of a bar.
WIDTH = 48

LETTERS = {"process": "p", "results": "r", "search": "s", "decoding": "d", "buffer": "#"}


def memory_bar(projection: Projection, allowance: Allowance) -> str:
    """Draw the parts as letters, in proportion, and the allowance as a bar across."""
    total = projection.total_bytes
    # Against very much memory the parts would be a letter each.
    most = max(total, min(allowance.bytes, 3 * total))
    drawn, so_far = "", 0
    for name, size in projection.parts.items():
        so_far += size
        drawn += LETTERS[name] * (round(WIDTH * so_far / most) - len(drawn))
    line = drawn.ljust(WIDTH, ".")
    if total > allowance.bytes:
        at = round(WIDTH * allowance.bytes / most)
        line = f"{line[:at]}|{line[at:]}"
    return f"[{line}]"


def plan_facts(plan: Plan) -> dict[str, Any]:
    """List everything as JSON can hold it."""
    facts: dict[str, Any] = {
        name: getattr(plan, name)
        for name in (
            *("job", "n_rows", "dim", "dtype", "stored_bytes", "float32_bytes", "n_partitions"),
            *("max_rows", "n_workers", "flop", "fits", "verdict", "refusal"),
        )
    }
    return facts | {
        "projected_bytes": plan.projection.total_bytes,
        "memory_parts": plan.projection.parts,
        "allowance_bytes": plan.allowance.bytes,
        "disk": asdict(plan.disk),
        "time": _time_facts(plan.duration),
        "nearest": [asdict(near) for near in plan.nearest],
        "slurm": None if plan.slurm is None else _slurm_facts(plan.slurm),
    }


def plan_table(plan: Plan) -> Rows:
    """Lay it out for a person."""
    parts = plan.projection.parts
    named = [f"{LETTERS[name]} {name} {format_bytes(size)}" for name, size in parts.items() if size]
    disk = [("stage", plan.disk.stage_bytes), ("checkpoint", plan.disk.checkpoint_bytes)]
    disk += [("output", plan.disk.output_bytes)]
    vectors = [
        (
            "vectors",
            f"{plan.n_rows:,} × {plan.dim}, stored as {plan.dtype}: "
            f"{format_bytes(plan.stored_bytes)}, {format_bytes(plan.float32_bytes)} as float32",
        ),
    ]
    parted = [("partitions", f"{plan.n_partitions:,} of up to {plan.max_rows:,} rows")]
    rows = [
        *(vectors + parted if plan.n_rows else []),
        ("memory", f"{format_bytes(plan.projection.total_bytes)}: {', '.join(named)}"),
        ("", memory_bar(plan.projection, plan.allowance)),
        ("disk", ", ".join(f"{name} {format_bytes(n)}" for name, n in disk if n) or "nothing"),
        *([("products", f"{plan.flop:.3g} FLOP")] if plan.flop else []),
        ("time here", _time_words(plan.duration)),
        ("fits here", plan.verdict),
    ]
    return rows if plan.slurm is None else rows + _slurm_rows(plan.slurm)


def _time_facts(took: Duration) -> dict[str, Any]:
    return asdict(took) | {"bottleneck": took.bottleneck}


def _time_words(took: Duration) -> str:
    return (
        f"{_span(took.low_seconds)} to {_span(took.high_seconds)}, most of it "
        f"{took.bottleneck} ({took.origin})"
    )


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _slurm_facts(slurm: SlurmPlan) -> dict[str, Any]:
    request = slurm.request
    return {
        "profile": slurm.profile,
        "jobs": slurm.n_jobs,
        "walltimes": slurm.n_walltimes,
        "cores": request.job_cores,
        "memory_bytes": request.memory_bytes,
        "job_memory_bytes": request.job_memory_bytes,
        "walltime_seconds": request.walltime_seconds,
        "caps": asdict(request.caps),
        "sbatch": list(slurm.directives),
        "arguments": slurm.arguments,
        "advice": slurm.advice,
        "refusal": slurm.refusal,
        "projected_bytes": slurm.need.projection.total_bytes,
        "n_partitions": slurm.need.n_partitions,
        "time": _time_facts(slurm.duration),
    }


def _slurm_rows(slurm: SlurmPlan) -> Rows:
    if slurm.refusal:
        return [(slurm.profile, f"no: {slurm.refusal}")]
    jobs = "1 job" if slurm.n_jobs == 1 else f"{slurm.n_jobs} jobs at a time"
    again = (
        f", {slurm.n_walltimes} walltimes after one another ({slurm.advice})"
        if slurm.advice
        else ""
    )
    return [
        (slurm.profile, f"{jobs}{again}, {_time_words(slurm.duration)}"),
        ("caps", caps_arithmetic(slurm)),
        ("each job", slurm.directives[0]),
        *[("", line) for line in slurm.directives[1:]],
        *([("arguments", slurm.arguments)] if slurm.arguments else []),
    ]
