"""Rates: kept for their CPU, private, and told where they come from."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from haag_vq.errors import UsageError, WriteError
from haag_vq.planning import Rates, known_rates, save_rates
from haag_vq.planning.rates import (
    ASSUMED_SPREAD,
    FORMAT,
    MEASURED_SPREAD,
    PROFILE_SPREAD,
    rates_path,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


MEASURED = replace(Rates(), multiply_flops=7e10, cpu="A", convert={"float16": 3.0, "float32": 2.0})


def test_nothing_measured_is_told() -> None:
    found = known_rates("A")
    assert found == Rates()
    assert found.spread == ASSUMED_SPREAD
    assert "assumed" in found.origin
    assert "--calibrate" in found.origin


def test_what_was_measured_is_for_its_cpu() -> None:
    save_rates(MEASURED)
    save_rates(replace(MEASURED, cpu="B", multiply_flops=1e9))
    found = known_rates("A")
    assert (found.multiply_flops, found.convert) == (7e10, {"float16": 3.0, "float32": 2.0})
    assert (found.spread, found.cpu) == (MEASURED_SPREAD, "A")
    assert "measured here (A)" in found.origin
    assert known_rates("B").multiply_flops == 1e9
    assert known_rates("C") == Rates()


def test_the_file_is_private() -> None:
    path = save_rates(MEASURED)
    assert path == rates_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        json.dumps({"format": FORMAT, "cpus": []}),
        json.dumps({"format": FORMAT, "cpus": {"A": {}}}),
        json.dumps({"format": FORMAT, "cpus": {"A": {"multiply_flops": -1, "convert": {}}}}),
    ],
)
def test_a_damaged_file_is_told_and_measured_anew(text: str) -> None:
    save_rates(MEASURED)
    rates_path().write_text(text)
    with pytest.warns(UserWarning, match="not readable"):
        assert known_rates("A") == Rates()
    with pytest.warns(UserWarning, match="not readable"):
        save_rates(MEASURED)
    assert known_rates("A").multiply_flops == 7e10


def test_another_format_is_left_alone() -> None:
    path = save_rates(MEASURED)
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', f'"format": {FORMAT - 1}'))
    assert known_rates("A") == Rates()


def test_no_place_for_the_file(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(WriteError, match="cannot make"):
        save_rates(MEASURED)


def test_a_profile_has_its_own() -> None:
    save_rates(MEASURED)
    # Its nodes are not this machine.
    assert known_rates("A", {}) == Rates()
    found = known_rates("A", {"rates": {"multiply-flops": "2e11", "read_bytes": "1e9"}})
    assert (found.multiply_flops, found.read_bytes) == (2e11, 1e9)
    assert (found.spread, found.scan_pairs) == (PROFILE_SPREAD, Rates().scan_pairs)
    assert found.origin == "the profile's own rates"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("fast", "must be 'name: number'"),
        ({"speed": "1"}, "no 'speed'"),
        ({"read-bytes": "fast"}, "positive number"),
        ({"read-bytes": "0"}, "positive number"),
        ({"read-bytes": "nan"}, "positive number"),
    ],
)
def test_a_profiles_rates_are_checked(given: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        known_rates("A", {"rates": given})
