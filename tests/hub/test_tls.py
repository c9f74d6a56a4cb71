"""A byte that is changed on the way: TLS sees it, and only what is missing is asked for again."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from huggingface_hub import close_session

from haag_vq import open_dataset
from haag_vq.errors import ReadError
from haag_vq.hub import transport
from haag_vq.hub.files import HubFile
from haag_vq.hub.transport import DEFAULT_DEADLINE_SECONDS, read_range
from tests.hub.server import Hub

REPO = "some/set"
DATA = np.random.default_rng(6).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
# Of what the server sends: behind the handshake and 1 MB of the body.
FLIP_AT = 1_000_000


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """A certificate for 127.0.0.1 that the Hub's client trusts during a test."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    monkeypatch.setenv("SSL_CERT_FILE", str(public))
    close_session()  # the client that is kept knows other authorities
    yield context
    close_session()


class FlippingProxy:
    """Passes TCP on to `port`; of the first connection's answer one byte is changed."""

    def __init__(self, port: int) -> None:
        self.n_flipped = 0
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._server.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator[FlippingProxy]:
        """Pass on until the block ends."""
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()

    def _accept(self) -> None:
        first = True
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                threading.Thread(target=self._pass, args=(near, far, -1), daemon=True).start()
                flip_at = FLIP_AT if first else -1
                threading.Thread(target=self._pass, args=(far, near, flip_at), daemon=True).start()
                first = False

    def _pass(self, source: socket.socket, target: socket.socket, flip_at: int) -> None:
        at = 0
        with suppress(OSError):
            while piece := bytearray(source.recv(1 << 16)):
                if at <= flip_at < at + len(piece):
                    piece[flip_at - at] ^= 1
                    self.n_flipped += 1
                at += len(piece)
                target.sendall(piece)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_a_byte_flipped_under_tls_is_asked_for_again(
    tmp_path: Path, certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "FIRST_WAIT_SECONDS", 0.01)
    path = tmp_path / "hub" / REPO / "x.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    sha = hashlib.sha256(DATA).hexdigest()
    buffer = bytearray(len(DATA))
    hub = Hub(tmp_path / "hub", tls=certificate)
    with hub.running(), FlippingProxy(hub.port).running() as proxy:
        file = HubFile(proxy.url, REPO, hub.commit(REPO), "x.bin", len(DATA), sha, sha)
        read_range(file, 0, memoryview(buffer))
    assert proxy.n_flipped == 1
    assert bytes(buffer) == DATA
    starts = [int((r.range or "=0-").split("=")[1].split("-")[0]) for r in hub.file_requests()]
    # A record of 16 KiB is whole or not there: all that came before the flipped one is kept.
    assert len(starts) == 2
    assert starts[0] == 0
    assert FLIP_AT - (1 << 17) < starts[1] <= FLIP_AT


def test_a_certificate_that_nobody_vouches_for_is_told_at_once(
    tmp_path: Path, certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    close_session()
    (tmp_path / "hub" / REPO).mkdir(parents=True)
    (tmp_path / "hub" / REPO / "x.npy").write_bytes(DATA)
    with Hub(tmp_path / "hub", tls=certificate).running() as hub:
        file = HubFile(hub.url, REPO, hub.commit(REPO), "x.npy", len(DATA), "0" * 64, "0" * 64)
        started = time.monotonic()
        told = r"127\.0\.0\.1:\d+ is not trusted: self.signed certificate.*SSL_CERT_FILE"
        with pytest.raises(ReadError, match=told):
            read_range(file, 0, memoryview(bytearray(10)))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(ReadError, match=told):
            open_dataset(f"hf://datasets/{REPO}/x.npy")
    # Without any of the waits between tries.
    assert time.monotonic() - started < DEFAULT_DEADLINE_SECONDS / 10
    assert hub.log == []


@pytest.mark.parametrize(
    "endpoint", ["https://hub.example", "http://127.0.0.1:1", "http://[::1]:1"]
)
def test_guarded_endpoints_and_loopback_are_no_matter(endpoint: str) -> None:
    transport._look_at_endpoint(endpoint)


def test_an_endpoint_without_tls_is_told_once() -> None:
    transport._look_at_endpoint.cache_clear()
    with pytest.warns(UserWarning, match="http://hub.example:80 is read without TLS"):
        transport._look_at_endpoint("http://hub.example:80")
    transport._look_at_endpoint("http://hub.example:80")  # a second warning would be an error
