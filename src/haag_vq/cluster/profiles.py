"""What is known of a site: a short YAML file, by name or by path.

A profile has dask-jobqueue's own keys (`queue`, `account`, `cores`, …) and some of ours. `inherit`
names another that it completes. What no file says comes from the user's own ``jobqueue.yaml``, as
dask-jobqueue reads it, and last from `generic-slurm`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask
import yaml

from haag_vq.errors import SourceNotFoundError, UsageError

SHIPPED = Path(__file__).with_name("profiles")
DEFAULTS = "generic-slurm"

# Tasks of an srun, which is there already.
ALLOCATION = "slurm-allocation"
# These are listed with the profiles, but submit nothing.
MODES = ("local", ALLOCATION)

# dask-jobqueue's, with its meaning; `processes` is there for its sake and must be 1.
_JOBQUEUE_KEYS = (
    "cores",
    "memory",
    "processes",
    "queue",
    "account",
    "walltime",
    "interface",
    "local-directory",
    "log-directory",
    "shared-temp-directory",
    "death-timeout",
    "job-cpu",
    "job-mem",
    "job-extra-directives",
    "job-script-prologue",
    "python",
    "name",
)
_OWN_KEYS = (
    "description",
    "inherit",
    "requires",
    "lifetime",
    "lifetime-stagger",
    "qos",
    "constraint",
    "tmp",
    "data-root",
    "rates",
    "caps",
)
KEYS = _JOBQUEUE_KEYS + _OWN_KEYS
LISTS = ("job-extra-directives", "job-script-prologue")


def shipped_names() -> list[str]:
    """Names of the profiles that come with the package, and of the `MODES`."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def is_profile(where: str) -> bool:
    """Whether `where` names a profile of jobs: one that is shipped, or a YAML file."""
    names = [name for name in shipped_names() if name not in MODES]
    return where in names or where.endswith((".yaml", ".yml"))


def read_settings(where: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Read a profile and what it inherits, completed.

    Parameters
    ----------
    where : str
        A shipped name, or the path of a YAML file.
    overrides : mapping
        Stronger than any file; keys as in a file, with ``_`` for ``-`` if need be. None leaves
        the file's.

    Returns
    -------
    dict
        Values as they were written, texts mostly; keys with ``-``.

    Raises
    ------
    SourceNotFoundError
        If there is no such profile.
    UsageError
        If a file or an override has a key that is unknown, or is no mapping.
    """
    given = {name.replace("_", "-"): value for name, value in overrides.items()}
    _check_keys(given, "the arguments")
    chain = _chain(where)
    merged: dict[str, Any] = {}
    for settings in (
        _read(str(SHIPPED / f"{DEFAULTS}.yaml")),
        _users_own(),
        *reversed([settings for name, settings in chain if name != DEFAULTS]),
        {name: value for name, value in given.items() if value is not None},
    ):
        merged |= settings
    # Of one file, not of those that inherit from it.
    merged.pop("inherit", None)
    merged["description"] = chain[0][1].get("description", "")
    return merged


def _chain(where: str) -> list[tuple[str, dict[str, Any]]]:
    """Read a profile, the one that it inherits from, and so on."""
    chain: list[tuple[str, dict[str, Any]]] = []
    name: str | None = where
    beside = Path()
    while name is not None:
        path = _path_of(name, beside)
        if any(path == Path(known) or name == known for known, _ in chain):
            names = " → ".join([*(known for known, _ in chain), name])
            raise UsageError(f"profiles inherit in a circle: {names}.")
        settings = _read(str(path))
        chain.append((name, settings))
        beside, name = path.parent, settings.get("inherit")
    return chain


def _path_of(name: str, beside: Path) -> Path:
    if name in shipped_names():
        return SHIPPED / f"{name}.yaml"
    path = beside / os.path.expanduser(name)
    if path.is_file():
        return path
    close = difflib.get_close_matches(name, shipped_names(), 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise SourceNotFoundError(
        f"no cluster profile {name!r}: there are {', '.join(shipped_names())}, or the path of a "
        f"YAML file (looked for {path.absolute()}).{hint}"
    )


def _read(path: str) -> dict[str, Any]:
    try:
        # Everything as text: YAML would take 18:00:00 for the number 64800.
        found = yaml.load(Path(path).read_text(encoding="utf-8"), yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is no readable YAML: {' '.join(str(error).split())}.") from error
    if found is None or found == "":
        return {}
    if not isinstance(found, dict):
        raise UsageError(f"{path} must hold 'key: value' lines, not a {type(found).__name__}.")
    _check_keys(found, path)
    return found


def _users_own() -> dict[str, Any]:
    """What the user's Dask configuration files and environment say of Slurm."""
    # `collect` leaves out the defaults that dask-jobqueue itself brings.
    section = (
        dask.config.get("jobqueue.slurm", None, config=dask.config.collect(dask.config.paths)) or {}
    )
    named = {name.replace("_", "-"): value for name, value in section.items()}
    return {
        name: value for name, value in named.items() if name in _JOBQUEUE_KEYS and value is not None
    }


def _check_keys(settings: Mapping[str, Any], where: str) -> None:
    for name in settings:
        if name not in KEYS:
            close = difflib.get_close_matches(str(name), KEYS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(KEYS)}."
            raise UsageError(f"{where}: a cluster profile has no {name!r}; {hint}")
