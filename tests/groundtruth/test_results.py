"""Results as tools write them, and files that are none."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from haag_vq.errors import DataError, SourceNotFoundError, UsageError
from haag_vq.groundtruth.result import GroundTruth
from haag_vq.groundtruth.results import read_results
from tests.groundtruth.cases import METRICS
from tests.support.files import write_ivecs

IDS = np.array([[5, 0, -1], [2, 1, 9]])


def write_ibin(path: Path, ids: NDArray[Any], distances: NDArray[Any] | None = None) -> None:
    body = ids.astype("<i4").tobytes()
    if distances is not None:
        body += distances.astype("<f4").tobytes()
    path.write_bytes(struct.pack("<II", *ids.shape) + body)


def write_hdf5(path: Path, ids: NDArray[Any]) -> None:
    with h5py.File(path, "w") as file:
        file["neighbors"] = ids
        file["distances"] = np.ones((9, 9))  # of no known convention: not looked at


def write_npz(path: Path, ids: NDArray[Any]) -> None:
    np.savez(path, ids=ids)


def write_npy(path: Path, ids: NDArray[Any]) -> None:
    np.save(path, ids)


WRITERS: dict[str, Callable[[Path, NDArray[Any]], object]] = {
    ".npz": write_npz,
    ".npy": write_npy,
    ".ibin": write_ibin,
    ".ivecs": write_ivecs,
    ".hdf5": write_hdf5,
    ".h5": write_hdf5,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_ids_alone(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"result{suffix}"
    for ids in (IDS.astype(np.int32), np.asfortranarray(IDS.astype(np.int32)), IDS[:, :1]):
        WRITERS[suffix](path, ids)
        found = read_results(path)
        assert found.ids.tolist() == ids.tolist()
        assert found.ids.dtype == np.int64
        assert (found.distances, found.metric) == (None, None)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_npz_keeps_the_precision_of_distances(dtype: str, tmp_path: Path) -> None:
    distances = np.arange(6).reshape(2, 3).astype(dtype)
    np.savez(tmp_path / "r.npz", ids=IDS, distances=distances)
    found = read_results(str(tmp_path / "r.npz"))
    assert found.distances.dtype == dtype
    assert found.distances.tolist() == distances.tolist()
    assert found.metric is None


def test_ibin_with_distances(tmp_path: Path) -> None:
    write_ibin(tmp_path / "r.ibin", IDS, np.arange(6).reshape(2, 3) / 7)
    found = read_results(tmp_path / "r.ibin")
    assert found.ids.tolist() == IDS.tolist()
    assert found.distances.dtype == np.float32
    assert found.distances.tolist() == (np.arange(6).reshape(2, 3) / 7).astype("<f4").tolist()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_a_truth_is_a_result(suffix: str, metric: Any, tmp_path: Path) -> None:
    distances = np.array([[4, 9, 16], [0.25, 1, 2.25]])
    if metric != "l2":
        distances = -distances
    path = tmp_path / f"truth{suffix}"
    GroundTruth(IDS, distances, metric, 10, 4).save(path)
    found = read_results(path)
    assert found.metric == metric
    assert found.ids.tolist() == IDS.tolist()
    assert found.distances.tolist() == distances.tolist()
    assert found.distances.dtype == (np.float64 if suffix == ".npz" else np.float32)


@pytest.mark.parametrize("suffix", WRITERS)
def test_truncated_files_are_told(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"r{suffix}"
    WRITERS[suffix](path, IDS.astype(np.int32))
    whole = path.read_bytes()
    for n in (0, 3, 7, 12, len(whole) // 2 + 1, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(DataError, match=f"r{suffix}"):
            read_results(path)


@pytest.mark.parametrize(
    ("suffix", "cut", "message"),
    [
        (".npy", 4, r"promises int32 of shape \(2, 3\), 152 bytes in all; the file has 148"),
        (".ibin", 4, r"promises 2 queries × k=3, .* 56 bytes; the file has 28"),
        (".ivecs", 4, r"3 neighbours; queries of 16 bytes do not fill the file's 28"),
    ],
)
def test_both_sizes_are_told(suffix: str, cut: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / f"r{suffix}"
    WRITERS[suffix](path, IDS.astype(np.int32))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=message):
        read_results(path)


def test_ivecs_of_several_k_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.ivecs"
    path.write_bytes(struct.pack("<8i", 3, 1, 2, 3, 2, 1, 2, 0))
    with pytest.raises(DataError, match="query 0 has 3 neighbours, query 1 has 2: one k"):
        read_results(path)
    path.write_bytes(struct.pack("<2i", -1, 0))
    with pytest.raises(DataError, match="first query has -1 neighbours"):
        read_results(path)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".hdf5"])
def test_ids_that_are_none_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"r{suffix}"
    for ids in (IDS.astype(np.float32), IDS[0], IDS.astype("S2")):
        WRITERS[suffix](path, ids)
        with pytest.raises(DataError, match=rf"r{suffix}: ids are integers of shape"):
            read_results(path)


def test_other_contents_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", neighbors=IDS)
    with pytest.raises(DataError, match="has no array 'ids'; it has neighbors"):
        read_results(tmp_path / "r.npz")
    np.savez(tmp_path / "r.npz", ids=IDS, distances=np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"shape \(2, 3\), distances \(2, 2\)"):
        read_results(tmp_path / "r.npz")
    with open(tmp_path / "r.npz", "wb") as handle:
        np.save(handle, IDS)
    with pytest.raises(DataError, match="it is no whole zip file"):
        read_results(tmp_path / "r.npz")
    np.savez(tmp_path / "r.npz", ids=IDS, attributes=np.array(json.dumps(["l2"])))
    with pytest.raises(DataError, match="not a readable file of results"):
        read_results(tmp_path / "r.npz")
    with h5py.File(tmp_path / "r.hdf5", "w") as file:
        file["ids"] = IDS
    with pytest.raises(DataError, match="has no 'neighbors'; it has ids"):
        read_results(tmp_path / "r.hdf5")


class Bomb:
    """Unpickling it shows."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return (os.mkdir, ("unpickled",))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = np.array([[Bomb()]], dtype=object)
    np.savez("r.npz", ids=bomb)
    np.save("r.npy", bomb)
    Path("lone.npz").write_bytes(pickle.dumps(Bomb()))
    Path("lone.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("r.npz", "r.npy", "lone.npz", "lone.npy"):
        with pytest.raises(DataError, match=f"{name} is no"):
            read_results(name)
    assert not Path("unpickled").exists()


def test_missing_files_and_unknown_suffixes(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"no file .*r\.npy"):
        read_results(tmp_path / "r.npy")
    with pytest.raises(UsageError, match=r"r\.txt: results are read from \.npz, \.npy, \.ibin"):
        read_results(tmp_path / "r.txt")
