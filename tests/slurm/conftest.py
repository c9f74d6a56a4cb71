"""A real Slurm of three nodes on this machine, for the tests that are about one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "cluster" / "one-machine" / "slurm"
NODES = ("node1", "node2", "node3")

PROFILE = """\
inherit: generic-slurm
cores: 1
memory: 700MB
walltime: "30"
interface: lo
shared-temp-directory: {home}/shared
log-directory: {home}/logs
local-directory: {home}/local
"""


@dataclass(frozen=True, slots=True)
class Slurm:
    """The running Slurm."""

    profile: str
    """Path of a profile for it."""
    home: Path
    """Where its jobs write."""
    daemons: Path
    """Where it runs."""

    def run(self, *command: str) -> str:
        """Run one of Slurm's programs; return what it prints."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def jobs(self) -> dict[str, tuple[str, str]]:
        """State and node of each job in the queue, by number; not of those that preempt."""
        lines = self.run("squeue", "-h", "-p", "all", "-o", "%i|%T|%N").splitlines()
        return {number: (state, node) for number, state, node in (x.split("|") for x in lines)}


def free_ports(n: int) -> int:
    """Find the first of `n` ports that nobody uses."""
    for first in range(17_000, 60_000, 100):
        try:
            for port in range(first, first + n):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long something took: docs/cluster.md has it from ``pytest -rP``."""
    began = time.monotonic()
    try:
        yield
    finally:
        print(f"TOOK {what}: {time.monotonic() - began:.1f} s")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Start Slurm; skip where it is not installed, unless HAAG_VQ_REQUIRE_SLURM says it must be."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [
        name
        for name in ("slurmctld", "slurmd", "sbatch", "munged")
        if not shutil.which(name, path=path)
    ]
    if missing:
        told = f"Slurm's tests did not run: {', '.join(missing)} not found"
        if os.environ.get("HAAG_VQ_REQUIRE_SLURM"):
            pytest.fail(told)
        pytest.skip(told)
    daemons, home = (tmp_path_factory.mktemp(name) for name in ("daemons", "slurm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAAG_VQ_SLURM_PORT", str(free_ports(4)))
        try:
            subprocess.run([LAUNCHER, "start", daemons], check=True, timeout=60)
            patch.setenv("SLURM_CONF", str(daemons / "slurm.conf"))
            profile = home / "one-machine.yaml"
            profile.write_text(PROFILE.format(home=home))
            # Workers import what tests hand to them.
            patch.setenv("PYTHONPATH", str(LAUNCHER.parents[2]), prepend=os.pathsep)
            yield Slurm(str(profile), home, daemons)
        finally:
            subprocess.run([LAUNCHER, "stop", daemons], check=True, timeout=60)
