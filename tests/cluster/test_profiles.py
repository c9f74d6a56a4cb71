"""Profiles: read, inherited, completed, and refused with what would be right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from haag_vq.cluster.profiles import read_settings, shipped_names
from haag_vq.cluster.request import check_jobs, format_walltime, job_request, parse_walltime
from haag_vq.cluster.slurm import job_script
from haag_vq.errors import SourceNotFoundError, UsageError

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str, name: str = "site.yaml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return written


@pytest.fixture(autouse=True)
def without_a_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The user who runs these tests may have a jobqueue.yaml."""
    monkeypatch.setattr("dask.config.paths", [str(tmp_path / "dask")])


SITE = "cores: 8\nmemory: 10GiB\nwalltime: '2:00:00'\n"


SHIPPED = ["generic-slurm", "local", "pace-ice", "pace-phoenix", "slurm-allocation"]


def test_those_that_come_along_are_listed_and_whole() -> None:
    assert shipped_names() == SHIPPED
    assert all(read_settings(name, {})["description"] for name in shipped_names())


def test_a_file_completes_what_it_inherits(write: Write) -> None:
    write("inherit: pace-ice\nqos: coc-ice\ncores: 12\n", "ice.yaml")
    found = read_settings(write("inherit: ice.yaml\ncores: 6\ndescription: mine\n"), {})
    assert (found["cores"], found["qos"], found["constraint"]) == ("6", "coc-ice", "localNVMe")
    assert found["description"] == "mine"
    assert "inherit" not in found
    # Arguments are stronger; None is none.
    given = read_settings("pace-ice", {"job_mem": "9G", "cores": 3, "memory": None})
    assert (given["job-mem"], given["cores"], given["memory"]) == ("9G", 3, "150GiB")


def test_the_users_jobqueue_yaml_completes_what_no_profile_says(
    write: Write, tmp_path: Path
) -> None:
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask" / "jobqueue.yaml").write_text(
        "jobqueue:\n  slurm:\n    account: me\n    cores: 99\n    death-timeout: 77\n"
    )
    found = read_settings(write(SITE), {})
    assert (found["account"], found["cores"], found["death-timeout"]) == ("me", "8", 77)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("coers: 3\n", "has no 'coers'; did you mean 'cores'"),
        ("- 1\n- 2\n", "must hold 'key: value' lines, not a list"),
        ("cores: [1\n", "is no readable YAML"),
        ("inherit: site.yaml\n", "inherit in a circle"),
        (SITE + "processes: 2\n", "one worker process"),
        (SITE + "cores: many\n", "cores=many must be a whole number"),
        (SITE + "memory: lots\n", "'lots' is not a size"),
        (SITE + "walltime: soon\n", "walltime 'soon' is no time"),
        (SITE + "lifetime: 3h\n", "does not fit a walltime of 02:00:00"),
        (SITE + "lifetime-stagger: long\n", "lifetime-stagger='long' is no time"),
        (SITE + "caps: {hours: 3}\n", "caps may have"),
        (SITE + "caps: {jobs: few}\n", "caps: "),
        (SITE + "caps: {cores: 4}\n", "a job of 8 cores passes the 4"),
        (SITE + "caps: {memory: 10GiB}\n", "passes the 10 GiB"),
        (SITE + "caps: {walltime: '1:00:00'}\n", "02:00:00 passes the 01:00:00"),
        (SITE + "caps: {cpu-hours: 12}\n", r"8 cores × 2.00 h = 16 CPU-hours .*'01:30:00' or 6 c"),
        (SITE + "requires: account\n", "account is not set"),
        ("walltime: '1'\n", "cores is not set"),
    ],
)
def test_what_is_wrong_is_told(text: str, said: str, write: Write) -> None:
    with pytest.raises(UsageError, match=said):
        job_request(write(text), {})


def test_what_is_not_there_is_told(write: Write) -> None:
    with pytest.raises(SourceNotFoundError, match="Did you mean 'pace-ice'"):
        read_settings("pace-icy", {})
    with pytest.raises(SourceNotFoundError, match="no cluster profile 'gone'"):
        read_settings(write("inherit: gone\n"), {})


def test_a_request_leaves_room_for_the_nanny_and_for_the_end(write: Write) -> None:
    found = job_request(write(SITE), {})
    assert found.job_memory_bytes == int(10 * 2**30 * 1.1)
    assert found.stagger_seconds == 600
    assert found.lifetime_seconds == 7200 - 600 - 300
    assert job_request(write(SITE), {"memory": "1GiB"}).job_memory_bytes == (1 << 30) + (512 << 20)
    short = job_request(write(SITE), {"walltime": "2"})
    assert short.lifetime_seconds + short.stagger_seconds < 120
    assert job_request(write(SITE), {"job-mem": "64G"}).job_memory_bytes == 64 << 30


def test_more_jobs_than_allowed_are_refused(write: Write) -> None:
    request = job_request(write(SITE + "caps: {jobs: 3}\n"), {})
    check_jobs(request, 3)
    with pytest.raises(UsageError, match="jobs=4, but .* allows 3"):
        check_jobs(request, 4)
    with pytest.raises(UsageError, match="at least 1"):
        check_jobs(request, 0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("18:00:00", 64_800),
        ("2-00", 172_800),
        ("1-2:03", 93_780),
        ("1-02:03:04", 93_784),
    ],
)
def test_times_as_slurm_writes_them(text: str, seconds: int) -> None:
    assert parse_walltime(text) == seconds
    assert parse_walltime(format_walltime(seconds)) == seconds


def test_jobs_for_pace_keep_to_its_rules() -> None:
    script = job_script(job_request("pace-ice", {}))
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    asked: Any = {tuple(line.split(maxsplit=2)[1:2]) or line for line in lines}
    assert not any("-p " in line or "--partition" in line for line in lines)
    assert "#SBATCH -t 18:00:00" in lines
    assert "#SBATCH --nodes=1" in lines
    assert "#SBATCH --no-requeue" in lines
    assert "#SBATCH --constraint=localNVMe" in lines
    assert "--local-directory $TMPDIR" in script
    assert len(asked) == len(lines)
    assert job_request("pace-ice", {}).cpu_hours <= 512
    assert "--dashboard-address 127.0.0.1:0" in script
    assert "REQUIRE_ENCRYPTION=True" in script
    assert "umask 077" in script
    assert "export HAAG_VQ_HUB_REQUESTS=8" in script


def test_a_job_script_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "hf_secret" not in job_script(job_request("pace-ice", {}))
