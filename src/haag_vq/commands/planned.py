"""What a command's module makes of its arguments for `haag-vq plan`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from haag_vq.planning import Site
from haag_vq.planning.need import Job


@dataclass(frozen=True, slots=True)
class Planned:
    """A job, and where it would run."""

    job: Job
    site: Site
    """The workers here."""
    directory: str | None = None
    """Where most of what it writes goes."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of a Slurm profile, by --set."""
