"""What a process does for one block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from haag_vq.groundtruth import halves, workspace
from haag_vq.groundtruth.tasks import BlockTask, Search
from haag_vq.sources import convert, open_source


def test_a_process_that_searches_converts_by_compiled_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def faster(stored: object, out: object) -> bool:
        calls.append(stored)
        return bool(halves.from_halves(stored, out))

    monkeypatch.setattr(convert, "_faster", None)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, 6)).astype(np.float16)
    np.save(tmp_path / "x.npy", rows)
    source = open_source(tmp_path / "x.npy")
    search = Search("a job", 2, "l2", 1)
    xq = rows[7:9].astype(np.float32)
    BlockTask(source, 100, 0, search)(xq)
    assert convert._faster is halves.from_halves
    monkeypatch.setattr(halves, "use", lambda: convert.use_for_halves(faster))
    part = BlockTask(source, 100, 0, search)(xq)
    workspace.release()
    assert calls
    assert_array_equal(part.ids[:, 0], [107, 108])
