"""Byte ranges of Hub files into the caller's memory: checked, retried, never more than asked."""

from __future__ import annotations

import functools
import ipaddress
import os
import random
import re
import ssl
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from haag_vq import inflight
from haag_vq.errors import FileChangedError, ReadError, SourceNotFoundError
from haag_vq.hub.files import HubFile, is_offline

# After so many seconds without success a read gives up; `datasets` tried for 1,660 (measured).
DEADLINE_VARIABLE = "HAAG_VQ_HUB_DEADLINE"
DEFAULT_DEADLINE_SECONDS = 300.0

# Waits after a failure: doubled from the first, never above the longest. Arbitrary.
FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 30.0
# For a connection, and between two pieces of a body.
SILENCE_SECONDS = 20.0
# A server or proxy that ignores ranges does so every time.
WRONG_RANGES = 3

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_TRANSIENT = (408, 429, 500, 502, 503, 504)


@dataclass(slots=True)
class _Progress:
    """How far one range has come; an attempt that fails leaves what it got."""

    done: int = 0
    wrong: int = 0


class _TryAgainError(Exception):
    """An attempt failed in a way that may pass; `wait` is what the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Gate:
    """Bounds the requests of this process; its size is read when the process first asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: tuple[int, threading.BoundedSemaphore] | None = None

    def __call__(self) -> threading.BoundedSemaphore:
        with self._lock:
            if self._of is None or self._of[0] != os.getpid():
                self._of = os.getpid(), threading.BoundedSemaphore(inflight.of_this_process())
            return self._of[1]


_gate = _Gate()


def read_range(file: HubFile, offset: int, buffer: memoryview) -> None:
    """Fill `buffer` with the bytes of `file` from `offset`.

    Parameters
    ----------
    file : HubFile
    offset : int
        Bytes from the start of the file.
    buffer : memoryview of bytes, writable
        Filled as bytes arrive; after a failure only what is missing is asked for again.

    Raises
    ------
    ReadError
        If the Hub cannot be reached, keeps failing until the deadline
        (``HAAG_VQ_HUB_DEADLINE``, 300 seconds), or keeps serving other bytes than were asked for.
    FileChangedError
        If the file at this commit has another content than when it was found.
    SourceNotFoundError
        If it is not there, closed to us, or requests are forbidden (HF_HUB_OFFLINE).

    Notes
    -----
    Safe for several threads; at most `inflight.of_this_process` requests are in flight. The token
    is read at each attempt, and goes to the Hub's own host only: the client drops it when a
    redirection leads elsewhere.
    """
    if is_offline():
        raise SourceNotFoundError(
            f"{file.path} is not on this machine, and HF_HUB_OFFLINE forbids to ask for it. "
            f"Fetch it where there is internet: haag-vq fetch {file.repo} --revision {file.sha}"
        )
    _look_at_endpoint(file.endpoint)
    progress = _Progress()
    limit = inflight.positive_number(DEADLINE_VARIABLE, DEFAULT_DEADLINE_SECONDS)
    started = time.monotonic()
    failures = 0
    while progress.done < len(buffer):
        before = progress.done
        try:
            with _gate():
                if not failures:
                    # Its turn came: what it waited behind others is no failure.
                    started = time.monotonic()
                _attempt(file, offset, buffer, progress)
        except _TryAgainError as problem:
            # Bytes that came are progress: a slow, flaky line is no reason to give up.
            if progress.done > before:
                failures, started = 0, time.monotonic()
            wait = max(problem.wait, _backoff(failures))
            failures += 1
            if time.monotonic() - started + wait > limit:
                raise ReadError(
                    f"reading {len(buffer):,} bytes at offset {offset:,} of {file.path} failed "
                    f"for {time.monotonic() - started:.0f} s ({failures} tries, the last: "
                    f"{problem}); the limit is {limit:g} s without a new byte. "
                    f"{progress.done:,} bytes came. Try later, raise {DEADLINE_VARIABLE}, or "
                    f"lower {inflight.VARIABLE} where many workers read."
                ) from None
            time.sleep(wait)


@functools.cache
def _look_at_endpoint(endpoint: str) -> None:
    """Warn, once, of an endpoint on whose way nothing guards the bytes: a range has no digest."""
    where = urlsplit(endpoint)
    host = where.hostname or ""
    loopback = host == "localhost"
    with suppress(ValueError):
        loopback = ipaddress.ip_address(host).is_loopback
    if where.scheme == "http" and not loopback:
        warnings.warn(
            f"{endpoint} is read without TLS: a byte that is changed on the way is not seen, and "
            "a token can be overheard. Set HF_ENDPOINT to an https:// address, or stage the files "
            "(streaming=False), which are verified by their digests.",
            stacklevel=3,
        )


