"""`haag-vq evaluate`, on files as tools write them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from haag_vq.commands import evaluate
from haag_vq.errors import DataError, SourceNotFoundError, UsageError
from haag_vq.groundtruth.result import GroundTruth
from tests.commands.running import run
from tests.groundtruth import oracle
from tests.support.files import vectors, write_npy

N, DIM, NQ, K = 400, 8, 6, 20


@pytest.fixture(scope="module")
def x() -> NDArray[Any]:
    """Rows of which each is there twice: the k-th place is a tie for every odd k."""
    return np.repeat(vectors(N // 2, DIM), 2, axis=0)


@pytest.fixture(scope="module")
def xq() -> NDArray[Any]:
    return vectors(NQ, DIM, seed=1)


@pytest.fixture
def truth(x: NDArray[Any], xq: NDArray[Any], tmp_path: Path) -> GroundTruth:
    keys, ids = oracle.neighbours(x, xq, K, "l2")
    found = GroundTruth(ids, keys, "l2", N, DIM)
    for suffix in ("npz", "hdf5", "ibin"):
        found.save(tmp_path / f"truth.{suffix}")
    write_npy(tmp_path / "base.npy", x)
    write_npy(tmp_path / "queries.npy", xq)
    return found


def means(facts: Any, name: str = "mean") -> dict[str, float]:
    return {k: told[name] for k, told in facts["recall"].items()}


def test_a_table_of_recalls(truth: GroundTruth, tmp_path: Path) -> None:
    ids = truth.ids.copy()
    ids[0, :5] = -1
    ids[1, 1] = ids[1, 0]
    np.save(tmp_path / "r.npy", ids)
    facts, rows = run(evaluate, tmp_path / "r.npy", tmp_path / "truth.npz", "--k", "20,1,10")
    assert means(facts) == means(facts, "strict_mean")
    assert means(facts) == pytest.approx(
        {"1": 5 / 6, "10": 1 - (0.5 + 0.1) / 6, "20": 1 - (0.25 + 0.05) / 6}
    )
    assert means(facts, "min") == {"1": 0.0, "10": 0.5, "20": 0.75}
    assert (facts["n_queries"], facts["metric"]) == (NQ, "l2")
    assert facts["recall"]["20"]["duplicates"] == 1
    assert facts["recall"]["20"]["padding"] == 5
    assert rows == [
        ("queries", "6, l2"),
        ("recall@1", "0.8333  by ids alone 0.8333, worst query 0.0000"),
        ("recall@10", "0.9000  by ids alone 0.9000, worst query 0.5000"),
        ("recall@20", "0.9500  by ids alone 0.9500, worst query 0.7500"),
        ("note", "1 ids returned twice to one query; they count once"),
        ("note", "5 places without a row (-1)"),
    ]


@pytest.mark.parametrize(
    ("m", "expected"),
    [(20, ["1", "10", "20"]), (10, ["1", "10"]), (9, ["1", "9"]), (1, ["1"])],
)
def test_the_usual_k_that_there_are_and_the_widest(
    m: int, expected: list[str], truth: GroundTruth, tmp_path: Path
) -> None:
    np.save(tmp_path / "r.npy", truth.ids[:, :m])
    facts, _ = run(evaluate, tmp_path / "r.npy", tmp_path / "truth.hdf5")
    assert means(facts) == dict.fromkeys(expected, 1.0)


def ibin_of(path: Path, ids: NDArray[Any], distances: NDArray[Any]) -> Path:
    data = ids.astype("<i4").tobytes() + distances.astype("<f4").tobytes()
    path.write_bytes(struct.pack("<II", *ids.shape) + data)
    return path


@pytest.mark.parametrize("suffix", ["npz", "hdf5", "ibin"])
@pytest.mark.parametrize("claims", [".ibin", ".hdf5", ".npz"])
def test_ties_are_told_by_the_distances_in_both_files(
    claims: str, suffix: str, truth: GroundTruth, x: NDArray[Any], xq: NDArray[Any], tmp_path: Path
) -> None:
    """The result has the twin of the last neighbour, of which a truth of k=5 tells nothing."""
    keys, ids = oracle.neighbours(x, xq, 6, "l2")
    short = tmp_path / f"short.{suffix}"
    GroundTruth(ids[:, :5], keys[:, :5], "l2", N, DIM).save(short)
    twins, distances = np.delete(ids, 4, 1), np.delete(keys, 4, 1)
    path = tmp_path / f"r{claims}"
    if claims == ".ibin":
        ibin_of(path, twins, distances)
    else:
        GroundTruth(twins, distances, "l2", N, DIM).save(path)
    facts, _ = run(evaluate, path, short, "--k", "5", "--metric", "l2")
    assert means(facts, "strict_mean") == {"5": 0.8}
    assert means(facts) == {"5": 1.0}
    # Distances of another metric are not held against the truth's.
    if claims == ".hdf5":
        GroundTruth(twins, -distances, "ip", N, DIM).save(path)
        facts, _ = run(evaluate, path, short, "--k", "5", "--metric", "l2")
        assert means(facts) == {"5": 0.8}
        assert facts["recall"]["5"]["disbelieved_queries"] == 0


def test_float64_is_held_against_float64(truth: GroundTruth, tmp_path: Path) -> None:
    """A row a millionth of a millionth farther than the k-th neighbour is no tie."""
    ids, distances = truth.ids[:, :5].copy(), truth.distances[:, :5].copy()
    GroundTruth(ids, distances, "l2", N, DIM).save(tmp_path / "short.npz")
    ids[:, 4] = [next(row for row in range(N) if row not in truth.ids[q]) for q in range(NQ)]
    for factor, expected in ((1, 1.0), (1 + 1e-12, 0.8)):
        claims = distances * [1, 1, 1, 1, factor]
        np.savez(tmp_path / "r.npz", ids=ids, distances=claims)
        facts, _ = run(evaluate, tmp_path / "r.npz", tmp_path / "short.npz", "--k", "5")
        assert means(facts) == {"5": expected}


def test_distances_that_the_truth_contradicts_are_noted(truth: GroundTruth, tmp_path: Path) -> None:
    ibin_of(tmp_path / "r.ibin", truth.ids, np.sqrt(truth.distances))
    facts, rows = run(evaluate, tmp_path / "r.ibin", tmp_path / "truth.npz")
    assert facts["recall"]["10"]["disbelieved_queries"] == NQ
    assert rows[-1] == (
        "note",
        "6 queries judged by ids alone: the result's distances contradict the truth's",
    )


def test_ties_are_settled_by_the_vectors(
    truth: GroundTruth, x: NDArray[Any], xq: NDArray[Any], tmp_path: Path
) -> None:
    keys, ids = oracle.neighbours(x, xq, 6, "l2")
    GroundTruth(ids[:, :5], keys[:, :5], "l2", N, DIM).save(tmp_path / "short.npz")
    np.save(tmp_path / "r.npy", np.delete(ids, 4, 1))
    argv = [tmp_path / "r.npy", tmp_path / "short.npz", "--k", "5"]
    assert means(run(evaluate, *argv)[0]) == {"5": 0.8}
    argv += ["--base", tmp_path / "base.npy", "--queries", tmp_path / "queries.npy"]
    assert means(run(evaluate, *argv)[0]) == {"5": 1.0}


def test_what_is_refused(truth: GroundTruth, tmp_path: Path) -> None:
    result, ibin = tmp_path / "r.npy", tmp_path / "truth.ibin"
    np.save(result, truth.ids)
    with pytest.raises(UsageError, match=r"recall@21 .*k from 1 to 20"):
        run(evaluate, result, tmp_path / "truth.npz", "--k", "1,21")
    with pytest.raises(DataError, match="does not say its metric"):
        run(evaluate, result, ibin)
    with pytest.raises(DataError, match="not in the order of ip"):
        run(evaluate, result, ibin, "--metric", "ip")
    with pytest.raises(SourceNotFoundError, match=r"no file .*nothing\.npy"):
        run(evaluate, tmp_path / "nothing.npy", ibin, "--metric", "l2")
    with pytest.raises(UsageError, match="--queries goes with --base"):
        run(evaluate, result, tmp_path / "truth.npz", "--queries", "first:6")
    with pytest.raises(UsageError, match="no queries of its own: pass --queries"):
        run(evaluate, result, tmp_path / "truth.npz", "--base", tmp_path / "base.npy")


@pytest.mark.parametrize("k", ["0", "1,,2", "ten", "-1"])
def test_k_is_positive_numbers(
    k: str, truth: GroundTruth, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(evaluate, tmp_path / "r.npy", tmp_path / "truth.npz", f"--k={k}")
    assert "is not a positive whole number" in capsys.readouterr().err
