"""Private directories that live as long as one process, and are swept away after a killed one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

# Name of the file that says which process a directory belongs to.
OWNER = "pid"


def new_directory(
    prefix: str, parent: str | os.PathLike[str] | None = None, name: str | None = None
) -> Path:
    """Make a directory of this process, 0700, below `parent` or among temporary files.

    Parameters
    ----------
    name : str, optional
        By which others find it below `parent` (`named_directory`); otherwise it is random.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    if parent is None or name is None:
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    else:
        made = named_directory(prefix, parent, name)
        made.mkdir(mode=0o700)
    try:
        (made / OWNER).write_text(f"{process_space()} {os.getpid()}")
    except OSError:
        # Of nobody, it would never be swept away.
        shutil.rmtree(made, ignore_errors=True)
        raise
    return made


def named_directory(prefix: str, parent: str | os.PathLike[str], name: str) -> Path:
    """Where `new_directory` makes the directory of a name."""
    return Path(parent) / f"{prefix}{name}"


def remove_stale(prefix: str, parent: str | os.PathLike[str] | None = None) -> None:
    """Remove such directories of this user whose process is dead."""
    for path in Path(parent or tempfile.gettempdir()).glob(f"{prefix}*"):
        try:
            owner = path.stat().st_uid
            where, pid = (path / OWNER).read_text().split()
        except (OSError, ValueError):
            continue
        # Nodes and containers whose processes we cannot see may share the parent.
        if owner == os.getuid() and where == process_space() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)


def process_space() -> str:
    """Identify the set of processes that this one sees: host and PID namespace, since the boot."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
