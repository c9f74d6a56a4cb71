"""A directory that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from haag_vq.atomic import sync, umask
from haag_vq.errors import HaagVQError, WriteError
from haag_vq.tempdirs import OWNER, new_directory, remove_stale

_PREFIX = ".haag-vq-quantizing-"


@contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """Yield a directory beside `target`, which takes that name when the block ends well.

    Otherwise nothing is left; what a killed process left is removed by the next one.

    Raises
    ------
    WriteError
        If it cannot be made or written in, or something has the name by then.
    """
    remove_stale(_PREFIX, target.parent)
    try:
        home = new_directory(_PREFIX, target.parent)
    except OSError as error:
        raise WriteError(f"cannot write in {target.parent}: {error.strerror}.") from error
    try:
        yield home
        _publish(home, target)
    except OSError as error:
        # What was read, and what is refused, is no fault of the directory.
        if isinstance(error, HaagVQError) and not isinstance(error, WriteError):
            raise
        raise WriteError(
            f"writing {target} failed: {error.strerror or error}. Nothing was left of it."
        ) from error
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _publish(home: Path, target: Path) -> None:
    for path in home.iterdir():
        sync(path)
    home.chmod(0o777 & ~umask())
    if os.path.lexists(target):
        raise FileExistsError(0, "something has that name by now")
    # Until now it is known whose it is: a killed process's is swept away.
    (home / OWNER).unlink()
    home.rename(target)
    for directory in (target, target.parent):
        with suppress(OSError):  # some network file systems cannot
            sync(directory)
