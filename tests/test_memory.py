"""Sizes as text, projections, refusals, and what limits this process."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haag_vq import memory
from haag_vq.errors import InsufficientMemoryError, UsageError
from haag_vq.memory import (
    PROCESS_BYTES,
    Allowance,
    Projection,
    check_fits,
    format_bytes,
    machine_memory,
    n_cores,
    needed_limit,
    oom_kills,
    parse_bytes,
    peak_rss_bytes,
    process_allowance,
    rss_bytes,
    worker_allowance,
)

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("128MiB", 128 * MIB),
        ("128 MiB", 128 * MIB),
        (" 128mib ", 128 * MIB),
        ("2GB", 2 * 10**9),
        ("4G", 4 * GIB),
        ("4g", 4 * GIB),
        ("1.5GiB", 3 * GIB // 2),
        ("1e3", 1000),
        ("3kB", 3000),
        ("3K", 3072),
        ("2T", 2 << 40),
        ("1TB", 10**12),
        ("7", 7),
        ("7b", 7),
        (4096, 4096),
        ("1", 1),
    ],
)
def test_parses_sizes(text: str | int, n: int) -> None:
    assert parse_bytes(text) == n


@pytest.mark.parametrize(
    "text",
    ["", "  ", "MiB", "12 XB", "1 2", "-1", "-3GB", "0", "0.2", 0, -1, "nan", "inf", "1e300", 2**60]
    + ["0x10", "5 MiB 3", "1,000", "²"],
)
def test_refuses_what_is_no_size(text: str | int) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1024, "1 KiB"),
        (128 * MIB, "128 MiB"),
        (1.5 * GIB, "1.5 GiB"),
        (GIB - 1, "1 GiB"),
        (999 * MIB, "999 MiB"),
        (465 * 10**9, "433 GiB"),
        (3 << 40, "3 TiB"),
        (-2 * MIB, "-2 MiB"),
    ],
)
def test_formats_sizes(n: float, text: str) -> None:
    assert format_bytes(n) == text


@given(st.integers(1, 2**49))
def test_a_formatted_size_parses_to_within_three_digits(n: int) -> None:
    # Half a unit of the third digit, and the fraction of a byte that is cut off.
    assert abs(parse_bytes(format_bytes(n)) - n) <= 5e-3 * n + 1


def test_a_projection_counts_task_parts_once_a_thread() -> None:
    parts = {"buffer_bytes": 100, "scratch_bytes": 20, "search_bytes": 3, "results_bytes": 4000}
    assert Projection(**parts).total_bytes == 123 + 4000 + PROCESS_BYTES
    assert Projection(**parts, process_bytes=0, n_threads=5).total_bytes == 5 * 123 + 4000
    assert Projection(7).total_bytes == 7 + PROCESS_BYTES


def test_a_projection_names_its_parts() -> None:
    text = str(Projection(100 * MIB, 20 * MIB, 30 * MIB, 5 * MIB, 200 * MIB, n_threads=2))
    assert text == (
        "505 MiB (2 × block buffer 100 MiB + 2 × decoding 20 MiB + 2 × search workspace 30 MiB "
        "+ results 5 MiB + process 200 MiB)"
    )
    assert str(Projection(MIB, process_bytes=MIB)) == "2 MiB (block buffer 1 MiB + process 1 MiB)"


def test_a_refusal_has_the_task_the_need_the_allowance_and_the_remedy() -> None:
    projection = Projection(900 * MIB, process_bytes=100 * MIB)
    allowance = Allowance(750 * MIB, "75% of 1000 MiB, Slurm's grant to this job")
    with pytest.raises(InsufficientMemoryError) as caught:
        check_fits("searching block 7", projection, allowance, "Ask for --mem=2G.")
    text = str(caught.value)
    for part in (
        "searching block 7 needs 0.977 GiB",
        "block buffer 900 MiB",
        "may use 750 MiB",
        "Slurm's grant",
        "Ask for --mem=2G.",
    ):
        assert part in text
    assert isinstance(caught.value, MemoryError)


def test_what_fits_to_the_byte_is_let_through() -> None:
    projection = Projection(1000, process_bytes=0)
    check_fits("a task", projection, Allowance(1000, ""), "")
    with pytest.raises(InsufficientMemoryError):
        check_fits("a task", projection, Allowance(999, ""), "")


@given(st.integers(1, 2**50))
def test_the_limit_that_is_asked_for_suffices_and_is_not_much_more(n: int) -> None:
    projection = Projection(n, process_bytes=0)
    limit = needed_limit(projection)
    assert worker_allowance(limit, "").bytes >= n
    assert worker_allowance(limit - 3, "").bytes < n


# --- what limits this process ----------------------------------------------------------------


class Machine:
    """A made-up root directory with /proc and /sys, physical memory, and no Slurm."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._monkeypatch = monkeypatch
        # The paths are the kernel's: the module is given a Path that starts at `root`.
        monkeypatch.setattr(memory, "Path", lambda path: root / str(path).lstrip("/"))
        for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"):
            monkeypatch.delenv(name, raising=False)
        self.physical(64 * GIB)

    def physical(self, n_bytes: int) -> None:
        values = {"SC_PHYS_PAGES": n_bytes // 4096, "SC_PAGE_SIZE": 4096}
        self._monkeypatch.setattr(os, "sysconf", values.__getitem__)

    def file(self, path: str, text: str | int) -> None:
        target = self._root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{text}\n")

    def slurm(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(f"SLURM_{name}", value)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_physical_memory_limits_where_nothing_else_does(machine: Machine) -> None:
    assert machine_memory() == (64 * GIB, "physical memory")


def test_a_cgroup_of_version_2_limits(machine: Machine) -> None:
    machine.file("/proc/self/cgroup", "0::/user.slice/job")
    machine.file("/sys/fs/cgroup/user.slice/job/memory.max", 8 * GIB)
    limit, origin = machine_memory()
    assert limit == 8 * GIB
    assert "user.slice/job" in origin


def test_a_smaller_parent_limits(machine: Machine) -> None:
    machine.file("/proc/self/cgroup", "0::/slurm/job_1/step_0/task_0")
    machine.file("/sys/fs/cgroup/memory.max", "max")
    machine.file("/sys/fs/cgroup/slurm/memory.max", 32 * GIB)
    machine.file("/sys/fs/cgroup/slurm/job_1/memory.max", 4 * GIB)
    machine.file("/sys/fs/cgroup/slurm/job_1/step_0/memory.max", "max")
    machine.file("/sys/fs/cgroup/slurm/job_1/step_0/task_0/memory.max", 16 * GIB)
    limit, origin = machine_memory()
    assert limit == 4 * GIB
    assert origin.endswith("slurm/job_1")


def test_a_container_sees_its_limit_at_the_root(machine: Machine) -> None:
    machine.file("/proc/self/cgroup", "0::/")
    machine.file("/sys/fs/cgroup/memory.max", 3 * GIB)
    assert machine_memory()[0] == 3 * GIB


def test_a_cgroup_without_a_limit_does_not_limit(machine: Machine) -> None:
    machine.file("/proc/self/cgroup", "0::/a/b")
    machine.file("/sys/fs/cgroup/a/b/memory.max", "max")
    assert machine_memory() == (64 * GIB, "physical memory")


V1 = "12:cpu,cpuacct:/job\n7:memory:/slurm/uid_1/job_2\n1:name=systemd:/x\n0::/unified"


def test_a_cgroup_of_version_1_limits(machine: Machine) -> None:
    machine.file("/proc/self/cgroup", V1)
    machine.file("/sys/fs/cgroup/memory/memory.limit_in_bytes", 2**63 - 4096)
    machine.file("/sys/fs/cgroup/memory/slurm/uid_1/memory.limit_in_bytes", 20 * GIB)
    machine.file("/sys/fs/cgroup/memory/slurm/uid_1/job_2/memory.limit_in_bytes", 24 * GIB)
    # Of a controller that is not memory's.
    machine.file("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", GIB)
    limit, origin = machine_memory()
    assert limit == 20 * GIB
    assert "slurm/uid_1" in origin


def test_no_limit_of_version_1_is_none(machine: Machine) -> None:
    machine.file("/proc/self/cgroup", V1)
    machine.file("/sys/fs/cgroup/memory/slurm/uid_1/job_2/memory.limit_in_bytes", 2**63 - 4096)
    machine.physical(2**63)  # of the two, the limit would be the smaller
    assert machine_memory()[1] == "physical memory"


def test_a_version_1_container_s_limit_is_found_at_its_root(machine: Machine) -> None:
    # /proc names the host's path, which is mounted as the root here.
    machine.file("/proc/self/cgroup", "4:memory:/docker/0123abc")
    machine.file("/sys/fs/cgroup/memory/memory.limit_in_bytes", 5 * GIB)
    assert machine_memory()[0] == 5 * GIB


def test_slurm_s_grant_limits_by_node_or_by_cpu(machine: Machine) -> None:
    machine.slurm(MEM_PER_CPU="2048", CPUS_ON_NODE="6")
    assert machine_memory() == (12 * GIB, "Slurm's grant to this job")
    machine.slurm(MEM_PER_NODE="5120")
    assert machine_memory() == (5 * GIB, "Slurm's grant to this job")


def test_the_smallest_of_all_limits_counts(machine: Machine) -> None:
    machine.file("/proc/self/cgroup", "0::/job")
    machine.file("/sys/fs/cgroup/job/memory.max", 6 * GIB)
    machine.slurm(MEM_PER_NODE="8192")
    assert machine_memory()[0] == 6 * GIB
    machine.slurm(MEM_PER_NODE="4096")
    assert machine_memory() == (4 * GIB, "Slurm's grant to this job")
    machine.physical(2 * GIB)
    assert machine_memory() == (2 * GIB, "physical memory")


@pytest.mark.parametrize(
    "variables",
    [{"MEM_PER_NODE": "0"}, {"MEM_PER_CPU": "2048"}, {"MEM_PER_NODE": "lots"}, {"MEM_PER_CPU": ""}],
)
def test_a_grant_that_says_nothing_does_not_limit(
    variables: dict[str, str], machine: Machine
) -> None:
    machine.slurm(**variables)
    assert machine_memory() == (64 * GIB, "physical memory")


def test_workers_share_the_allowance(machine: Machine) -> None:
    machine.slurm(MEM_PER_NODE="8192")
    one, four = process_allowance(), process_allowance(4)
    assert one.bytes == 6 * GIB
    assert four.bytes == 6 * GIB // 4
    assert "Slurm's grant" in one.origin
    assert "÷ 4 workers" in four.origin
    assert "75% of 2 GiB" in four.origin


def test_this_machine_has_memory_and_a_limit_of_it() -> None:
    limit, origin = machine_memory()
    assert 16 * MIB < limit <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert origin


def test_cores_are_those_of_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 9})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert n_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert n_cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert n_cores() == 1


def test_resident_memory_grows_with_what_is_touched() -> None:
    before = rss_bytes()
    assert 0 < before <= peak_rss_bytes()
    block = np.ones(64 * MIB, np.uint8)
    assert rss_bytes() - before > 48 * MIB
    assert peak_rss_bytes() >= before + 48 * MIB
    del block
    assert peak_rss_bytes() >= before + 48 * MIB


@pytest.mark.parametrize(
    ("line", "file", "text"),
    [
        ("0::/job_7/step_batch", "job_7/step_batch/memory.events", "low 0\noom 4\noom_kill 3"),
        (
            "9:memory:/slurm/job_7",
            "memory/slurm/job_7/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 3",
        ),
    ],
)
def test_the_kernels_kills_are_counted(machine: Machine, line: str, file: str, text: str) -> None:
    """As kernels write them, with cgroups v2 and v1."""
    machine.file("/proc/self/cgroup", f"4:cpu,cpuacct:/elsewhere\n{line}")
    assert oom_kills() == 0
    machine.file(f"/sys/fs/cgroup/{file}", text)
    assert oom_kills() == 3
