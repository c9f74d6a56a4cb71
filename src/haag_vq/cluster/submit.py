"""A command of the command line in Slurm jobs of its own, by the scripts that are shipped."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from haag_vq.cluster.profiles import SHIPPED
from haag_vq.cluster.request import JobRequest, format_walltime
from haag_vq.cluster.squeue import ask_slurm, check_slurm

SCRIPT = SHIPPED / "submit.sbatch"
# Of a client and a scheduler, which the script itself names too; less where the site's jobs have.
CLIENT_CORES = 2
CLIENT_BYTES = 8 << 30

# Of one part of the rows, searched by the job itself.
ARRAY_SCRIPT = SHIPPED / "array.sbatch"


def sbatch_command(
    request: JobRequest | None, words: Sequence[str], n_parts: int | None = None
) -> list[str]:
    """Write the sbatch command of a job that runs a command of ours.

    Parameters
    ----------
    request : JobRequest, optional
        Whose account, queue, QOS and walltime the job has, and, of an array, whose cores and
        memory; no job has more of these. Without it those that the script itself names.
    words : sequence of str
        The command: ``ground-truth …``.
    n_parts : int, optional
        An array of so many jobs, each of which searches a part.
    """
    # In the job as here: the same interpreter, so the same environment.
    options = ["--parsable", f"--export=ALL,HAAG_VQ_PYTHON={sys.executable}"]
    if request is not None:
        settings = request.settings
        named = {"account": "account", "queue": "partition", "qos": "qos"}
        options += [
            f"--{option}={settings[name]}" for name, option in named.items() if settings.get(name)
        ]
        options.append(f"--time={format_walltime(request.walltime_seconds)}")
    if n_parts is None:
        if request is not None:
            options += _asked(
                min(CLIENT_CORES, request.job_cores),
                min(CLIENT_BYTES, request.job_memory_bytes),
            )
        return ["sbatch", *options, str(SCRIPT), *words]
    options.append(f"--array=1-{n_parts}")
    if request is not None:
        options += _asked(request.job_cores, request.job_memory_bytes)
        options += [
            f"--{name}={request.settings[name]}"
            for name in ("constraint", "tmp")
            if request.settings.get(name)
        ]
    return ["sbatch", *options, str(ARRAY_SCRIPT), *words]


def _asked(n_cores: int, n_bytes: int) -> list[str]:
    return [f"--cpus-per-task={n_cores}", f"--mem={-(-n_bytes >> 20)}M"]


def submit(command: Sequence[str]) -> str:
    """Submit; returns the job's number.

    Raises
    ------
    ClusterError
        If there is no Slurm here, or it refuses; with what it says.
    """
    check_slurm()
    return ask_slurm(*command).strip().partition(";")[0]
