"""Calibration: every rate is measured, kept for this CPU, and then planned with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from haag_vq.commands import doctor
from haag_vq.errors import InsufficientMemoryError
from haag_vq.groundtruth.compiled import cache_directory
from haag_vq.groundtruth.openblas import this_cpu
from haag_vq.memory import Allowance
from haag_vq.planning import LoadJob, Rates, ShapeSource, calibrate, known_rates, plan
from haag_vq.planning.calibration import _not_negative
from haag_vq.planning.need import kind_of
from haag_vq.sources import SyntheticSource
from tests.commands.running import run


def test_three_searches_give_three_rates() -> None:
    shares = np.array([[4.0, 2.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 6.0]])
    rates = np.array([0.5, 0.25, 2.0])
    assert np.allclose(_not_negative(shares, shares @ rates), rates)
    # What noise makes negative is left out, and the others take its place.
    found = _not_negative(shares, np.array([4.0, 1.0, 0.5]))
    assert (found >= 0).all()
    assert found[0] > 0
    assert found.min() == 0


def test_every_kind_of_storage_has_a_rate() -> None:
    kinds = [kind_of(ShapeSource(10, 4, dtype)) for dtype in ("float16", "float32", "float64")]
    kinds += [kind_of(ShapeSource(10, 4, dtype)) for dtype in ("int8", "uint8")]
    kinds += [
        kind_of(ShapeSource(10, 4, dtype, "x.parquet", group_rows=5))
        for dtype in ("float32", "float64")
    ]
    assert sorted([*kinds, kind_of(SyntheticSource(10, 4))]) == sorted(Rates().convert)


def test_too_little_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    few = Allowance(100 << 20, "the test")
    monkeypatch.setattr("haag_vq.planning.calibration.process_allowance", lambda: few)
    with pytest.raises(InsufficientMemoryError, match=r"100 MiB \(the test\)"):
        calibrate()


@pytest.mark.slow
def test_the_doctor_calibrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = cache_directory()
    if kept is not None:  # its compiled code stays where it is
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(Path(kept).parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    facts, table = run(doctor, "--calibrate", tmp_path)
    assert facts["file"] == str(tmp_path / "haag_vq" / "rates.json")
    # Nothing else is left.
    assert [path.name for path in tmp_path.iterdir()] == ["haag_vq"]
    found = known_rates(this_cpu().model)
    assert set(found.convert) == set(Rates().convert)
    for name in (
        "multiply_flops",
        "scan_pairs",
        "row_values",
        "scored_values",
        "encoded_values",
        "read_bytes",
    ):
        assert 1e6 < getattr(found, name) < 1e14
        assert getattr(found, name) == facts[name]
    assert found.start_seconds > 0.1
    made = plan(LoadJob(ShapeSource(1000, 64)))
    assert "measured here" in made.duration.origin
    assert dict(table)["CPU"] == this_cpu().model
