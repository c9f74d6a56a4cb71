"""Outputs that are whole or not there: write beside, fsync, rename."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from haag_vq.errors import HaagVQError, WriteError


@contextmanager
def written_whole(
    path: str | os.PathLike[str], *, synced: bool = True, private: bool = False
) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the name when the block ends well.

    Whatever ends the block otherwise, an interrupt included, the half-written file is removed
    and a file that had the name before is left as it was.

    Parameters
    ----------
    synced : bool
        Wait for the disk. Without it a process that dies costs nothing either, only a machine
        that does: for notes that are worth less than the wait.
    private : bool
        Of mode 0600, from the beginning.

    Raises
    ------
    WriteError
        If the file cannot be created, written (a full disk, a quota), or renamed.
    """
    target = Path(path).absolute()
    if target.is_dir():
        raise WriteError(f"cannot write {target}: it is a directory.")
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{target.name}.", suffix=".part", dir=target.parent
        )
        os.close(handle)
    except OSError as error:
        raise WriteError(f"cannot write in {target.parent}: {error.strerror}.") from error
    part = Path(name)
    try:
        yield part
        if synced:
            sync(part)
        # mkstemp makes private files; an output gets what a plain open() would have given it.
        os.chmod(part, 0o600 if private else 0o666 & ~umask())
        os.replace(part, target)
    except OSError as error:
        # What is read inside the block is no fault of the file that is written.
        if isinstance(error, HaagVQError) or error.filename not in (None, name, str(target)):
            raise
        raise WriteError(
            f"writing {target} failed: {error.strerror or error}. Nothing was left of it."
        ) from error
    finally:
        part.unlink(missing_ok=True)
    if synced:
        # The file is whole and has its name; some network file systems cannot sync a directory.
        with suppress(OSError):
            sync(target.parent)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or a directory's names."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def umask() -> int:
    """Read the process's umask; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
