"""Each fault of the wire: survived with only the missing bytes, or told; never wrong bytes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from haag_vq.errors import FileChangedError, ReadError, SourceNotFoundError, UsageError
from haag_vq.hub import transport
from haag_vq.hub.files import HubFile
from haag_vq.hub.transport import read_range, retry_after
from tests.hub.server import Fault, Hub

REPO = "some/set"
DATA = np.random.default_rng(5).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
FIRST, N = 1_234, 2_000_000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transport, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(transport, "FIRST_WAIT_SECONDS", 0.01)
    path = tmp_path / "hub" / REPO / "x.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    with Hub(tmp_path / "hub").running() as hub:
        yield hub


def file_on(hub: Hub) -> HubFile:
    sha = hashlib.sha256(DATA).hexdigest()
    return HubFile(hub.url, REPO, hub.commit(REPO), "x.bin", len(DATA), sha, sha)


def read(hub: Hub, first: int = FIRST, n: int = N) -> bytes:
    buffer = bytearray(n)
    read_range(file_on(hub), first, memoryview(buffer))
    return bytes(buffer)


def ranges(hub: Hub) -> list[tuple[int, int]]:
    asked = [(r.range or "").removeprefix("bytes=").split("-") for r in hub.file_requests()]
    return [(int(a), int(b)) for a, b in asked]


def test_a_range_is_asked_for_once_and_served_whole(hub: Hub) -> None:
    assert read(hub) == DATA[FIRST : FIRST + N]
    assert ranges(hub) == [(FIRST, FIRST + N - 1)]
    assert read(hub, len(DATA) - 3, 3) == DATA[-3:]
    assert read(hub, 5, 0) == b""


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "x.bin", 2, 429, {"Retry-After": "0"}),
        Fault("status", "x.bin", 2, 503),
        Fault("status", "x.bin", 1, 500),
        Fault("reset", "x.bin", 1),
        Fault("ignore-range", "x.bin", 2),
        Fault("shift-range", "x.bin", 2),
        Fault("hang", "x.bin", 1, seconds=1.5),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_a_fault_before_the_body_passes(hub: Hub, fault: Fault) -> None:
    times = fault.times
    hub.faults.append(fault)
    assert read(hub) == DATA[FIRST : FIRST + N]
    assert fault.times == 0
    # What a server does after we hung up is in its log as well: a hang shows twice at most.
    assert len(hub.log) <= times + 1


@pytest.mark.parametrize("kind", ["cut", "reset-midway"])
def test_only_what_is_missing_is_asked_for_again(hub: Hub, kind: str) -> None:
    hub.faults.append(Fault(kind, "x.bin", 2))
    assert read(hub) == DATA[FIRST : FIRST + N]
    asked = ranges(hub)
    assert len(asked) == 3
    assert {last for _, last in asked} == {FIRST + N - 1}
    # A reset may throw away what had not been read of the half that was sent.
    starts = [first for first, _ in asked]
    assert starts == sorted(set(starts))
    if kind == "cut":
        assert starts == [FIRST, FIRST + N // 2, FIRST + N // 2 + N // 4]


def test_a_short_body_that_agrees_with_its_length_is_seen(hub: Hub) -> None:
    hub.faults.append(Fault("short", "x.bin", 1))
    assert read(hub) == DATA[FIRST : FIRST + N]
    assert ranges(hub) == [(FIRST, FIRST + N - 1), (FIRST + N // 2, FIRST + N - 1)]


def test_retry_after_is_obeyed(hub: Hub) -> None:
    hub.faults.append(Fault("status", "x.bin", 1, 429, {"Retry-After": "1"}))
    started = time.monotonic()
    read(hub)
    assert time.monotonic() - started >= 1.0


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "x.bin", status=429, headers={"Retry-After": "60"}),
        Fault("status", "x.bin", status=503),
        Fault("reset", "x.bin"),
    ],
    ids=["429 for a minute", "503 for ever", "reset for ever"],
)
def test_what_does_not_pass_is_told_within_the_deadline(
    hub: Hub, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAAG_VQ_HUB_DEADLINE", "1")
    hub.faults.append(fault)
    with pytest.raises(ReadError, match=r"x\.bin failed for .* tries, the last: .*limit is 1 s"):
        read(hub)
    assert len(hub.log) < 20


@pytest.mark.parametrize("kind", ["ignore-range", "shift-range"])
def test_a_server_that_never_serves_the_range_is_told(hub: Hub, kind: str) -> None:
    hub.faults.append(Fault(kind, "x.bin"))
    with pytest.raises(ReadError, match="asked for bytes 1234-2001233, was served .* 3 times"):
        read(hub)


def test_a_file_of_another_size_has_changed(hub: Hub) -> None:
    longer = replace(file_on(hub), size_bytes=len(DATA) + 1)
    with pytest.raises(FileChangedError, match="has 3,000,000 bytes, it had 3,000,001"):
        read_range(longer, 0, memoryview(bytearray(8)))


def test_a_gate_is_told_and_no_token_is(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated.add(REPO)
    with pytest.raises(SourceNotFoundError, match="gated or private, and no token is set"):
        read(hub)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    with pytest.raises(SourceNotFoundError, match="token that is set may not") as told:
        read(hub)
    assert hub.token not in str(told.value)


def test_a_token_opens_a_private_set_and_goes_nowhere_else(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    with Hub(hub.root).running() as cdn:
        hub.private.add(REPO)
        # Another host: a port alone would do for the client, not for every client.
        hub.cdn = cdn.url
        assert read(hub) == DATA[FIRST : FIRST + N]
        assert [r.token for r in hub.log] == [f"Bearer {hub.token}"]
        assert [r.token for r in cdn.log] == [None]


def test_offline_asks_for_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceNotFoundError, match=f"haag-vq fetch {REPO} --revision"):
        read(hub)
    assert hub.log == []


def test_settings_are_checked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAAG_VQ_HUB_DEADLINE", "soon")
    with pytest.raises(UsageError, match="HAAG_VQ_HUB_DEADLINE='soon' must be a number"):
        read(hub)


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after("7") == 7.0
    assert retry_after(None) == retry_after("later") == retry_after("-3") == 0.0
    assert retry_after("Fri, 01 Jan 2100 00:00:00 GMT") > 1e9
