"""Which questions a directory takes up again, and which it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from haag_vq.errors import DataError, UsageError
from haag_vq.groundtruth.manifest import agreed, read_manifest, write_manifest
from tests.groundtruth.stored import question


def test_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    manifest = question(
        cuts=(10, 100), dataset="naïve", rows_are_stored_rows=False, software={"numpy": "2.4"}
    )
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.n_rows == 100


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("metric", "ip", "metric was l2, ip is asked"),
        ("dim", 6, "dim was 5, 6 is asked"),
        ("n_queries", 4, "n_queries was 3, 4 is asked"),
        ("queries_sha256", "ff", "ff is asked"),
        ("base_fingerprint", "another", "base_fingerprint was base of 100, another is asked"),
    ],
)
def test_another_question_is_refused(name: str, value: Any, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        agreed(Path("DIR"), question(), question(**{name: value}))
    message = str(refused.value)
    assert message.startswith("DIR is the checkpoint of another job: ")
    assert told in message
    assert message.count(" is asked") == 1
    assert message.endswith("Take another directory, or remove this one to begin anew.")


def test_every_difference_is_named() -> None:
    with pytest.raises(UsageError) as refused:
        agreed(Path("DIR"), question(), question(metric="ip", dim=6, k=3, width=5))
    for told in ("metric was l2, ip", "dim was 5, 6", "k was 2, 3 is asked (a smaller one"):
        assert told in str(refused.value)


def test_a_smaller_k_is_taken_and_changes_nothing() -> None:
    known = question()
    assert agreed(Path("DIR"), known, question(k=1, width=3)) == known


def test_a_larger_base_and_prefixes_are_added() -> None:
    known = question()
    grown = agreed(
        Path("DIR"), known, question(cuts=(50, 300), base_fingerprint="base of 300", k=1, width=3)
    )
    assert grown == question(cuts=(50, 100, 300), base_fingerprint="base of 300")
    smaller = agreed(Path("DIR"), grown, question(cuts=(70,), base_fingerprint="base of 70"))
    assert smaller == question(cuts=(50, 70, 100, 300), base_fingerprint="base of 300")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", "null", '{"format": 1}', '{"format": 1, "cuts": 3}', "\x00", "{}"],
)
def test_what_cannot_be_read_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json is not readable: .*or remove this one"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", "4"),
        ("k", 0),
        ("dim", -1),
        ("n_queries", 2.5),
        ("cuts", []),
        ("cuts", [True]),
        ("cuts", ["a"]),
        ("novelty", 1),
    ],
)
def test_fields_that_make_no_sense_are_told(name: str, value: Any, tmp_path: Path) -> None:
    write_manifest(tmp_path, question())
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(DataError, match=r"manifest\.json is not readable"):
        read_manifest(tmp_path)


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 2, "question": "of a later version"}')
    with pytest.raises(UsageError, match=r"has format 2, this version .* writes and reads 1"):
        read_manifest(tmp_path)
