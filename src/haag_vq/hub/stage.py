"""Files of a repository on disk, once: the Hub client's own cache layout, verified, resumable."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from haag_vq.atomic import written_whole
from haag_vq.errors import DataError, WriteError
from haag_vq.hub.files import HubFile, Repository
from haag_vq.hub.transport import read_range

# What one request brings; a file that is interrupted loses no more than that. Arbitrary.
PIECE_BYTES = 8 << 20
# Files at a time: enough to hide the wait of each. Arbitrary.
STAGE_THREADS = 4
# A second try from the start, should what an earlier process left have been damaged.
TRIES = 2


def hub_cache(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Directory of staged files: the one given, else HF_HUB_CACHE, else that of HF_HOME."""
    chosen = cache_dir or os.environ.get("HF_HUB_CACHE")
    if not chosen:
        chosen = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    return Path(os.path.expanduser(os.fspath(chosen))).absolute()


def stage(
    found: Repository,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Bring a repository's files to disk, those that are not there.

    Parameters
    ----------
    found : Repository
    cache_dir : path-like, optional
        Laid out as the Hub client's cache, so that its downloads are used and it uses these.
    progress : callable, optional
        Called with the number of bytes that are there, from one thread at a time.

    Returns
    -------
    list of str
        Paths, in the order of ``found.files``.

    Raises
    ------
    WriteError
        If there is too little space, or the directory cannot be written.
    DataError
        If a file's digest is not the one that the Hub lists, twice.
    ReadError, FileChangedError, SourceNotFoundError
        Those of `hub.transport.read_range`. What came stays, and is not asked for again.

    Notes
    -----
    Safe for several processes, and nodes where the file system's locks are shared: each file is
    brought by one of them, others wait. Memory: `PIECE_BYTES` for each of `STAGE_THREADS`.
    """
    home = hub_cache(cache_dir) / f"datasets--{found.repo.replace('/', '--')}"
    counter = _Counter(progress)
    try:
        (home / "blobs").mkdir(parents=True, exist_ok=True)
        _check_space(found, home)
        with ThreadPoolExecutor(STAGE_THREADS) as pool:
            jobs = [pool.submit(_stage_file, file, home, counter) for file in found.files]
            try:
                paths = [job.result() for job in jobs]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if found.revision != found.sha:
            reference = home / "refs" / found.revision
            reference.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(reference) as part:
                part.write_text(found.sha)
    except OSError as error:
        # Our own errors have no number.
        if error.errno is None:
            raise
        raise WriteError(f"cannot stage {found.repo} in {home}: {error.strerror}.") from error
    return paths


class _Counter:
    """Sums the bytes of files that come at the same time."""

    def __init__(self, progress: Callable[[int], None] | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._n = 0

    def add(self, n_bytes: int) -> None:
        """Count bytes that are there (negative: that had to be thrown away)."""
        with self._lock:
            self._n += n_bytes
            if self._progress is not None:
                self._progress(self._n)


def _check_space(found: Repository, home: Path) -> None:
    missing = 0
    for file in found.files:
        blob = home / "blobs" / file.blob
        if not blob.exists():
            missing += file.size_bytes - min(file.size_bytes, _size(_part_of(blob)))
    free = shutil.disk_usage(home).free
    if missing > free:
        raise WriteError(
            f"staging {found.repo} needs {missing:,} bytes more in {home}, which has {free:,} "
            "free. Choose another cache_dir (--cache-dir), or read it where it is: streaming=True."
        )


def _stage_file(file: HubFile, home: Path, counter: _Counter) -> str:
    blob = home / "blobs" / file.blob
    if not blob.exists():
        with _alone(home.parent / ".locks" / home.name / f"{file.blob}.lock"):
            if blob.exists():
                counter.add(file.size_bytes)
            else:
                _bring(file, blob, counter)
    else:
        counter.add(file.size_bytes)
    link = home / "snapshots" / file.sha / file.name
    link.parent.mkdir(parents=True, exist_ok=True)
    # Another process may have linked it meanwhile: to the same content.
    with suppress(FileExistsError):
        link.symlink_to(os.path.relpath(blob, link.parent))
    return str(link)


def _bring(file: HubFile, blob: Path, counter: _Counter) -> None:
    """Complete the file beside `blob`, verify it, and give it its name."""
    part = _part_of(blob)
    for _ in range(TRIES):
        digest = _digest_of(file)
        with part.open("a+b", buffering=0) as out:
            at = _take_up(out, file, digest, counter)
            buffer = bytearray(min(PIECE_BYTES, file.size_bytes - at))
            while at < file.size_bytes:
                piece = memoryview(buffer)[: file.size_bytes - at]
                read_range(file, at, piece)
                _write_all(out, piece)
                digest.update(piece)
                at += len(piece)
                counter.add(len(piece))
            os.fsync(out.fileno())
        if digest.hexdigest() == file.blob:
            part.replace(blob)
            return
        part.unlink()
        counter.add(-file.size_bytes)
    raise DataError(
        f"{file.path} came with digest {digest.hexdigest()}, the Hub lists {file.blob}, "
        f"{TRIES} times: something on the way changes the bytes. Nothing was kept of it."
    )


def _take_up(out: Any, file: HubFile, digest: Any, counter: _Counter) -> int:
    """Hash what an earlier process left, and return where to go on."""
    if os.fstat(out.fileno()).st_size > file.size_bytes:
        out.truncate(0)
    out.seek(0)
    at = 0
    while piece := out.read(PIECE_BYTES):
        digest.update(piece)
        at += len(piece)
    counter.add(at)
    return at


def _write_all(out: Any, piece: memoryview) -> None:
    """Write without a buffer between: a short write is gone on with."""
    done = 0
    while done < len(piece):
        done += out.write(piece[done:])


def _digest_of(file: HubFile) -> Any:
    """Hash whose digest the Hub lists: sha256, or git's own for small files."""
    if file.sha256:
        return hashlib.sha256()
    return hashlib.sha1(f"blob {file.size_bytes}\0".encode(), usedforsecurity=False)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait for the lock of one file, the one that the Hub client takes as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            # Without locks two processes may bring a file twice; its digest is checked anyway.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(fd)


def _part_of(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
