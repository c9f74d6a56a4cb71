"""`haag-vq submit`: another command in a Slurm job of its own, or a search as a job array."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from haag_vq.cluster.request import job_request
from haag_vq.cluster.submit import sbatch_command, submit
from haag_vq.commands.arguments import positive
from haag_vq.commands.workers import add_settings
from haag_vq.errors import UsageError
from haag_vq.report import Rows

NAME = "submit"
HELP = "run another command in a Slurm job of its own, off the login node"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job, and the command that runs in it."""
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="whose account, queue, QOS and walltime the job has (`haag-vq cluster list`)",
    )
    add_settings(parser)
    parser.add_argument(
        "--array",
        type=positive,
        metavar="N",
        help="of ground-truth: N jobs without Dask, each searching a part of the rows into "
        "--checkpoint; `haag-vq merge` finishes",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be submitted")
    parser.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="as ground-truth SOURCE …"
    )


def run(args: argparse.Namespace) -> tuple[Any, Rows]:
    """Submit the command; the job's log is beside where this was typed."""
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if not words or words[0].startswith("-") or words[0] == NAME:
        raise UsageError(
            "say which command: haag-vq submit [OPTIONS] -- ground-truth SOURCE …, options of "
            "submit before the two dashes."
        )
    if args.settings and args.profile is None:
        raise UsageError("--set goes with --profile, which it says otherwise.")
    if args.array is not None:
        _check_array(words)
    request = None if args.profile is None else job_request(args.profile, dict(args.settings))
    command = sbatch_command(request, words, args.array)
    facts: dict[str, Any] = {"command": command}
    if args.dry_run:
        return facts, [("would submit", shlex.join(command))]
    job = submit(command)
    log = f"haag-vq-{job}.log" if args.array is None else f"haag-vq-{job}-N.log, of each part N"
    facts |= {"job": job, "log": log}
    return facts, [("job", job), ("log", log), ("look", f"squeue --job {job}")]


def _check_array(words: list[str]) -> None:
    """Raise UsageError for a command whose parts could not be merged."""
    given = {word.partition("=")[0] for word in words}
    if words[0] != "ground-truth" or "--checkpoint" not in given:
        raise UsageError("--array is for ground-truth … --checkpoint DIR, which all parts share.")
    wrong = sorted(given & {"--rows", "--part", "--out", "--cluster", "--workers"})
    if wrong:
        raise UsageError(
            f"{wrong[0]} does not go with --array: each job searches its part with all its cores, "
            "and `haag-vq merge DIR --out FILE` writes the answer."
        )
