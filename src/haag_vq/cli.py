"""The command `haag-vq`: parse, run one command, print.

Exit codes: 0 done, 1 the job failed (or found what it was to look for), 2 the command line is
wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from haag_vq import __version__, interrupts
from haag_vq.commands import (
    cluster,
    compare,
    datasets,
    demo,
    doctor,
    evaluate,
    export,
    fetch,
    ground_truth,
    info,
    merge,
    plan,
    quantize,
    submit,
)
from haag_vq.commands.workers import task_of_allocation
from haag_vq.errors import HaagVQError, UsageError
from haag_vq.report import Rows, print_table


class Command(Protocol):
    """What a module of `haag_vq.commands` offers."""

    NAME: str
    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Add what the command takes beside the options of all."""

    def run(self, args: argparse.Namespace, /) -> tuple[Any, Rows]:
        """Do it; returns facts that JSON can hold, and a table for a person."""


# In the order of the help.
COMMANDS: tuple[Command, ...] = (
    datasets,
    fetch,
    info,
    plan,
    ground_truth,
    merge,
    evaluate,
    compare,
    export,
    quantize,
    cluster,
    submit,
    demo,
    doctor,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = _parser().parse_args(argv)
    warnings.showwarning = _show_warning
    if not args.debug:
        # What matters comes back as an error; what Dask logs while it is closed is noise.
        for name in ("distributed", "distributed.client", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with interrupts.end_in_order():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    """Run a parsed command, and tell what came of it."""
    try:
        with task_of_allocation(args):
            facts, table = args.command.run(args)
        print(json.dumps(facts)) if args.json else print_table(table)
        sys.stdout.flush()
        exit_code = getattr(args.command, "exit_code", None)
        return int(exit_code(facts)) if exit_code else 0
    except KeyboardInterrupt:
        tell = getattr(args.command, "interrupted", None)
        left = tell(args) if tell else "no output was written."
        print(f"haag-vq: interrupted; {left}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has left, as head does; so must Python's own flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    """Print one paragraph for an error; returns the exit code."""
    if isinstance(error, HaagVQError):
        # HDF5 and Arrow put line breaks into what they say.
        print(f"haag-vq: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    text = str(error).strip().splitlines() or [""]
    print(
        f"haag-vq: unexpected {type(error).__name__}: {text[0]} (run again with --debug for the "
        "whole trace, and please report it)",
        file=sys.stderr,
    )
    return 1


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"haag-vq: note: {message}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, as every other error is told."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"haag-vq: {message}. See {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="haag-vq",
        description="Load embedding sets larger than memory, and find their exact neighbours.",
    )
    parser.add_argument("--version", action="version", version=f"haag-vq {__version__}")
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON, one line")
    common.add_argument("--quiet", action="store_true", help="no progress")
    common.add_argument("--debug", action="store_true", help="show the trace of an error")
    added = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        one = added.add_parser(
            command.NAME, help=command.HELP, description=command.HELP, parents=[common]
        )
        command.add_arguments(one)
        one.set_defaults(command=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
