"""How `haag-vq evaluate` and `haag-vq compare` end: what is printed where, and the exit code."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haag_vq import cli, compare, recall
from haag_vq import ground_truth as search
from haag_vq.commands import ground_truth
from haag_vq.errors import UsageError, WriteError
from haag_vq.groundtruth.graph import spilled
from haag_vq.groundtruth.result import GroundTruth


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.npz, b.npz of another row, c.npz of another dimension, and a result r.npy."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main() replaces it
    monkeypatch.chdir(tmp_path)
    truth = GroundTruth(np.array([[1, 2]]), np.array([[1.0, 2.0]]), "l2", 9, 4)
    truth.save("a.npz")
    dataclasses.replace(truth, ids=np.array([[1, 3]]), distances=np.array([[1.0, 3.0]])).save(
        "b.npz"
    )
    dataclasses.replace(truth, dim=5).save("c.npz")
    dataclasses.replace(truth, excluded_self=True).save("e.npz")
    np.save("r.npy", truth.ids[:, ::-1])
    return tmp_path


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        ("compare a.npz a.npz", 0, "verdict              agree\n", ""),
        ("compare a.npz b.npz", 1, "verdict              differ: 1 query in error, of 1\n", ""),
        ("compare a.npz c.npz", 2, "", "haag-vq: A and B do not belong together: dimension"),
        ("compare a.npz d.npz", 1, "", "haag-vq: no file d.npz"),
        ("compare a.npz nothing", 1, "", "haag-vq: no file nothing"),
        ("compare a.npz b.npz --limit 3", 2, "", "haag-vq: --limit goes with --base"),
        ("evaluate r.npy a.npz --query-column x", 2, "", "haag-vq: --query-column goes with"),
        ("evaluate r.npy a.npz --k 1,2", 0, "queries   1, l2\nrecall@1  0.0000", ""),
        ("evaluate r.npy e.npz", 0, "queries   1, l2, their own rows left out\n", ""),
        ("evaluate r.npy a.npz --k 3", 2, "", "haag-vq: recall@3 cannot be had from a result"),
        ("evaluate a.npz", 2, "", "haag-vq: the following arguments are required: TRUTH"),
    ],
)
def test_how_it_ends(
    line: str, code: int, out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found = cli.main(line.split())
    except SystemExit as ended:
        found = int(ended.code or 0)
    told = capsys.readouterr()
    assert found == code
    assert told.out.startswith(out)
    assert bool(told.out) == bool(out)
    assert told.err.startswith(err)
    assert bool(told.err) == bool(err)
    assert told.err.count("\n") == bool(err)


@pytest.mark.usefixtures("files")
def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "a.npz", "b.npz", "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["agree"], facts["n_errors"], facts["n_wrong_b"]) == (False, 1, 1)
    assert cli.main(["evaluate", "r.npy", "a.npz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recall"]["1"]["mean"] == 0.0


@pytest.mark.usefixtures("files")
def test_what_is_asked_twice_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "r.npy", "a.npz", "--k", "2,1,2"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "recall@1",
        "recall@2",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "the workers are gone, no output was written."),
        (["--checkpoint", "kept"], "what is finished is in kept: the same command goes on"),
    ],
)
def test_an_interrupt_says_what_is_left(
    options: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ground_truth, "connect_workers", interrupt)
    line = ["ground-truth", "synthetic:90x4", "--queries", "first:2", "--k", "3", "--out", "t.npz"]
    assert cli.main([*line, *options]) == 130
    assert capsys.readouterr().err.startswith(f"haag-vq: interrupted; {said}")


@pytest.mark.parametrize("wrong", [None, "truth.npz", 5])
def test_a_truth_that_is_none(wrong: Any) -> None:
    truth = GroundTruth(np.array([[1, 2]]), np.array([[1.0, 2.0]]), "l2", 9, 4)
    with pytest.raises(UsageError, match="truth is a .*, not ground truth"):
        recall(truth.ids, wrong)
    with pytest.raises(UsageError, match="b is a .*, not ground truth"):
        compare(truth, wrong)


@pytest.mark.parametrize("identity", ["", " ", 5])
def test_an_identity_that_is_none(identity: Any) -> None:
    with pytest.raises(UsageError, match="identity="):
        search(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32), k=1, identity=identity)


def test_a_run_directory_that_is_none(tmp_path: Path) -> None:
    many = np.ones((70_000, 4), np.float32)
    with (
        pytest.raises(WriteError, match="run_dir .*nowhere: No such file"),
        spilled(many, tmp_path / "nowhere"),
    ):
        pass
