"""A directory that is there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from haag_vq.atomic import sync, umask
from haag_vq.errors import WriteError
from haag_vq.tempdirs import OWNER, new_directory, remove_stale

_PREFIX = ".haag-vq-quantizing-"


@contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """Yield a directory beside `target`, which takes that name when the block ends well.

    Otherwise nothing is left; what a killed process left is removed by the next one.

    Raises
    ------
    WriteError
        If it cannot be made, or something has the name by then.
    """
    remove_stale(_PREFIX, target.parent)
    try:
        home = new_directory(_PREFIX, target.parent)
    except OSError as error:
        raise WriteError(f"cannot write in {target.parent}: {error.strerror}.") from error
    try:
        yield home
        _publish(home, target)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _publish(home: Path, target: Path) -> None:
    try:
        (home / OWNER).unlink()
        for path in home.iterdir():
            sync(path)
        home.chmod(0o777 & ~umask())
        home.rename(target)
    except OSError as error:
        raise WriteError(
            f"writing {target} failed: {error.strerror}. Nothing was left of it."
        ) from error
    for directory in (target, target.parent):
        with suppress(OSError):  # some network file systems cannot
            sync(directory)
