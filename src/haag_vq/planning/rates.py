"""How fast a core computes and a node reads: measured here, a profile's own, or assumed."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from haag_vq.atomic import written_whole
from haag_vq.errors import UsageError, WriteError

# Of the file; another format is not read.
FORMAT = 2

# Real runs lie within so much of their estimate, either way. Of measured rates: 1.5 held in
# `benchmarks/plan.py`; the others are arbitrary, and wide on purpose.
MEASURED_SPREAD, PROFILE_SPREAD, ASSUMED_SPREAD = 1.5, 2.0, 3.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Units a second. The defaults are assumed: a server core of 2020, a plain disk."""

    multiply_flops: float = 4e10
    """Floating-point operations of the products, a core."""
    scan_pairs: float = 5e8
    """(row, query) pairs looked at beside their product, a core."""
    row_values: float = 4e8
    """Elements of rows made ready for the products (packed, norms), a core."""
    scored_values: float = 5e8
    """Elements of pairs scored in float64, a core."""
    encoded_values: float = 2e7
    """Elements whose nearest centroid is looked for, a core."""
    read_bytes: float = 5e8
    """From disk, a node."""
    write_bytes: float = 2e8
    network_bytes: float = 5e7
    """From the Hub, all workers together."""
    start_seconds: float = 6.0
    """Of a command until its first task, and from its last to its end."""
    convert: Mapping[str, float] = field(
        default_factory=lambda: {
            "float16": 4e8,
            "float32": 1e9,
            "float64": 6e8,
            "int8": 6e8,
            "uint8": 6e8,
            "parquet-float32": 1e8,
            "parquet-float64": 4e7,
            "synthetic": 4e7,
        }
    )
    """Elements read from the page cache and converted to float32, a core."""
    cpu: str = ""
    """Measured on; '' for none."""
    spread: float = ASSUMED_SPREAD
    """A run takes the estimate times or divided by so much."""
    origin: str = "assumed rates: haag-vq doctor --calibrate measures them"
    """In words, for the plan."""

    def converted(self, kind: str) -> float:
        """Elements a second of a way of storing; the slowest known where it has no rate."""
        return self.convert.get(kind) or min(self.convert.values())


_NUMBERS = tuple(f.name for f in fields(Rates) if f.type == "float" and f.name != "spread")


def rates_path() -> Path:
    """Path of the user's own file of measured rates."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "haag_vq" / "rates.json"


def save_rates(rates: Rates) -> Path:
    """Keep measured rates for this kind of CPU; returns the file, which is private.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    path = rates_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot make {path.parent}: {error.strerror}.") from error
    kept = _stored(path)
    kept[rates.cpu] = {name: getattr(rates, name) for name in _NUMBERS} | {
        "convert": dict(rates.convert)
    }
    text = json.dumps({"format": FORMAT, "cpus": kept}, indent=1) + "\n"
    with written_whole(path, private=True) as part:
        part.write_text(text, encoding="utf-8")
    return path


def known_rates(cpu: str, profile: Mapping[str, Any] | None = None) -> Rates:
    """Return the rates to plan with, which say where they come from.

    Parameters
    ----------
    cpu : str
        Model of this machine's, whose measurements are looked for.
    profile : mapping, optional
        Settings of a Slurm profile: its ``rates`` are stronger, and where it has none nothing that
        was measured here is taken for its nodes.

    Raises
    ------
    UsageError
        If a profile's rates have a name or a value that is none.
    """
    if profile is not None:
        given = profile.get("rates")
        return Rates() if not given else _of_profile(given)
    measured = _stored(rates_path()).get(cpu)
    if measured is None:
        return Rates()
    return Rates(**measured, cpu=cpu, spread=MEASURED_SPREAD, origin=f"rates measured here ({cpu})")


def _of_profile(given: Any) -> Rates:
    if not isinstance(given, Mapping):
        raise UsageError(f"a profile's rates must be 'name: number' lines, not {given!r}.")
    numbers: dict[str, Any] = {}
    for name, text in given.items():
        key = str(name).replace("-", "_")
        if key not in _NUMBERS:
            known = ", ".join(n.replace("_", "-") for n in _NUMBERS)
            raise UsageError(f"a profile's rates have no {name!r}; there are {known}.")
        numbers[key] = _positive(str(name), text)
    return Rates(**numbers, spread=PROFILE_SPREAD, origin="the profile's own rates")


def _positive(name: str, text: Any) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value < 1e18:
        raise UsageError(f"rates: {name}={text!r} must be a positive number of units a second.")
    return value


def _stored(path: Path) -> dict[str, dict[str, Any]]:
    """Read the file; what is not as we write it is as if it were not there, and told."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            return {}
        return {str(cpu): _checked(rates) for cpu, rates in found["cpus"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        warnings.warn(
            f"{path} is not readable ({error}): planning goes by assumed rates. Measure again "
            "with haag-vq doctor --calibrate.",
            stacklevel=2,
        )
        return {}


def _checked(rates: Mapping[str, Any]) -> dict[str, Any]:
    convert = {str(kind): _positive(kind, n) for kind, n in rates["convert"].items()}
    return {**{name: _positive(name, rates[name]) for name in _NUMBERS}, "convert": convert}
