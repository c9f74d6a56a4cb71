"""Causes of a job's end, from Slurm's words as it wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest

from haag_vq.cluster.ends import cause_of_end, log_end
from haag_vq.cluster.squeue import JobState

# As Slurm 22.05's slurmstepd wrote them.
LOOKED = "slurmstepd-node1: error: StepId=1.batch exceeded memory limit (610435072 > 209715200), being killed"  # noqa: E501
KERNEL = "slurmstepd: error: Detected 1 oom_kill event in StepId=8.batch. Some of the step tasks have been OOM Killed."  # noqa: E501


@pytest.mark.parametrize(
    ("state", "log", "kind", "measured", "limit"),
    [
        ("FAILED", f"{LOOKED}\nslurmstepd-node1: error: Exceeded job memory limit", "memory", 610435072, 209715200),  # noqa: E501
        ("FAILED", KERNEL, "memory", 5, 9),
        ("OUT_OF_MEMORY", "", "memory", 5, 9),
        ("FAILED", "Traceback …", "unknown", 5, 0),
        ("no longer in the queue", "", "unknown", 5, 0),
        ("CANCELLED", "", "ended", 5, 0),
        ("PREEMPTED", "", "ended", 5, 0),
        ("TIMEOUT", "", "ended", 5, 0),
        ("NODE_FAIL", "", "ended", 5, 0),
        ("COMPLETED", "", "ended", 5, 0),
    ],
)  # fmt: skip
def test_the_cause(state: str, log: str, kind: str, measured: int, limit: int) -> None:
    found = cause_of_end("17", JobState(state, "exit code 0:9"), log, 5, 9)
    assert (found.kind, found.measured_bytes, found.limit_bytes) == (kind, measured, limit)
    assert "17" in found.told


def test_the_end_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "haag-vq-3.err").write_text("\n".join(str(i) for i in range(99)))
    path, lines = log_end(str(tmp_path), "3", wait=False)
    assert path == tmp_path / "haag-vq-3.err"
    assert (len(lines), lines[-1]) == (15, "98")
    assert log_end(str(tmp_path), "33", wait=False) == (None, [])
