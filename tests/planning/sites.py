"""Sites that are no machine."""

from __future__ import annotations

from typing import Any

from haag_vq.planning import Site

GIB = 1 << 30


def site(gib: float, n_workers: int = 1, cores: int = 2, **more: Any) -> Site:
    """Workers with so much memory each."""
    return Site("there", n_workers, cores, int(gib * GIB), "the test", **more)
