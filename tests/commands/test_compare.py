"""`haag-vq compare`: what it says first, and how it ends."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haag_vq import ground_truth, open_dataset, score_ids
from haag_vq.commands import compare, evaluate
from haag_vq.errors import DataError, InsufficientMemoryError, UsageError
from haag_vq.groundtruth import scored
from haag_vq.groundtruth.result import GroundTruth
from haag_vq.memory import Allowance
from tests.commands.running import run
from tests.groundtruth import oracle
from tests.support.files import vectors, write_hdf5, write_ivecs, write_npy

N, DIM, NQ, K = 300, 8, 7, 5


@pytest.fixture
def truth(tmp_path: Path) -> GroundTruth:
    """Saved as a.npz, with its base of rows that are there twice, and its queries."""
    x, xq = np.repeat(vectors(N // 2, DIM), 2, axis=0), vectors(NQ, DIM, seed=1)
    keys, ids = oracle.neighbours(x, xq, K, "l2")
    found = GroundTruth(ids, keys, "l2", N, DIM)
    found.save(tmp_path / "a.npz")
    write_npy(tmp_path / "base.npy", x)
    write_npy(tmp_path / "queries.npy", xq)
    return found


def against(truth: GroundTruth, tmp_path: Path, ids: Any, *more: object) -> tuple[Any, Any, int]:
    """Compare with a truth of other ids: facts, rows, exit code."""
    dataclasses.replace(truth, ids=ids).save(tmp_path / "b.npz")
    facts, rows = run(compare, tmp_path / "a.npz", tmp_path / "b.npz", *more)
    return facts, rows, compare.exit_code(facts)


def test_agreement(truth: GroundTruth, tmp_path: Path) -> None:
    facts, rows, code = against(truth, tmp_path, truth.ids)
    assert (facts["agree"], facts["verdict"], facts["n_exact"], code) == (True, "agree", NQ, 0)
    assert rows[0] == ("verdict", "agree")
    assert rows[1] == ("compared", "7 queries, k=5, l2, by the distances in the files")


def test_ties_are_agreement(truth: GroundTruth, tmp_path: Path) -> None:
    ids = truth.ids.copy()
    ids[2, [0, 1]] = ids[2, [1, 0]]
    facts, rows, code = against(truth, tmp_path, ids)
    assert (facts["agree"], facts["n_ties"], facts["n_reordered"], code) == (True, 1, 1, 0)
    assert rows[0] == ("verdict", "agree up to ties: 1 of 7 queries")
    assert rows[-1][1].startswith("query 2, rank 1: A has row ")


def test_disagreement_is_a_finding(truth: GroundTruth, tmp_path: Path) -> None:
    ids = truth.ids.copy()
    ids[3, 4] = other = next(row for row in range(N) if row // 2 not in ids[3] // 2)
    vectors = ("--base", tmp_path / "base.npy", "--queries", tmp_path / "queries.npy")
    facts, rows, code = against(truth, tmp_path, ids, *vectors)
    assert (facts["agree"], facts["n_errors"], facts["n_wrong_b"], code) == (False, 1, 1, 1)
    assert rows[0] == ("verdict", "differ: 1 query in error, of 7")
    assert facts["by_vectors"]
    (difference,) = facts["differences"]
    assert (difference["query"], difference["rank"], difference["b_id"]) == (3, 4, other)
    assert difference["wrong"] == "B"


def test_the_undecided_do_not_agree(truth: GroundTruth, tmp_path: Path) -> None:
    """The twins' second comes first in a file whose distances are rounded."""
    ids = truth.ids.copy()
    ids[:, 4] += 1 - 2 * (ids[:, 4] % 2)
    dataclasses.replace(truth, ids=ids).save(tmp_path / "b.ibin")
    argv = (tmp_path / "a.npz", tmp_path / "b.ibin", "--metric", "l2")
    facts, rows = run(compare, *argv)
    assert facts["n_undecided"] > 0
    assert compare.exit_code(facts) == 1
    assert rows[0][1].startswith("undecided: ")
    assert rows[0][1].endswith("give the vectors")
    vectors = ("--base", tmp_path / "base.npy", "--queries", tmp_path / "queries.npy")
    facts, _ = run(compare, *argv, *vectors)
    assert (facts["n_ties"], compare.exit_code(facts)) == (NQ, 0)


def test_what_is_refused(truth: GroundTruth, tmp_path: Path) -> None:
    dataclasses.replace(truth, dim=9).save(tmp_path / "b.npz")
    a, b = tmp_path / "a.npz", tmp_path / "b.npz"
    with pytest.raises(UsageError, match="do not belong together: dimension: 8 and 9"):
        run(compare, a, b)
    with pytest.raises(DataError, match="holds l2 distances, metric='ip' was asked for"):
        run(compare, a, a, "--metric", "ip")
    with pytest.raises(UsageError, match="pass --queries as it was given to ground-truth"):
        run(compare, a, a, "--base", tmp_path / "base.npy")
    with pytest.raises(UsageError, match="--queries goes with --base"):
        run(compare, a, a, "--queries", "first:7")


