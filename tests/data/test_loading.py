"""Opening by path, pattern and option: what once opened something else without a word."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from haag_vq import ground_truth, open_dataset
from haag_vq.errors import UsageError
from tests.support.files import vectors, write_hdf5, write_npy, write_parquet


def test_a_pattern_reaches_every_directory_below(tmp_path: Path) -> None:
    for i, place in enumerate((tmp_path, tmp_path / "a", tmp_path / "a" / "b")):
        place.mkdir(exist_ok=True)
        np.save(place / f"x{i}.npy", np.full((10, 2), i, np.float32))
    assert open_dataset(str(tmp_path / "**" / "*.npy")).n_rows == 30


def test_renormalizing_needs_no_fewer_dimensions(tmp_path: Path) -> None:
    rows = np.arange(1, 21, dtype=np.float32).reshape(5, 4)
    np.save(tmp_path / "x.npy", rows)
    dataset = open_dataset(tmp_path / "x.npy", queries="first:2", renormalize=True)
    np.testing.assert_allclose(np.linalg.norm(dataset.compute(), axis=1), 1, rtol=1e-6)
    assert dataset.queries is not None
    np.testing.assert_allclose(np.linalg.norm(dataset.queries, axis=1), 1, rtol=1e-6)


def test_sampled_queries_are_not_the_training_sample_of_the_same_seed() -> None:
    dataset = open_dataset("synthetic:10000x4", queries="sample:200")
    trained_on = dataset.sample(1000).stored_rows(np.arange(1000))
    assert dataset.query_rows is not None
    # A tenth of the set by chance; all of them would be one draw.
    assert np.isin(dataset.query_rows, trained_on).mean() < 0.3


def test_an_unknown_metric_is_refused_where_it_is_said() -> None:
    with pytest.raises(UsageError, match="metric 'euclidean' is none of"):
        open_dataset("synthetic:100x4", metric="euclidean")  # type: ignore[arg-type]


@pytest.mark.parametrize("option", [{"limit": 1.5}, {"dims": 2.0}, {"limit": "5"}])
def test_options_that_count_are_whole_numbers(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be a whole number"):
        open_dataset("synthetic:100x4", **option)


def test_numpy_integers_are_whole_numbers() -> None:
    dataset = open_dataset("synthetic:100x4", limit=np.int64(50), queries="first:3")  # type: ignore[arg-type]
    truth = ground_truth(dataset, k=np.int64(5), chunk_size=np.int64(4096))  # type: ignore[call-overload]
    assert truth.ids.shape == (3, 5)
    with pytest.raises(UsageError, match=r"k=5\.0 must be a whole number"):
        ground_truth(dataset, k=5.0)  # type: ignore[call-overload]


def test_row_groups_stay_whole_in_a_sample(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", vectors(1000, 4), row_group_size=100)
    sample = open_dataset(path).sample(500)
    assert len(sample.source.edges) == 11
    # Warnings are errors here: blocks of whole row groups cut none of them.
    assert sample.vectors.numblocks == (1, 1)


BASE, QUERIES = vectors(40, 6), vectors(5, 6, seed=1)


def annbenchmarks(path: Path, distance: str = "angular") -> Path:
    """A file as ann-benchmarks publishes them."""
    found = {"neighbors": np.zeros((5, 3), np.int32), "distances": np.zeros((5, 3), np.float32)}
    return write_hdf5(path, {"train": BASE, "test": QUERIES, **found}, distance)


@pytest.mark.parametrize(
    ("distance", "metric"),
    [("euclidean", "l2"), ("angular", "cosine"), ("ip", "ip"), ("", None)],
)
def test_a_file_of_ann_benchmarks_has_its_queries_and_metric(
    distance: str, metric: str | None, tmp_path: Path
) -> None:
    dataset = open_dataset(annbenchmarks(tmp_path / "x.hdf5", distance))
    np.testing.assert_array_equal(dataset.compute(), BASE)
    np.testing.assert_array_equal(dataset.queries, QUERIES)
    assert dataset.metric == metric
    assert dataset.query_rows is None
    if metric is not None:
        assert ground_truth(dataset, k=3, metric="auto").metric == metric


def test_what_a_file_of_ann_benchmarks_has_gives_way_to_what_is_asked(tmp_path: Path) -> None:
    path = annbenchmarks(tmp_path / "x.hdf5")
    assert open_dataset(path, metric="ip").metric == "ip"
    dataset = open_dataset(path, queries="first:2", limit=30)
    assert dataset.n_rows == 30
    np.testing.assert_array_equal(dataset.queries, BASE[:2])
    other = open_dataset(path, column="test", query_column="train")
    np.testing.assert_array_equal(other.compute(), QUERIES)
    np.testing.assert_array_equal(other.queries, BASE)


def test_a_metric_that_is_none_of_ours_is_told(tmp_path: Path) -> None:
    path = annbenchmarks(tmp_path / "x.hdf5", "hamming")
    with pytest.warns(UserWarning, match="names the metric 'hamming', which is none of euclidean"):
        assert open_dataset(path).metric is None


@pytest.mark.parametrize("named", [np.bytes_("angular"), ["angular"], np.array([b"angular"])])
def test_a_metric_is_read_however_it_was_written(named: Any, tmp_path: Path) -> None:
    path = annbenchmarks(tmp_path / "x.hdf5", "")
    with h5py.File(path, "a") as file:
        file.attrs["distance"] = named
    assert open_dataset(path).metric == "cosine"


def test_a_pattern_of_one_file_is_that_file(tmp_path: Path) -> None:
    annbenchmarks(tmp_path / "x-angular.hdf5")
    dataset = open_dataset(str(tmp_path / "x-*.hdf5"))
    assert dataset.metric == "cosine"
    np.testing.assert_array_equal(dataset.queries, QUERIES)
    base = write_npy(tmp_path / "base.npy", BASE)
    queries = open_dataset(base, queries=str(tmp_path / "x-*.hdf5")).queries
    np.testing.assert_array_equal(queries, QUERIES)


def test_queries_in_an_hdf5_file_are_its_own(tmp_path: Path) -> None:
    path = annbenchmarks(tmp_path / "x.hdf5")
    base = write_npy(tmp_path / "base.npy", BASE)
    np.testing.assert_array_equal(open_dataset(base, queries=path).queries, QUERIES)
    named = open_dataset(base, queries=path, query_column="train")
    np.testing.assert_array_equal(named.queries, BASE)


def test_an_hdf5_file_that_begins_with_other_bytes_is_one(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "x.h5", {"train": BASE, "test": QUERIES}, "ip", 512)
    dataset = open_dataset(path)
    assert dataset.metric == "ip"
    np.testing.assert_array_equal(dataset.queries, QUERIES)


def test_an_hdf5_file_without_queries_has_none(tmp_path: Path) -> None:
    assert open_dataset(write_hdf5(tmp_path / "x.h5", {"train": BASE})).queries is None
