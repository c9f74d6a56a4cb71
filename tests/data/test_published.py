"""The publisher's neighbours: read, compared with truth of the whole base, and of a prefix."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal

from haag_vq.commands import compare, evaluate
from haag_vq.data import load_published_truth, open_dataset
from haag_vq.errors import DataError, UsageError
from haag_vq.groundtruth import GroundTruth, ground_truth
from tests.commands.running import run
from tests.hub.repos import MSMARCO, PUBLISHED_K, write_msmarco

K = 5


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    write_msmarco(tmp_path)
    return tmp_path / MSMARCO


def truth_of(copy: Path, limit: int | None = None) -> GroundTruth:
    dataset = open_dataset(copy, limit=limit)
    truth: GroundTruth = ground_truth(dataset, k=K, metric="cosine")
    return truth


def test_it_is_the_truth_of_the_whole_base(copy: Path, tmp_path: Path) -> None:
    published = load_published_truth(copy / "queries_parquet/queries.parquet")
    truth = truth_of(copy)
    assert published.ids.shape == (17, PUBLISHED_K)
    assert_array_equal(published.ids[:, :K], truth.ids)
    assert published.queries_sha256 == truth.queries_sha256
    truth.save(tmp_path / "gt.npz")
    named = f"published:{copy}/queries_parquet"
    facts, _ = run(compare, tmp_path / "gt.npz", named)
    assert (facts["agree"], facts["heads_only"], facts["n_queries"]) == (True, False, 17)
    np.save(tmp_path / "result.npy", truth.ids)
    facts, _ = run(evaluate, tmp_path / "result.npy", named, "--base", copy, "--k", "5")
    assert facts["recall"]["5"]["mean"] == 1.0


def test_of_a_prefix_the_heads_are_compared(copy: Path, tmp_path: Path) -> None:
    named = f"published:{copy}/queries_parquet/queries.parquet"
    truth = truth_of(copy, limit=100)
    truth.save(tmp_path / "gt.npz")
    facts, rows = run(compare, tmp_path / "gt.npz", named)
    published = load_published_truth(copy / "queries_parquet")
    n_inside = np.minimum((published.ids < 100).sum(1), K)
    assert facts["agree"]
    assert facts["heads_only"]
    assert facts["n_queries"] == (n_inside > 0).sum()
    note = dict(rows)["note"]
    assert f"only B's {n_inside.sum()} neighbours among these rows were compared" in note
    # One head that is wrong, and the query is named by its own number.
    query = int(np.flatnonzero(n_inside)[-1])
    ids = truth.ids.copy()
    ids[query, 0] = next(row for row in range(100) if row not in truth.ids[query])
    dataclasses.replace(truth, ids=ids).save(tmp_path / "gt.npz")
    words = ("--base", copy, "--limit", "100")
    for more in ((), words):
        facts, _ = run(compare, tmp_path / "gt.npz", named, *more)
        assert not facts["agree"]
        assert [found["query"] for found in facts["differences"]] == [query]
    np.save(tmp_path / "result.npy", truth.ids)
    with pytest.raises(UsageError, match="whole base .up to row .* the base given has 100 rows"):
        run(evaluate, tmp_path / "result.npy", named, *words)


def test_what_is_no_published_truth_is_told(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column top1k_offsets nor top1k_cossim"):
        load_published_truth(copy / "passages_parquet/*.parquet")
    table = pq.read_table(copy / "queries_parquet/queries.parquet")
    ragged = pa.array([[1]] + [[1, 2]] * 16, pa.list_(pa.int64()))
    at = table.schema.get_field_index("top1k_offsets")
    pq.write_table(table.set_column(at, "top1k_offsets", ragged), tmp_path / "q.parquet")
    with pytest.raises(DataError, match=r"top1k_offsets holds lists of \[1, 2\] values"):
        load_published_truth(tmp_path / "q.parquet")
    with pytest.raises(UsageError, match="exchange the two"):
        run(compare, "published:msmarco", "x.npz")
