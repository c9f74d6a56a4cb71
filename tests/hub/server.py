"""A Hub on loopback: the part of its protocol that reading datasets needs, with faults on order."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info|refs)(?:/(.*))?)?")
_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
PIECE_BYTES = 1 << 20

# Files that are not in git itself.
LARGE = (".parquet", ".npy", ".bin", ".fbin")


@dataclass
class Fault:
    """What goes wrong with requests whose path holds `path`."""

    kind: str
    """status, reset, reset-midway, short, cut, ignore-range, shift-range, flip or hang."""
    path: str
    times: int = 1_000_000
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Request:
    """One line of the log."""

    method: str
    path: str
    status: int
    range: str | None
    n_bytes: int
    """Of the body that was sent."""
    token: str | None


class Hub:
    """Serves ``root/organisation/name/…`` as dataset repositories on 127.0.0.1.

    `private` repositories are unknown to whoever has not `token`; `gated` ones can be listed and
    not read. `cdn` is another server, to which files are redirected.
    """

    def __init__(
        self,
        root: Path,
        cdn: str | None = None,
        latency_seconds: float = 0.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.root = root
        self.cdn = cdn
        self.latency_seconds = latency_seconds
        self.token = "hf_a_secret_of_the_tests"
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.commits: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.log: list[Request] = []
        self.most_at_once = 0
        self._at_once = 0
        self._digests: dict[tuple[str, int, int], str] = {}
        self._lock = threading.Lock()
        handler = type("BoundHandler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[Hub]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def commit(self, repo: str) -> str:
        """Commit that ``main`` stands for; `commits` moves it."""
        return self.commits.get(repo) or hashlib.sha1(repo.encode()).hexdigest()

    def file_requests(self, name: str = "") -> list[Request]:
        """GETs of files whose path holds `name`."""
        return [
            r for r in self.log if r.method == "GET" and "/resolve/" in r.path and name in r.path
        ]

    def fault_for(self, path: str) -> Fault | None:
        """Take the first fault that is left for a request."""
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.path in path:
                    fault.times -= 1
                    return fault
        return None

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request among those that are answered at one time."""
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1

    def sha256(self, path: Path) -> str:
        """Digest of a file; of a file of holes above 256 MiB, of its name and size."""
        status = path.stat()
        key = (str(path), status.st_mtime_ns, status.st_size)
        if key not in self._digests:
            if status.st_size > 1 << 28:
                digest = hashlib.sha256(f"{path.name}:{status.st_size}".encode())
            else:
                digest = hashlib.sha256(path.read_bytes())
            self._digests[key] = digest.hexdigest()
        return self._digests[key]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing on stderr: the log is `Hub.log`."""

    def do_GET(self) -> None:  # noqa: N802, named by http.server
        with self.hub.counted():
            self._route(b"")

    def do_HEAD(self) -> None:  # noqa: N802, named by http.server
        self._route(b"")

    def do_POST(self) -> None:  # noqa: N802, named by http.server
        self._route(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _route(self, body: bytes) -> None:
        time.sleep(self.hub.latency_seconds)
        url = urlsplit(self.path)
        path = unquote(url.path)
        fault = self.hub.fault_for(path)
        if fault is not None and fault.kind == "status":
            return self._answer(fault.status, {"error": "a fault of the test"}, fault.headers)
        if fault is not None and fault.kind == "reset":
            self._record(0, 0)
            return self._reset()
        if fault is not None and fault.kind == "hang":
            time.sleep(fault.seconds)
        api, file = _API.fullmatch(path), _FILE.fullmatch(path)
        repo = (api or file or [None, ""])[1] or ""
        if not repo or not (self.hub.root / repo).is_dir() or self._is_hidden(repo):
            return self._refuse(404 if self._known() else 401, "RepoNotFound")
        if api:
            return self._api(repo, api[2], api[3] or "", parse_qs(url.query), body)
        assert file is not None
        return self._file(repo, file[2], file[3], fault)

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _is_hidden(self, repo: str) -> bool:
        return repo in self.hub.private and not self._known()

    def _api(self, repo: str, verb: str | None, rest: str, query: Any, body: bytes) -> None:
        sha = self.hub.commit(repo)
        base = self.hub.root / repo
        files = sorted(str(p.relative_to(base)) for p in base.rglob("*") if p.is_file())
        if verb == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": sha}
            return self._answer(200, {"branches": [branch], "tags": [], "converts": []})
        revision, _, below = (rest or "main").partition("/")
        if revision not in ("main", sha):
            return self._refuse(404, "RevisionNotFound")
        if verb in (None, "revision"):
            gated = "manual" if repo in self.hub.gated else False
            siblings = [{"rfilename": name} for name in files]
            facts = {"_id": "0" * 24, "id": repo, "sha": sha, "private": repo in self.hub.private}
            more = {"gated": gated, "disabled": False, "tags": [], "siblings": siblings}
            return self._answer(200, facts | more | {"downloads": 0, "likes": 0})
        if verb == "tree":
            recursive = query.get("recursive", ["false"])[0].lower() == "true"
            return self._tree(repo, files, below.rstrip("/"), recursive)
        if "json" in self.headers.get("Content-Type", ""):
            asked = json.loads(body)["paths"]
        else:
            asked = parse_qs(body.decode()).get("paths", [])
        found = [self._item(repo, name) for name in asked if name in files]
        folders = [n for n in asked if any(f.startswith(f"{n.rstrip('/')}/") for f in files)]
        return self._answer(200, found + [_folder(name) for name in folders])

    def _tree(self, repo: str, files: list[str], below: str, recursive: bool) -> None:
        start = f"{below}/" if below else ""
        inside = [name for name in files if name.startswith(start)]
        if below and not inside:
            return self._refuse(404, "EntryNotFound")
        folders = set()
        for name in inside:
            parts = name[len(start) :].split("/")[:-1]
            for depth in range(1, len(parts) + 1 if recursive else min(2, len(parts) + 1)):
                folders.add(start + "/".join(parts[:depth]))
        shown = [n for n in inside if recursive or "/" not in n[len(start) :]]
        items = [self._item(repo, name) for name in shown]
        return self._answer(200, [_folder(name) for name in sorted(folders)] + items)

    def _item(self, repo: str, name: str) -> dict[str, Any]:
        path = self.hub.root / repo / name
        size, sha = path.stat().st_size, self.hub.sha256(path)
        item: dict[str, Any] = {"type": "file", "oid": _blob_id(path), "size": size, "path": name}
        if path.suffix in LARGE:
            item["lfs"] = {"oid": sha, "size": size, "pointerSize": 134}
        return item

    def _file(self, repo: str, revision: str, name: str, fault: Fault | None) -> None:
        hub, path = self.hub, self.hub.root / repo / name
        if repo in hub.gated:
            return self._refuse(403 if self._known() else 401, "GatedRepo")
        if revision not in ("main", hub.commit(repo)):
            return self._refuse(404, "RevisionNotFound")
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        size = path.stat().st_size
        etag = f'"{hub.sha256(path) if path.suffix in LARGE else _blob_id(path)}"'
        headers = {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(size)}
        headers |= {"X-Repo-Commit": hub.commit(repo), "Accept-Ranges": "bytes"}
        if hub.cdn:
            return self._answer(302, {}, headers | {"Location": hub.cdn + self.path})
        asked = _RANGE.fullmatch(self.headers.get("Range") or "")
        if asked is None or (fault and fault.kind == "ignore-range"):
            return self._body(200, path, 0, size, headers, fault)
        first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
        last = min(size - 1, int(asked[2]) if asked[1] and asked[2] else size - 1)
        if first >= size:
            return self._answer(416, {}, {"Content-Range": f"bytes */{size}"})
        if fault and fault.kind == "shift-range":
            first, last = first + 8, min(size - 1, last + 8)
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return self._body(206, path, first, last - first + 1, headers, fault)

    def _body(
        self, status: int, path: Path, at: int, n: int, headers: dict[str, str], fault: Fault | None
    ) -> None:
        kind = fault.kind if fault else ""
        sent = n // 2 if kind in ("short", "cut", "reset-midway") else n
        # A `short` body agrees with its Content-Length; a `cut` one ends before it.
        headers["Content-Length"] = str(sent if kind == "short" else n)
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return self._record(status, 0)
        self._record(status, sent)
        try:
            with path.open("rb") as file:
                file.seek(at)
                for start in range(0, sent, PIECE_BYTES):
                    piece = bytearray(file.read(min(PIECE_BYTES, sent - start)))
                    if kind == "flip" and start == 0:
                        piece[len(piece) // 2] ^= 0xFF
                    self.wfile.write(piece)
        except OSError:  # the client hung up; over TLS it may say why
            self.close_connection = True
            return None
        if kind in ("cut", "reset-midway"):
            self.wfile.flush()
            time.sleep(0.05)  # what was sent must be read before a reset throws it away
            self._reset() if kind == "reset-midway" else self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        return None

    def _reset(self) -> None:
        """End the connection by RST, as a proxy that falls over does."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        # An unknown repository is told to nobody who has no token: it could be a private one.
        text = "Invalid username or password." if status == 401 else code
        named = {} if (status, code) == (401, "RepoNotFound") else {"X-Error-Code": code}
        self._answer(status, {"error": text}, named | {"X-Error-Message": text})

    def _answer(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self._record(status, len(data))

    def _record(self, status: int, n: int) -> None:
        h, path = self.headers, unquote(self.path)
        token = h.get("Authorization")
        self.hub.log.append(Request(self.command, path, status, h.get("Range"), n, token))


def _folder(name: str) -> dict[str, Any]:
    return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}


def _blob_id(path: Path) -> str:
    """Git's name of a small file's content; of a large file's pointer it stands for one."""
    data = path.name.encode() if path.suffix in LARGE else path.read_bytes()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
