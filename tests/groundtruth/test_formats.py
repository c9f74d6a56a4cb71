"""Each format by its field's own convention, read back raw; written whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from haag_vq.atomic import written_whole
from haag_vq.errors import DataError, SourceNotFoundError, UsageError, WriteError
from haag_vq.groundtruth import Findings, GroundTruth, check_suffix, load_ground_truth
from haag_vq.sources import Metric
from tests.groundtruth import oracle
from tests.groundtruth.cases import METRICS, pair_of

SUFFIXES = (".hdf5", ".h5", ".npz", ".ibin")


def truth_of(metric: Metric, first_id: int = 0) -> GroundTruth:
    x, xq = pair_of("normal", 60, 7, 12, 1, metric)
    keys, ids = oracle.neighbours(x, xq, 5, metric)
    distances = keys if metric == "l2" else 0.0 - keys
    return GroundTruth(ids + first_id, distances, metric, 60, 12, "base's", "queries'")


def save(truth: GroundTruth, path: Path) -> Path:
    truth.save(path)
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    return path


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".HDF5"])
def test_round_trip(suffix: str, metric: Metric, tmp_path: Path) -> None:
    truth = truth_of(metric)
    path = save(truth, tmp_path / f"truth{suffix}")
    found = load_ground_truth(path, metric)
    assert_array_equal(found.ids, truth.ids)
    assert [a.dtype.name for a in (found.ids, found.distances)] == ["int64", "float64"]
    assert found.metric == metric
    if suffix == ".npz":
        assert found.distances.tobytes() == truth.distances.tobytes()
    else:
        # A root, or 1 − cos, is rounded to float32 in its own scale.
        assert_allclose(found.distances, truth.distances, rtol=2e-7, atol=2e-7)
    if suffix != ".ibin":
        assert (found.n_rows, found.dim) == (60, 12)
        assert (found.base_fingerprint, found.queries_sha256) == ("base's", "queries'")
        assert load_ground_truth(str(path)).metric == metric


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_where_the_queries_were_is_kept(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"truth{suffix}"
    for rows in (np.array([5, 2**40, 7]), None):
        dataclasses.replace(truth_of("l2"), query_rows=rows).save(path)
        assert_array_equal(load_ground_truth(path).query_rows, rows)


def test_hdf5_is_laid_out_as_ann_benchmarks_does(tmp_path: Path) -> None:
    names = {"l2": "euclidean", "cosine": "angular", "ip": "ip"}
    for metric in METRICS:
        truth = truth_of(metric)
        d = truth.distances
        with h5py.File(save(truth, tmp_path / "truth.hdf5")) as file:
            assert set(file) == {"neighbors", "distances"}
            assert file["neighbors"].dtype == np.int32
            assert file["distances"].dtype == np.float32
            assert_array_equal(file["neighbors"][()], truth.ids)
            stored = file["distances"][()]
            assert file.attrs["distance"] == names[metric]
            assert file.attrs["point_type"] == "float"
            assert file.attrs["type"] == "dense"
            assert file.attrs["dimension"] == 12
        expected = {"l2": np.sqrt(d), "cosine": 1 - d, "ip": -d}[metric]
        assert_array_equal(stored, expected.astype(np.float32))
        assert np.all(np.diff(stored, axis=1) >= 0)


def test_hdf5_keeps_ids_that_int32_cannot(tmp_path: Path) -> None:
    for first_id, dtype in ((2**31 - 60, np.int32), (2**31, np.int64)):
        truth = truth_of("l2", first_id)
        path = save(truth, tmp_path / "truth.hdf5")
        with h5py.File(path) as file:
            assert file["neighbors"].dtype == dtype
        assert_array_equal(load_ground_truth(path).ids, truth.ids)


def test_hdf5_of_other_tools(tmp_path: Path) -> None:
    path = tmp_path / "sift.hdf5"
    with h5py.File(path, "w") as file:
        file["train"] = np.zeros((10, 3), np.float32)
        file["neighbors"] = np.array([[1, 2], [3, 4]], np.int32)
        file["distances"] = np.array([[1, 2], [3, 4]], np.float32)
        file.attrs["distance"] = "euclidean"
    found = load_ground_truth(path)
    assert (found.metric, found.n_rows, found.dim) == ("l2", 0, 0)
    assert found.distances.tolist() == [[1, 4], [9, 16]]
    for name in (np.bytes_(b"angular"), "angular"):
        with h5py.File(path, "a") as file:
            file.attrs["distance"] = name
        assert load_ground_truth(path).distances.tolist() == [[0, -1], [-2, -3]]


@pytest.mark.parametrize("metric", METRICS)
def test_ibin_is_laid_out_as_big_ann_does(metric: Metric, tmp_path: Path) -> None:
    truth = truth_of(metric)
    data = save(truth, tmp_path / "truth.ibin").read_bytes()
    assert len(data) == 8 + 8 * 35
    assert struct.unpack("<II", data[:8]) == (7, 5)
    assert struct.unpack("<35i", data[8:148]) == tuple(truth.ids.ravel().tolist())
    stored = np.array(struct.unpack("<35f", data[148:])).reshape(7, 5)
    assert_array_equal(stored, truth.distances.astype(np.float32))
    steps = np.diff(stored, axis=1)
    assert np.all(steps >= 0) if metric == "l2" else np.all(steps <= 0)


def test_ibin_refuses_ids_beyond_int32_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "truth.ibin"
    with pytest.raises(UsageError, match=r"id 2,147,483,\d+ does not fit the int32"):
        truth_of("l2", 2**31 - 1).save(path)
    assert list(tmp_path.iterdir()) == []
    save(truth_of("l2", 2**31 - 60), path)


def test_npz_holds_what_is_in_memory(tmp_path: Path) -> None:
    truth = truth_of("cosine")
    with np.load(save(truth, tmp_path / "truth.npz"), allow_pickle=False) as file:
        assert_array_equal(file["ids"], truth.ids)
        assert file["distances"].tobytes() == truth.distances.tobytes()
        assert json.loads(str(file["attributes"]))["metric"] == "cosine"


def test_npz_of_other_tools(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, ids=np.array([[1, 2]], np.int32), distances=np.array([[3, 4]], np.float32))
    assert load_ground_truth(path, "ip").distances.tolist() == [[3, 4]]
    with pytest.raises(DataError, match="does not say its metric: pass metric="):
        load_ground_truth(path)


class Bomb:
    """Unpickling it shows."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return (os.mkdir, ("unpickled",))


