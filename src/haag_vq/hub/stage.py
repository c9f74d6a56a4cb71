"""Files of a repository on disk, once: the Hub client's own cache layout, verified, resumable."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from haag_vq.atomic import written_whole
from haag_vq.errors import ClusterError, DataError, WriteError
from haag_vq.hub.cached import CacheDir, has_listing, home_of, is_whole, path_of, write_listing
from haag_vq.hub.files import HubFile, Repository
from haag_vq.hub.splits import CARD
from haag_vq.hub.transport import read_range
from haag_vq.workers import Workers, current_workers, run

# What one request brings; a file that is interrupted loses no more than that. Arbitrary.
PIECE_BYTES = 8 << 20
# Files at a time: enough to hide the wait of each. Arbitrary.
STAGE_THREADS = 4
# A second try from the start, should what an earlier process left have been damaged.
TRIES = 2


Progress = Callable[[int, int], None]


def stage(
    found: Repository,
    cache_dir: CacheDir = None,
    progress: Progress | None = None,
) -> list[str]:
    """Bring a repository's files to disk, those that are not there, and its card.

    On a connected Dask client each file is brought by one of its workers, otherwise by threads
    of this process.

    Parameters
    ----------
    found : Repository
    cache_dir : path-like, optional
        Laid out as the Hub client's cache, so that its downloads are used and it uses these.
        Workers on other machines must see it.
    progress : callable, optional
        Called with the numbers of bytes and of files that are there, from one thread at a time.

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
    ClusterError
        If workers are lost, or bring files to where this process does not see them.

    Notes
    -----
    Safe for several processes, and nodes where the file system's locks are shared: each file is
    brought by one of them, others wait. Memory: `PIECE_BYTES` for each of `STAGE_THREADS`, or
    for each worker.
    """
    home = home_of(found.repo, cache_dir)
    try:
        (home / "blobs").mkdir(parents=True, exist_ok=True)
        _check_space(found, home)
        workers = current_workers()
        if workers.client is not None:
            _stage_on_workers(found, home, workers, progress)
        else:
            _stage_in_threads(found, home, progress)
        _write_down(found, home)
    except OSError as error:
        # Our own errors have no number.
        if error.errno is None:
            raise
        raise WriteError(f"cannot stage {found.repo} in {home}: {error.strerror}.") from error
    return [str(path_of(file, cache_dir)) for file in found.files]


def _stage_in_threads(found: Repository, home: Path, progress: Progress | None) -> None:
    counter = _Counter(progress)
    with ThreadPoolExecutor(STAGE_THREADS) as pool:
        jobs = [pool.submit(_stage_file, file, home, counter) for file in found.files]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _stage_on_workers(
    found: Repository, home: Path, workers: Workers, progress: Progress | None
) -> None:
    """One task a file; what is told of it is seen on disk."""
    from dask.delayed import Delayed

    group = f"stage-{found.sha[:8]}-{os.urandom(4).hex()}"
    graph: dict[Any, Any] = {
        (group, i): (_stage_file, file, home) for i, file in enumerate(found.files)
    }
    graph[f"{group}-all"] = list(graph)
    everything = Delayed(f"{group}-all", graph)

    def tell(n_files: int) -> None:
        if progress is not None:
            progress(_bytes_there(found.files, home), n_files)

    run(everything, workers, group, len(found.files), tell)
    absent = [file for file in found.files if not _is_there(file, home)]
    if absent:
        raise ClusterError(
            f"workers staged {absent[0].path} in {home}, and it is not there on this machine: "
            "choose a cache_dir (--cache-dir) on a file system that all of them see."
        )


def _bytes_there(files: Sequence[HubFile], home: Path) -> int:
    blobs = [home / "blobs" / file.blob for file in files]
    return sum(_size(blob) or _size(_part_of(blob)) for blob in blobs)


def _write_down(found: Repository, home: Path) -> None:
    """Keep what the commit has, its card, and which commit the revision is."""
    for card in (file for file in found.listing if file.name == CARD):
        if not is_whole(card, home.parent):
            _stage_file(card, home)
    if found.listing and not has_listing(home, found.sha):
        write_listing(found.listing, home, found.sha)
    if found.revision != found.sha:
        reference = home / "refs" / found.revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(reference) as part:
            part.write_text(found.sha)


class _Counter:
    """Sums the bytes of files that come at the same time, and the files."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._n_bytes = 0
        self._n_files = 0

    def add(self, n_bytes: int, n_files: int = 0) -> None:
        """Count bytes that are there (negative: that had to be thrown away), and whole files."""
        with self._lock:
            self._n_bytes += n_bytes
            self._n_files += n_files
            if self._progress is not None:
                self._progress(self._n_bytes, self._n_files)


def _check_space(found: Repository, home: Path) -> None:
    missing = 0
    for file in found.files:
        blob = home / "blobs" / file.blob
        if not _is_there(file, home):
            missing += file.size_bytes - min(file.size_bytes, _size(_part_of(blob)))
    free = shutil.disk_usage(home).free
    if missing > free:
        raise WriteError(
            f"staging {found.repo} needs {missing:,} bytes more in {home}, which has {free:,} "
            "free. Choose another cache_dir (--cache-dir), or read it where it is: streaming=True."
        )


def _stage_file(file: HubFile, home: Path, counter: _Counter | None = None) -> None:
    """Bring one file unless it is there, and link it into its snapshot."""
    counter = counter or _Counter()
    blob = home / "blobs" / file.blob
    if not _is_there(file, home):
        with _alone(home.parent / ".locks" / home.name / f"{file.blob}.lock"):
            if _is_there(file, home):
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
    counter.add(0, 1)


def _bring(file: HubFile, blob: Path, counter: _Counter) -> None:
    """Complete the file beside `blob`, verify it, and give it its name."""
    part = _part_of(blob)
    for _ in range(TRIES):
        digest = _digest_of(file)
        # Not to append: where locks do not work, two that bring it write the same in one place.
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with open(fd, "r+b", buffering=0) as out:
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


def _is_there(file: HubFile, home: Path) -> bool:
    """Whether its content is there; a blob that was cut since is brought anew."""
    blob = home / "blobs" / file.blob
    return blob.exists() and _size(blob) == file.size_bytes


def _part_of(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
