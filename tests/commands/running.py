"""Runs one command as `haag-vq` does, without what it prints."""

from __future__ import annotations

import argparse
import json
from typing import Any, Protocol

from haag_vq.report import Rows


class Command(Protocol):
    """A module of `haag_vq.commands`."""

    NAME: str
    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None: ...

    def run(self, args: argparse.Namespace, /) -> tuple[Any, Rows]: ...


def run(command: Command, *argv: object) -> tuple[Any, Rows]:
    """Parse and run; the facts are what a reader of the JSON gets."""
    parser = argparse.ArgumentParser(prog=command.NAME, description=command.HELP)
    command.add_arguments(parser)
    facts, rows = command.run(parser.parse_args([str(arg) for arg in argv]))
    return json.loads(json.dumps(facts)), rows