def test_npz_is_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = np.array([[Bomb()]], dtype=object)
    np.savez("x.npz", ids=bomb, distances=np.ones((1, 1)))
    with pytest.raises(DataError, match="x.npz is not a readable ground-truth file"):
        load_ground_truth("x.npz", "l2")
    Path("y.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match="y.npz is not a readable ground-truth file"):
        load_ground_truth("y.npz", "l2")
    assert not Path("unpickled").exists()


def test_another_metric_than_the_files_is_refused(tmp_path: Path) -> None:
    path = save(truth_of("cosine"), tmp_path / "truth.hdf5")
    with pytest.raises(DataError, match="holds cosine distances, metric='l2' was asked for"):
        load_ground_truth(path, "l2")
    path = tmp_path / "truth.ibin"
    truth_of("cosine").save(path)
    with pytest.raises(DataError, match="does not say its metric"):
        load_ground_truth(path)


@pytest.mark.parametrize("name", ["truth", "truth.txt", "truth.hdf5.gz"])
def test_unknown_suffixes_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    told = r"kept as .hdf5, .h5, .npz, .ibin"
    for refused in (truth_of("l2").save, check_suffix):
        with pytest.raises(UsageError, match=told):
            refused(path)
    assert list(tmp_path.iterdir()) == []
    # What is not there is told as that, whatever it is called.
    with pytest.raises(SourceNotFoundError, match="no file"):
        load_ground_truth(path)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match=told):
        load_ground_truth(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_files_are_named(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=f"no file .*nothing{suffix}"):
        load_ground_truth(tmp_path / f"nothing{suffix}", "l2")
    (tmp_path / f"directory{suffix}").mkdir()
    with pytest.raises(SourceNotFoundError):
        load_ground_truth(tmp_path / f"directory{suffix}", "l2")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_files_are_refused_at_any_length(suffix: str, tmp_path: Path) -> None:
    path = save(truth_of("l2"), tmp_path / f"truth{suffix}")
    whole = path.read_bytes()
    lengths = {0, 1, 4, 7, 8, 9, 40, len(whole) // 2, len(whole) - 30, len(whole) - 1}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"truth{suffix}"):
            load_ground_truth(path, "l2")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_content_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"truth{suffix}"
    for content in (b"not a ground truth\n" * 10, b"PK\x03\x04" + bytes(100), bytes(100)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"truth{suffix}"):
            load_ground_truth(path, "l2")


def test_an_npy_by_the_name_of_an_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "truth.npz"
    with open(path, "wb") as file:
        np.save(file, np.ones((3, 3)))
    with pytest.raises(DataError, match=r"truth.npz"):
        load_ground_truth(path, "l2")


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_arrays_that_do_not_match_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"truth{suffix}"
    names = ("neighbors", "distances") if suffix == ".hdf5" else ("ids", "distances")
    for shapes in (((2, 3), (2, 4)), ((6,), (6,)), ((2, 3), None)):
        arrays = {
            name: np.ones(shape, np.int32)
            for name, shape in zip(names, shapes, strict=True)
            if shape is not None
        }
        if suffix == ".npz":
            np.savez(path, **arrays)  # type: ignore[arg-type, unused-ignore]
        else:
            with h5py.File(path, "w") as file:
                file.attrs["distance"] = "euclidean"
                for name, array in arrays.items():
                    file[name] = array
        with pytest.raises(DataError, match=rf"truth{suffix}"):
            load_ground_truth(path, "l2")


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_ids_that_are_no_whole_numbers_are_refused(suffix: str, tmp_path: Path) -> None:
    """Not cut off: 16,777,217 is 16,777,216 in float32, another row."""
    path = tmp_path / f"t{suffix}"
    ids, distances = np.array([[3, 2**24 + 1]], np.float32), np.array([[0.5, 1.0]], np.float32)
    if suffix == ".npz":
        np.savez(path, ids=ids, distances=distances)
    else:
        with h5py.File(path, "w") as file:
            file.attrs["distance"] = "euclidean"
            file["neighbors"], file["distances"] = ids, distances
    with pytest.raises(DataError, match=r"its ids are float32.*int64"):
        load_ground_truth(path, "l2")


def test_hdf5_of_an_unknown_distance_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "truth.hdf5"
    with h5py.File(path, "w") as file:
        file["neighbors"] = file["distances"] = np.ones((1, 1), np.int32)
        file.attrs["distance"] = "jaccard"
    with pytest.raises(DataError, match="'distance' is 'jaccard'; euclidean, angular, ip"):
        load_ground_truth(path)


# --- whole or not at all ---------------------------------------------------------------------


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    with written_whole(tmp_path / "ours") as part:
        part.write_text("x")
        assert part.parent == tmp_path
        assert not (tmp_path / "ours").exists()
    assert (tmp_path / "ours").stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError, SystemExit])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failure_leaves_what_was_there(
    error: type[BaseException], old: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    before = sorted(tmp_path.iterdir())

    def write_half() -> None:
        with written_whole(path) as part:
            part.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert sorted(tmp_path.iterdir()) == before
    if old is not None:
        assert path.read_bytes() == old


def _disk_full(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "os.chmod"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_what_was_there(
    suffix: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(truth_of("l2"), tmp_path / f"truth{suffix}")
    old = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(call, _disk_full)
        with pytest.raises(WriteError, match=rf"truth{suffix} failed: No space left on device"):
            truth_of("ip").save(path)
        with pytest.raises(WriteError):
            truth_of("ip").save(tmp_path / f"new{suffix}")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == old


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_size_limit_leaves_nothing(suffix: str, tmp_path: Path) -> None:
    """The kernel itself refuses the bytes, as it does on a full disk."""
    truth = truth_of("l2")
    large = GroundTruth(
        np.tile(truth.ids, (500, 1)), np.tile(truth.distances, (500, 1)), "l2", 60, 12
    )
    status = _in_a_child(lambda: _save_limited(large, tmp_path / f"truth{suffix}"))
    assert status == 0
    assert list(tmp_path.iterdir()) == []


def _save_limited(truth: GroundTruth, path: Path) -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    with pytest.raises(WriteError, match="failed"):
        truth.save(path)


def _in_a_child(work: Callable[[], None]) -> int:
    """Run in a forked process: a resource limit cannot be lifted again."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"cannot write in .*absent: No such file"):
        truth_of("l2").save(tmp_path / "absent" / "truth.npz")


def test_a_directory_of_the_files_name_is_left(tmp_path: Path) -> None:
    (tmp_path / "truth.npz" / "inner").mkdir(parents=True)
    with pytest.raises(WriteError, match="directory"):
        truth_of("l2").save(tmp_path / "truth.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["truth.npz"]


def test_errors_of_other_files_are_not_called_ours(tmp_path: Path) -> None:
    """Reading an input while the output is written: the input's error is about the input."""
    with pytest.raises(FileNotFoundError, match="input"), written_whole(tmp_path / "output"):
        (tmp_path / "input").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_only_the_last_of_two_writers_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with written_whole(path) as first, written_whole(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ([1], "no JSON object"),
        ({"n_rows": "abc"}, "'n_rows' is 'abc'; int is needed"),
        ({"dim": 1.5}, "'dim'"),
        ({"software": 3}, "'software'"),
        ({"excluded_self": "yes"}, "'excluded_self'"),
        ({"findings": {"n_tied": 3}}, "findings are not readable"),
        ({"findings": {"n_tied": "three"}}, "findings are not readable"),
        ({"metric": "hamming"}, "'hamming'; l2, cosine, ip are known"),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_attributes_that_are_none_are_told(
    attributes: Any, told: str, suffix: str, tmp_path: Path
) -> None:
    path, truth = tmp_path / f"t{suffix}", truth_of("l2")
    if isinstance(attributes, dict):
        attributes = {"metric": "l2", **attributes}
    if suffix == ".npz":
        np.savez(path, ids=truth.ids, distances=truth.distances, attributes=json.dumps(attributes))
    else:
        truth.save(path)
        with h5py.File(path, "a") as file:
            file.attrs["haag_vq"] = json.dumps(attributes)
    with pytest.raises(DataError, match=re.escape(told)) as caught:
        load_ground_truth(path)
    assert str(path) in str(caught.value)


def test_what_a_later_version_has_found_besides_does_no_harm(tmp_path: Path) -> None:
    truth = truth_of("l2")
    found = {**dataclasses.asdict(Findings(0.5, 1, 2, 3, 4)), "n_novelties": 5}
    attributes = json.dumps({"metric": "l2", "findings": found, "novelty": [1]})
    path = tmp_path / "t.npz"
    np.savez(path, ids=truth.ids, distances=truth.distances, attributes=attributes)
    assert load_ground_truth(path).findings == Findings(0.5, 1, 2, 3, 4)


@pytest.mark.parametrize("shape", [(0, 5), (7, 0)])
@pytest.mark.parametrize("suffix", [".npz", ".ibin"])
def test_a_truth_of_nothing_is_refused(shape: tuple[int, int], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    if suffix == ".npz":
        np.savez(path, ids=np.zeros(shape, np.int64), distances=np.zeros(shape))
    else:
        path.write_bytes(struct.pack("<II", *shape))
    with pytest.raises(DataError, match="no truth of anything"):
        load_ground_truth(path, "l2")


@pytest.mark.parametrize("n", [0, 7])
def test_an_ibin_without_a_whole_header_is_told(n: int, tmp_path: Path) -> None:
    path = tmp_path / "t.ibin"
    path.write_bytes(bytes(n))
    with pytest.raises(DataError, match=f"truncated: .* 8 bytes, the file has {n}"):
        load_ground_truth(path, "l2")