def _backoff(failures: int) -> float:
    """Seconds to wait: doubled each time, with jitter, so that workers do not come back as one."""
    wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(failures, 20))
    return wait * random.uniform(0.5, 1.0)


def _attempt(file: HubFile, offset: int, buffer: memoryview, progress: _Progress) -> None:
    """Ask once for what is missing; _TryAgainError where another attempt may do better."""
    import httpx2  # with huggingface_hub: 0.2 s, for those who read from the Hub only
    from huggingface_hub import get_session, get_token

    first = offset + progress.done
    last = offset + len(buffer) - 1
    # Compressed on the way, a body would have another length than its range.
    headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
    token = get_token()
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        with get_session().stream(
            "GET", file.url, headers=headers, timeout=SILENCE_SECONDS
        ) as response:
            _check_status(file, response, bool(token))
            _check_range(file, response.headers, response.status_code, first, last, progress)
            for piece in response.iter_raw():
                if len(piece) > len(buffer) - progress.done:
                    raise _TryAgainError("more bytes than were asked for")
                buffer[progress.done : progress.done + len(piece)] = piece
                progress.done += len(piece)
    except httpx2.TransportError as error:
        refuse_untrusted(error, file.url)
        raise _TryAgainError(f"{type(error).__name__}: {error}") from None
    if progress.done < len(buffer):
        raise _TryAgainError(f"the body ended {len(buffer) - progress.done:,} bytes early")


def refuse_untrusted(error: BaseException, url: str) -> None:
    """Raise ReadError if a connection failed for its certificate: that does not pass."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise ReadError(
                f"{urlsplit(url).netloc} is not trusted: {cause.verify_message}. Behind a proxy "
                "of your site, name its authorities in SSL_CERT_FILE (a .pem file); otherwise "
                "check HF_ENDPOINT, and this machine's clock."
            ) from None
        cause = cause.__cause__ or cause.__context__


def _check_status(file: HubFile, response: Any, has_token: bool) -> None:
    """Raise for a status that is no success: to try again, or for good."""
    status = int(response.status_code)
    if status in _TRANSIENT:
        raise _TryAgainError(f"HTTP {status}", retry_after(response.headers.get("Retry-After")))
    if status in (401, 403):
        raise SourceNotFoundError(_closed(file.repo, file.path, has_token))
    if status == 416:
        raise FileChangedError(
            f"{file.path} is shorter than when it was found ({file.size_bytes:,} bytes): the Hub "
            "says that the range asked for is not in it. Open the dataset again."
        )
    if status not in (200, 206):
        raise SourceNotFoundError(
            f"{file.path} cannot be read: the Hub answers HTTP {status}. The repository or this "
            "commit may have been removed; open the dataset again."
        )


def _closed(repo: str, path: str, has_token: bool) -> str:
    """What to do about a repository that is closed to us."""
    remedy = (
        "the token that is set may not read it"
        if has_token
        else "no token is set (HF_TOKEN, or `hf auth login`)"
    )
    return (
        f"{path} is closed: the repository is gated or private, and {remedy}. Ask for access on "
        f"its page, datasets/{repo}, with the account of the token."
    )


def _check_range(
    file: HubFile, headers: Any, status: int, first: int, last: int, progress: _Progress
) -> None:
    """Raise unless exactly bytes ``first … last`` of the file that was found are served."""
    whole = first == 0 and last == file.size_bytes - 1
    served = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if status == 200 and whole:
        return
    size = served and served[3]
    if size and size.isdecimal() and int(size) != file.size_bytes:
        raise FileChangedError(
            f"{file.path} has {int(size):,} bytes, it had {file.size_bytes:,} when it was found. "
            "Open the dataset again."
        )
    if status == 206 and served and (int(served[1]), int(served[2])) == (first, last):
        return
    progress.wrong += 1
    got = f"bytes {served[1]}-{served[2]}" if served else f"HTTP {status} without a range"
    text = f"asked for bytes {first}-{last}, was served {got}"
    if progress.wrong >= WRONG_RANGES:
        raise ReadError(
            f"{file.path}: {text}, {WRONG_RANGES} times. A proxy on the way ignores ranges: "
            "stage the files instead (streaming=False)."
        )
    raise _TryAgainError(text)


def retry_after(text: str | None) -> float:
    """Seconds that a Retry-After header asks for: a number or a date; 0 for neither."""
    if not text:
        return 0.0
    with suppress(ValueError):
        return max(0.0, float(text))
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return 0.0
