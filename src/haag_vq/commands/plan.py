"""`haag-vq plan JOB …`: what a job takes, told from headers alone.

JOB is a command with the very words that would run it. A command can be planned once its module
has `planned(args)`, which makes a `Planned` of parsed arguments, and stands in `JOBS`.
"""

from __future__ import annotations

import argparse
from typing import Any, Protocol

from haag_vq.cluster.profiles import is_profile
from haag_vq.commands import export, fetch, ground_truth, load, quantize
from haag_vq.commands.arguments import positive
from haag_vq.commands.planned import Planned
from haag_vq.errors import UsageError
from haag_vq.planning import plan
from haag_vq.planning.tell import plan_facts, plan_table
from haag_vq.plots import plot_memory_parts
from haag_vq.report import Rows

NAME = "plan"
HELP = "say what a job will take: memory, disk, time, its Slurm request; reads headers alone"


class Plannable(Protocol):
    """What a module of `haag_vq.commands` offers so that its jobs can be planned."""

    NAME: str
    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Add what the command takes: a plan takes the same."""

    def planned(self, args: argparse.Namespace, /) -> Planned:
        """Make the job of parsed arguments; opens headers, reads no vectors."""


JOBS: tuple[Plannable, ...] = (load, ground_truth, export, quantize, fetch)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the jobs, each with its own arguments and those of a plan."""
    jobs = parser.add_subparsers(required=True, metavar="JOB")
    for command in JOBS:
        one = jobs.add_parser(command.NAME, help=command.HELP, description=command.HELP)
        command.add_arguments(one)
        group = one.add_argument_group("the plan")
        group.add_argument(
            "--profile",
            metavar="NAME",
            help="fit it to a Slurm profile too (`haag-vq cluster list`)",
        )
        group.add_argument("--profile-jobs", type=positive, metavar="N", help="so many Slurm jobs")
        group.add_argument("--picture", metavar="PNG", help="draw the parts of the memory")
        for name in ("--json", "--quiet", "--debug"):
            # Also behind the job's own words; what stands before them stays.
            group.add_argument(
                name, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )
        one.set_defaults(planned=command)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], Rows]:
    """Plan the job; it is not run."""
    # Planning stages nothing: what would be staged is opened where it is.
    staged = getattr(args, "streaming", True) is False
    args.streaming = True
    found: Planned = args.planned.planned(args)
    profile, jobs = _profile(args)
    made = plan(
        found.job,
        found.site,
        profile=profile,
        jobs=jobs,
        directory=None if staged else found.directory,
        staged=staged,
        settings=found.settings if profile else None,
    )
    facts, table = plan_facts(made), plan_table(made)
    if args.picture is not None:
        plot_memory_parts(made.projection, made.allowance, args.picture)
        facts["picture"] = args.picture
        table.append(("picture", args.picture))
    return facts, table


def _profile(args: argparse.Namespace) -> tuple[str | None, int | None]:
    """Return the profile to plan for: --profile, or the job's own --cluster."""
    cluster = getattr(args, "cluster", "local")
    own = cluster if cluster is not None and is_profile(cluster) else None
    if args.profile is not None and own not in (None, args.profile):
        raise UsageError(f"--profile {args.profile} and --cluster {own}: name one of them.")
    jobs = args.profile_jobs or getattr(args, "jobs", None)
    name = args.profile or own
    if name is None and jobs is not None:
        raise UsageError("--jobs and --profile-jobs are of Slurm: name its --profile.")
    if name is not None and not is_profile(name):
        raise UsageError(f"{name} is no Slurm profile: `haag-vq cluster list` names them.")
    return name, jobs