@pytest.fixture
def published(truth: GroundTruth, tmp_path: Path) -> tuple[object, ...]:
    """Ids alone, as TEXMEX publishes them, in some order; and the words that name the vectors."""
    # The twins the other way round: a tie, in an order of its own.
    write_ivecs(tmp_path / "b.ivecs", truth.ids[:, [1, 0, 3, 2, 4]])
    return ("--base", tmp_path / "base.npy", "--queries", tmp_path / "queries.npy")


def test_ids_alone_are_scored_by_the_vectors(
    truth: GroundTruth, published: tuple[object, ...], tmp_path: Path
) -> None:
    a, b = tmp_path / "a.npz", tmp_path / "b.ivecs"
    facts, _ = run(compare, a, b, "--metric", "l2", *published)
    assert (facts["agree"], facts["n_exact"], facts["largest_gap"]) == (True, NQ, 0)
    ids = truth.ids.copy()
    _, every = oracle.neighbours(*rows_of(tmp_path), N, "l2")
    ids[3, 4] = every[3, 6]
    write_ivecs(b, ids)
    facts, _ = run(compare, a, b, "--metric", "l2", *published)
    assert (facts["n_errors"], facts["n_wrong_b"], compare.exit_code(facts)) == (1, 1, 1)
    facts, _ = run(evaluate, b, a, "--k", "5")
    assert facts["recall"]["5"]["mean"] == (NQ * K - 1) / (NQ * K)
    write_ivecs(b, truth.ids)
    facts, _ = run(evaluate, a, b, "--metric", "l2", *published)
    assert facts["recall"]["1"]["mean"] == 1


def test_ids_alone_need_vectors_and_a_metric(
    published: tuple[object, ...], truth: GroundTruth, tmp_path: Path
) -> None:
    a, b = tmp_path / "a.npz", tmp_path / "b.ivecs"
    for fewer in ((), ("--metric", "l2")):
        with pytest.raises(UsageError, match=r"b\.ivecs holds ids alone, .* give --base and --q"):
            run(compare, a, b, *fewer)
    with pytest.raises(UsageError, match=r"b\.ivecs does not say its metric.* give --metric"):
        run(compare, a, b, *published)
    words = ("--metric", "l2", *published)
    write_ivecs(b, truth.ids[:-1])
    with pytest.raises(UsageError, match=rf"{b} has {NQ - 1} queries × {K} ids, {NQ} queries"):
        run(compare, a, b, *words)
    write_ivecs(b, np.where(truth.ids == truth.ids[2, 3], -1, truth.ids))
    with pytest.raises(DataError, match=rf"{b} has no neighbour at rank \d of query \d \(id -1"):
        run(compare, a, b, *words)
    write_ivecs(b, np.full((NQ, K), N))
    with pytest.raises(DataError, match=f"{b} has id {N} at rank 1 of query 0"):
        run(compare, a, b, *words)
    write_ivecs(b, truth.ids[:, ::-1])
    with pytest.raises(DataError, match=r"b\.ivecs is not in the order of l2: row \d+, at rank"):
        run(compare, a, b, *words)


def test_what_ids_are_scored_by_is_kept(truth: GroundTruth, tmp_path: Path) -> None:
    dataset = open_dataset(tmp_path / "base.npy", queries=tmp_path / "queries.npy")
    found, exact = score_ids(truth.ids, "l2", dataset), ground_truth(dataset, k=K)
    assert found.queries_sha256 == exact.queries_sha256
    assert found.base_fingerprint == exact.base_fingerprint
    assert found.distances.tobytes() == exact.distances.tobytes()
    x, xq = rows_of(tmp_path)
    with pytest.raises(UsageError, match="0 ids"):
        score_ids(truth.ids[:, :0], "l2", x, xq)
    with pytest.raises(UsageError, match="metric 'auto': ids are scored by"):
        score_ids(truth.ids, "auto", x, xq)  # type: ignore[arg-type]
    xq[2] = 0
    with pytest.raises(DataError, match="query 2 is zero"):
        score_ids(truth.ids, "cosine", x, xq)


def test_ids_that_would_not_fit_are_refused(
    truth: GroundTruth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scored, "process_allowance", lambda: Allowance(100 << 20, "a test"))
    with pytest.raises(InsufficientMemoryError, match="scoring 35 ids needs"):
        score_ids(truth.ids, "l2", *rows_of(tmp_path))


def rows_of(home: Path) -> tuple[Any, Any]:
    return np.load(home / "base.npy"), np.load(home / "queries.npy")


def test_a_file_of_ann_benchmarks_is_held_against_our_own(tmp_path: Path) -> None:
    x, xq = vectors(N, DIM), vectors(NQ, DIM, seed=1)
    keys, ids = oracle.neighbours(x, xq, K, "l2")
    found = {"neighbors": ids.astype(np.int32), "distances": np.sqrt(keys).astype(np.float32)}
    theirs = write_hdf5(tmp_path / "their.hdf5", found | {"train": x, "test": xq}, "euclidean")
    out = tmp_path / "our.hdf5"
    ground_truth(open_dataset(theirs), k=K, metric="auto").save(out)
    facts, _ = run(compare, out, theirs, "--base", theirs)
    assert (facts["agree"], facts["n_exact"], facts["by_vectors"]) == (True, NQ, True)
