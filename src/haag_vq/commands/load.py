"""Loading a set into memory: no command of its own (it is `dataset.compute()`), but a plan."""

from __future__ import annotations

import argparse

from haag_vq.commands.arguments import add_source, open_source_of
from haag_vq.commands.planned import Planned
from haag_vq.planning import LoadJob, this_process

NAME = "load"
HELP = "read a set into one float32 array: dataset.compute()"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the set."""
    add_source(parser)


def planned(args: argparse.Namespace) -> Planned:
    """Plan the array and its readers."""
    return Planned(LoadJob(open_source_of(args).source), this_process())
