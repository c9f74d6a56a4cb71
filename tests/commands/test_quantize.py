"""`haag-vq quantize`: what it tells, and that a plan tells the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from haag_vq import cli, open_dataset
from haag_vq.commands import info, plan
from tests.commands.running import run
from tests.support.files import vectors, write_npy

N, DIM = 900, 16

pytestmark = pytest.mark.filterwarnings("ignore:.* is trained on .* vectors")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_npy(tmp_path / "x.npy", vectors(N, DIM))


def told(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert cli.main(["quantize", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_it_tells_what_was_made_and_lost(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--codec", "PQ4", "--queries", "holdout:40", "--train", "400", "--quiet")
    lines = told(capsys, base, tmp_path / "q", *words).splitlines()
    rows = dict(line.split(maxsplit=1) for line in lines)
    assert rows["codes"] == "860 × 4 bytes, 16 times shorter than float32"
    assert rows["trained"].startswith("PQ4 on 400 vectors, ")
    assert rows["queries"] == "40, kept with them"
    assert rows["written"] == str(tmp_path / "q")
    facts = json.loads(told(capsys, base, tmp_path / "r", *words, "--json"))
    assert float(rows["lost"].split()[0]) == pytest.approx(facts["relative_error"], rel=1e-3)
    told_of = run(info, tmp_path / "q", "--limit", "500"), run(plan, "load", tmp_path / "q")
    for n, (_, about) in zip((500, 860), told_of, strict=True):
        assert f"{n} × 16, stored as PQ4 codes" in dict(about)["vectors"]
    found = open_dataset(tmp_path / "q")
    assert (found.n_rows, found.query_source and found.query_source.n_rows) == (860, 40)


@pytest.mark.parametrize("codec", ["PQ8", "SQ4"])
def test_a_plan_projects_what_the_run_does(
    codec: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (base, tmp_path / "q", "--codec", codec, "--train", "300", "--chunk-size", "8KiB")
    planned, _ = run(plan, "quantize", *words)
    facts = json.loads(told(capsys, *words, "--json"))
    assert planned["projected_bytes"] == facts["projected_bytes"]
    written = sum(path.stat().st_size for path in (tmp_path / "q").iterdir())
    assert 0 <= written - planned["disk"]["output_bytes"] < 3_000  # headers, and words


def test_a_plan_that_does_not_fit_says_what_would(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = tmp_path / "wide.npy"
    np.save(wide, np.lib.stride_tricks.as_strided(np.zeros(1, np.float16), (70_000, 512), (0, 0)))
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "700")
    facts, table = run(plan, "quantize", wide, tmp_path / "q", "--codec", "PQ32")
    assert not facts["fits"]
    assert any("--train 3" in value for _, value in table)


def test_what_is_wrong_is_one_line(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "q")
    assert cli.main(["quantize", str(base), out, "--codec", "PQ5"]) == 2
    assert "near it do PQ1, PQ2, PQ4, PQ8" in capsys.readouterr().err
    assert cli.main(["quantize", str(base), out, "--codec", "SQ8"]) == 0
    assert "900/900 rows" in capsys.readouterr().err
    assert cli.main(["quantize", str(base), out, "--codec", "SQ8"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["quantize", str(base), str(tmp_path / "no" / "q"), "--codec", "SQ8"]) == 2
    assert "there is no directory" in capsys.readouterr().err
