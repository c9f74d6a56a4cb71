"""Where a command's tasks run: workers of this machine, or Slurm jobs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from haag_vq.cluster import Connection, connect
from haag_vq.cluster.profiles import ALLOCATION
from haag_vq.commands.arguments import positive, size
from haag_vq.errors import UsageError

LOCAL = "local, processes of this machine"


def add_workers(parser: argparse.ArgumentParser, otherwise: str = "") -> None:
    """Add --cluster and what goes with it, and the options of local workers.

    Without `otherwise`, which says who works then, ``--cluster`` is ``local`` by default.
    """
    group = parser.add_argument_group("workers")
    group.add_argument(
        "--cluster",
        default=None if otherwise else "local",
        metavar="NAME",
        help="a Slurm profile (`haag-vq cluster list`), the path of one, slurm-allocation inside "
        "one, or the address or connection file of a scheduler "
        f"(default: {otherwise or LOCAL})",
    )
    group.add_argument("--jobs", type=positive, help="of Slurm: jobs (default: 1)")
    add_settings(group)
    group.add_argument("--workers", type=positive, help="processes (default: cores, at most 4)")
    group.add_argument("--memory-limit", type=size, help="of each worker, as 2GB")


def add_settings(parser: argparse._ActionsContainer) -> None:
    """Add --set."""
    parser.add_argument(
        "--set",
        dest="settings",
        type=_setting,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of Slurm: what the profile says otherwise, as walltime=2:00:00",
    )


@contextmanager
def task_of_allocation(args: argparse.Namespace) -> Iterator[None]:
    """Where all tasks of an srun run a command with the same words, run it in one.

    The others do their part here and leave the program. That one is connected before the command
    begins, so that they leave with it whatever becomes of it. Does nothing for other workers.
    """
    # A plan of such a job computes nothing.
    if getattr(args, "cluster", None) != ALLOCATION or hasattr(args, "planned"):
        yield
        return
    with connect_workers(args) as args.connection:
        yield


def connect_workers(args: argparse.Namespace) -> Connection:
    """Connect as parsed arguments say, unless that has been done.

    Raises
    ------
    UsageError
        If options of local workers are mixed with those of Slurm.
    """
    made: Connection | None = getattr(args, "connection", None)
    if made is not None:
        return made
    if args.cluster in (None, "local"):
        if args.jobs is not None or args.settings:
            raise UsageError("--jobs and --set go with --cluster; local processes are --workers.")
        return connect("local", jobs=args.workers, memory_limit=args.memory_limit)
    if args.workers is not None:
        raise UsageError("--workers is of this machine; with --cluster it is --jobs.")
    if "://" in args.cluster or args.cluster.endswith(".json"):
        if args.jobs is not None or args.settings or args.memory_limit:
            raise UsageError(
                f"{args.cluster} has its workers: --jobs, --set and --memory-limit are not for it."
            )
        return connect(args.cluster)
    return connect(
        args.cluster, jobs=args.jobs, memory_limit=args.memory_limit, **dict(args.settings)
    )


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is no setting; write KEY=VALUE")
    return name.strip().replace("-", "_"), value.strip()
