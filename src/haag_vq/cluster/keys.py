"""Private directories for what TLS needs: certificates, who may attach, and their removal."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from distributed.security import Security

from haag_vq.atomic import written_whole
from haag_vq.errors import SourceNotFoundError, UsageError, WriteError
from haag_vq.tempdirs import named_directory, new_directory, remove_stale

KEY_DIR_PREFIX = "haag-vq-tls-"
CONNECTION = "connection.json"


def new_key_directory(
    parent: str | os.PathLike[str] | None = None, name: str | None = None
) -> Path:
    """Make a directory for keys, 0700, below `parent`, which is made too, or among temporary files.

    Parameters
    ----------
    name : str, optional
        By which other processes find it (`named_key_directory`); none but they know a random one.

    Raises
    ------
    WriteError
        If it cannot be made, or is there.
    """
    try:
        if parent is not None:
            Path(parent).mkdir(mode=0o700, parents=True, exist_ok=True)
        return new_directory(KEY_DIR_PREFIX, parent, name)
    except OSError as error:
        raise WriteError(
            f"cannot make a private directory for TLS keys in {parent or tempfile.gettempdir()}: "
            f"{error.strerror}."
        ) from error


def named_key_directory(parent: str | os.PathLike[str], name: str) -> Path:
    """Where `new_key_directory` makes the directory of a name."""
    return named_directory(KEY_DIR_PREFIX, parent, name)


def is_private(directory: Path) -> bool:
    """Whether a directory is this user's, and nobody else can look or write into it."""
    found = directory.stat()
    return found.st_uid == os.getuid() and not found.st_mode & 0o077


def write_keys(directory: Path) -> tuple[Security, dict[str, str]]:
    """Make a certificate and its key, and write them to a directory, private to the user.

    Returns
    -------
    Security
        Of scheduler, workers and clients alike, by these files.
    dict
        Path of each: ``ca``, ``cert``, ``key``.
    """
    made, paths = Security.temporary(), key_paths(directory)
    for name, text in (
        ("ca", made.tls_ca_file),
        ("cert", made.tls_worker_cert),
        ("key", made.tls_worker_key),
    ):
        fd = os.open(paths[name], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
    return security_of(paths), paths


def key_paths(directory: Path) -> dict[str, str]:
    """Where `write_keys` writes: path of each of ``ca``, ``cert``, ``key``."""
    return {name: str(directory / f"{name}.pem") for name in ("ca", "cert", "key")}


def security_of(paths: Mapping[str, str]) -> Security:
    """Make Dask's security object of the files ``ca``, ``cert`` and ``key``."""
    of_roles = {
        f"tls_{role}_{part}": paths[part]
        for role in ("scheduler", "worker", "client")
        for part in ("cert", "key")
    }
    return Security(require_encryption=True, tls_ca_file=paths["ca"], **of_roles)


def write_connection(directory: Path, address: str, paths: Mapping[str, str]) -> Path:
    """Write the file by which another process of the user attaches; 0600, as the keys it names.

    It is there whole or not at all: the tasks of an allocation look for it from the beginning.
    """
    path = directory / CONNECTION
    # It is of no use after this machine has ended: nothing to wait for the disk for.
    with written_whole(path, synced=False, private=True) as part:
        part.write_text(json.dumps({"address": address, **paths}, indent=1), encoding="utf-8")
    return path


def read_connection(path: str | os.PathLike[str]) -> tuple[str, Security]:
    """Read a file of `write_connection`: the scheduler's address, and what it takes to be let in.

    Raises
    ------
    SourceNotFoundError
        If it, or a key that it names, is not there: the cluster was closed.
    UsageError
        If it is no such file.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        paths = {name: str(found[name]) for name in ("ca", "cert", "key")}
        address = str(found["address"])
    except OSError as error:
        raise SourceNotFoundError(
            f"cannot read the connection file {path}: {error.strerror}. It is there only while "
            "the cluster is."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no connection file: connect() writes one.") from error
    missing = [name for name in paths.values() if not os.path.exists(name)]
    if missing:
        raise SourceNotFoundError(f"{path} names {missing[0]}, which is gone: the cluster ended.")
    return address, security_of(paths)


def remove_stale_keys(parent: str | os.PathLike[str] | None = None) -> None:
    """Remove key directories of this user that a killed process left: its scheduler is dead."""
    remove_stale(KEY_DIR_PREFIX, parent)
