"""Quantizing a set: by blocks, whole or not at all, and what its codes are good for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from haag_vq import ground_truth, open_dataset, quantize, recall
from haag_vq.data import VectorDataset
from haag_vq.errors import DataError, InsufficientMemoryError, UsageError, WriteError
from haag_vq.memory import Allowance
from haag_vq.quantizing import encode, run
from haag_vq.quantizing.directory import made_whole
from haag_vq.quantizing.kernels import Encoder
from haag_vq.sources import ArraySource, open_source
from haag_vq.sources.codec import StoredCodec
from haag_vq.sources.quantized import CODEC_NAME, CODES_NAME, open_quantized
from tests.support.counting import CountingSource
from tests.support.files import read_rows, vectors, write_npy, write_parquet

N, DIM = 1_500, 12
X = vectors(N, DIM)
CODECS = ["PQ4", "SQ8", "SQ4"]

pytestmark = pytest.mark.filterwarnings("ignore:.* is trained on .* vectors")


def dataset_of(x: Any = X, **more: Any) -> VectorDataset:
    return VectorDataset(ArraySource(x), "rows", **more)


def left_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_written_opens_as_what_its_codes_stand_for(codec: str, tmp_path: Path) -> None:
    report = quantize(dataset_of(), codec, tmp_path / "q")
    assert left_in(tmp_path) == ["q"]
    assert left_in(tmp_path / "q") == [CODEC_NAME, CODES_NAME]
    kept = StoredCodec.of(tmp_path / "q" / CODEC_NAME)
    codes = np.load(tmp_path / "q" / CODES_NAME)
    assert codes.shape == (N, kept.code_bytes)
    expected = np.empty_like(X)
    kept.codec.decode(codes, expected)
    dataset = open_dataset(tmp_path / "q")
    assert_array_equal(dataset.compute(), expected)
    assert (report.codec, report.n_rows, report.dim) == (codec, N, DIM)
    assert (report.code_bytes, report.n_train, report.n_queries) == (kept.code_bytes, N, 0)
    lost = np.square(X.astype(np.float64) - expected).sum() / np.square(X.astype(np.float64)).sum()
    assert report.relative_error == pytest.approx(lost, rel=1e-12)
    assert kept.about["relative_error"] == report.relative_error
    # A set's spread is 1: a step of SQ8 and SQ4 is some 1/40 and 1/2 of that.
    assert report.relative_error < {"PQ4": 0.3, "SQ8": 1e-4, "SQ4": 0.03}[codec]


@pytest.mark.parametrize("codec", CODECS)
def test_codes_do_not_depend_on_chunks_or_threads(codec: str, tmp_path: Path) -> None:
    quantize(dataset_of(), codec, tmp_path / "q")
    _, kept = open_quantized(tmp_path / "q")
    whole = (tmp_path / "q" / CODES_NAME).read_bytes()
    found = np.empty((N, kept.code_bytes), np.uint8)
    Encoder(kept.codec).encode(X, found)
    assert whole.endswith(found.tobytes())
    for chunk_rows, n_threads in ((1, 3), (37, 2), (N, 1)):
        path = tmp_path / "codes.npy"
        encode.encode(ArraySource(X), kept.codec, path, chunk_rows * DIM * 4, n_threads, False)
        assert path.read_bytes() == whole


def test_a_search_of_codes_is_the_search_of_what_they_stand_for(tmp_path: Path) -> None:
    queries = vectors(9, DIM, seed=1)
    dataset = dataset_of(queries=ArraySource(queries), metric="cosine")
    quantize(dataset, "PQ6", tmp_path / "q")
    quantized = open_dataset(tmp_path / "q")
    assert quantized.metric == "cosine"
    assert_array_equal(quantized.queries, queries)
    found = ground_truth(quantized, k=10, metric="auto", chunk_size="4KiB")
    expected = ground_truth(quantized.compute(), queries, k=10, metric="cosine")
    assert_array_equal(found.ids, expected.ids)
    assert found.distances.tobytes() == expected.distances.tobytes()
    assert found.dataset == f"{tmp_path / 'q'} (PQ6)"
    truth = ground_truth(dataset, k=10, metric="cosine")
    finer = ground_truth(open_quantized_of(dataset, "SQ8", tmp_path), k=10, metric="auto")
    assert 0.3 < recall(found.ids, truth).mean < recall(finer.ids, truth).mean


def open_quantized_of(dataset: VectorDataset, codec: str, home: Path) -> VectorDataset:
    quantize(dataset, codec, home / codec)
    return open_dataset(home / codec)


def test_rows_held_out_are_left_out_and_kept_as_queries(tmp_path: Path) -> None:
    path = write_npy(tmp_path / "x.npy", X)
    dataset = open_dataset(path, queries="holdout:20", limit=900)
    quantize(dataset, "SQ8", tmp_path / "q")
    quantized = open_dataset(tmp_path / "q")
    assert quantized.n_rows == 900
    assert_array_equal(quantized.queries, dataset.queries)
    assert np.abs(quantized.compute() - dataset.compute()).max() < 0.05


def test_each_row_is_read_once_beside_the_sample(tmp_path: Path) -> None:
    source = CountingSource(ArraySource(X), tmp_path / "log")
    dataset = VectorDataset(source, "rows")
    quantize(dataset, "PQ4", tmp_path / "q", n_train=300, seed=5, chunk_size=100 * DIM * 4)
    counts = source.times_read()
    assert len(counts) == N
    assert set(counts) == {1, 2}
    assert_array_equal(
        np.flatnonzero(counts == 2), dataset.sample(300, 5).stored_rows(np.arange(300))
    )


def test_the_sample_is_what_is_trained_on(tmp_path: Path) -> None:
    x = X.copy()
    rows = dataset_of().sample(300, 7).stored_rows(np.arange(300))
    x[np.setdiff1d(np.arange(N), rows)] *= 100
    quantize(dataset_of(x), "SQ8", tmp_path / "q", n_train=300, seed=7)
    arrays = open_quantized(tmp_path / "q")[1].codec.arrays
    assert_array_equal(arrays["lowest"], X[rows].min(axis=0))
    # What lies outside of the sample's range is taken for its ends.
    assert np.abs(open_dataset(tmp_path / "q").compute()).max() <= np.abs(X[rows]).max() * 1.01


@pytest.mark.parametrize(
    ("codec", "told"),
    [
        ("PQ5", r"5 sub-quantizers do not divide 12 .* near it do PQ2, PQ3, PQ4, PQ6"),
        ("PQ0", "is none of SQ8, SQ4 and PQm"),
        ("PQ4x8", "is none of"),
        ("PQ" + "9" * 5_000, "is none of"),
        ("SQ6", "is none of"),
        ("pq4", "is none of"),
        ("OPQ4,PQ4", "is none of"),
    ],
)
def test_a_codec_that_does_not_suit_is_refused(codec: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        quantize(dataset_of(), codec, tmp_path / "q")
    assert left_in(tmp_path) == []


def test_too_few_to_train_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"255 vectors to train PQ4 on: it takes 256 .* use SQ8"):
        quantize(dataset_of(X[:255]), "PQ4", tmp_path / "q")
    with pytest.raises(UsageError, match="100 vectors to train PQ4 on"):
        quantize(dataset_of(), "PQ4", tmp_path / "q", n_train=100)
    quantize(dataset_of(X[:1]), "SQ8", tmp_path / "q")
    assert_array_equal(open_dataset(tmp_path / "q").compute(), X[:1])


def test_few_to_train_on_are_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="SQ8 is trained on 300 vectors: at least 1,000 are usual"):
        quantize(dataset_of(), "SQ8", tmp_path / "q", n_train=300)
    with pytest.warns(UserWarning, match="PQ4 is trained on 400 vectors: at least 9,984"):
        quantize(dataset_of(), "PQ4", tmp_path / "p", n_train=400)


@pytest.mark.parametrize("n_threads", [0, -1])
def test_no_threads_are_refused(n_threads: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"n_threads={n_threads}: at least one"):
        quantize(dataset_of(), "SQ8", tmp_path / "q", n_threads=n_threads)


@pytest.mark.parametrize(
    ("codec", "scale"), [("PQ4", 1e20), ("PQ4", 1e-20), ("SQ8", 2e38), ("SQ4", 2e38)]
)
def test_values_that_a_codec_cannot_keep_are_told(codec: str, scale: float, tmp_path: Path) -> None:
    """FAISS would end the process."""
    x = (X / np.abs(X).max()).astype(np.float32) * np.float32(scale)
    with pytest.raises(DataError, match="Scale the vectors"):
        quantize(dataset_of(x), codec, tmp_path / "q")
    assert left_in(tmp_path) == []


def test_values_far_outside_of_the_sample_are_told(tmp_path: Path) -> None:
    x = X.copy()
    rows = dataset_of().sample(300, 0).stored_rows(np.arange(300))
    x[np.setdiff1d(np.arange(N), rows)[0]] = 3e38
    quantize(dataset_of(x), "SQ8", tmp_path / "q", n_train=300)
    assert np.isfinite(open_dataset(tmp_path / "q").compute()).all()


@pytest.mark.parametrize("middle", [0, 1_000, 100_000])
def test_what_is_far_from_zero_is_trained_as_well(middle: float, tmp_path: Path) -> None:
    x = X + np.float32(middle)
    quantize(dataset_of(x), "PQ4", tmp_path / "q")
    lost = np.square(open_dataset(tmp_path / "q").compute().astype(np.float64) - x).mean()
    assert lost < 0.25 * np.square(X).mean()


def test_bad_queries_are_told_before_the_set_is_read(tmp_path: Path) -> None:
    source = CountingSource(ArraySource(X), tmp_path / "log")
    queries = ArraySource(np.full((3, DIM), np.nan, np.float32))
    with pytest.raises(DataError, match="NaN"):
        quantize(VectorDataset(source, "rows", queries), "SQ8", tmp_path / "q")
    assert left_in(tmp_path) == []


def test_many_queries_are_in_the_projection(tmp_path: Path) -> None:
    queries = ArraySource(vectors(5, DIM))
    plain = quantize(dataset_of(), "SQ8", tmp_path / "q", chunk_size="64MiB")
    both = quantize(dataset_of(queries=queries), "SQ8", tmp_path / "r", chunk_size="64MiB")
    assert both.projection.total_bytes > plain.projection.total_bytes + (100 << 20)


@pytest.mark.parametrize("kind", ["first:5", "sample:5"])
def test_queries_that_are_rows_are_told_of(kind: str, tmp_path: Path) -> None:
    dataset = open_dataset(write_npy(tmp_path / "x.npy", X), queries=kind)
    with pytest.warns(UserWarning, match=rf"rows of the set \({kind}.*Hold them out"):
        quantize(dataset, "SQ8", tmp_path / "q")


def test_a_path_is_a_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert quantize(dataset_of(), "SQ8", "~/a/../q").path == str(tmp_path / "q")
    assert open_dataset("~/q").n_rows == N
    with pytest.raises(UsageError, match="has no column 'emb'"):
        open_dataset("~/q", "emb")


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "q").mkdir()
    for path in (tmp_path / "q", write_npy(tmp_path / "x.npy", X)):
        with pytest.raises(UsageError, match="is there already"):
            quantize(dataset_of(), "SQ8", path)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is there already"):
        quantize(dataset_of(), "SQ8", tmp_path / "link")


@pytest.mark.parametrize("row", [3, N - 1])
def test_bad_rows_leave_nothing(row: int, tmp_path: Path) -> None:
    x = X.copy()
    x[row, 5] = np.nan
    path = write_npy(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match=f"the first is row {row:,}"):
        quantize(open_dataset(path), "SQ8", tmp_path / "q", chunk_size=4_000)
    assert left_in(tmp_path) == ["x.npy"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_ends_it_leaves_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises((KeyboardInterrupt, WriteError)) as caught:
        quantize(dataset_of(), "SQ8", tmp_path / "q")
    assert left_in(tmp_path) == []
    if isinstance(error, OSError):
        assert f"writing {tmp_path / 'q'} failed: No space left" in str(caught.value)


def test_a_directory_that_cannot_be_written_in_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError(30, "Read-only file system")

    with pytest.raises(UsageError, match="there is no directory"):
        quantize(dataset_of(), "SQ8", tmp_path / "nowhere" / "q")
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(WriteError, match="cannot write in .*: Read-only"):
        quantize(dataset_of(), "SQ8", tmp_path / "q")


def test_a_disk_without_room_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=N * DIM - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(WriteError, match="Take a codec of shorter codes"):
        quantize(dataset_of(), "SQ8", tmp_path / "q")
    quantize(dataset_of(), "SQ4", tmp_path / "q")


def test_what_does_not_fit_is_refused_before_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowance = Allowance(300 << 20, "a test")
    monkeypatch.setattr(run, "process_allowance", lambda: allowance)
    source = CountingSource(ArraySource(X), tmp_path / "log")
    with pytest.raises(InsufficientMemoryError, match=r"quantizing needs .* Train on fewer vec"):
        quantize(VectorDataset(source, "rows"), "PQ4", tmp_path / "q")
    assert left_in(tmp_path) == []


def test_what_a_killed_run_left_is_swept_away(tmp_path: Path) -> None:
    left = Path(tempfile.mkdtemp(prefix=".haag-vq-quantizing-", dir=tmp_path))
    child = (
        "import os, sys; from haag_vq.tempdirs import process_space as s; print(s(), os.getpid())"
    )
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    (left / "pid").write_text(done.stdout.strip())
    quantize(dataset_of(), "SQ8", tmp_path / "q")
    assert left_in(tmp_path) == ["q"]


def test_what_is_killed_while_it_is_synced_is_swept_away(tmp_path: Path) -> None:
    child = """
import os, sys
from pathlib import Path
from haag_vq.quantizing import directory
directory.sync = lambda path: os.kill(os.getpid(), 9)
with directory.made_whole(Path(sys.argv[1])) as home:
    (home / "codes.npy").write_bytes(b"codes")
"""
    done = subprocess.run([sys.executable, "-c", child, str(tmp_path / "r")], check=False)
    assert done.returncode == -9
    assert len(left_in(tmp_path)) == 1
    quantize(dataset_of(), "SQ8", tmp_path / "q")
    assert left_in(tmp_path) == ["q"]


def test_what_was_made_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with (
        pytest.raises(WriteError, match="something has that name by now"),
        made_whole(tmp_path / "q"),
    ):
        (tmp_path / "q").mkdir()
    assert left_in(tmp_path) == ["q"]


def test_permissions_are_those_of_other_outputs(tmp_path: Path) -> None:
    quantize(dataset_of(), "SQ8", tmp_path / "q")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "q").stat().st_mode == (tmp_path / "plain").stat().st_mode


PEAK = """
import json, sys
from haag_vq import open_dataset, quantize
from haag_vq.memory import peak_rss_bytes
where, codec, out, n_train, chunk = sys.argv[1:]
report = quantize(open_dataset(where), codec, out, n_train=int(n_train), chunk_size=chunk)
print(json.dumps([peak_rss_bytes(), report.projection.total_bytes]))
"""


@pytest.mark.parametrize(
    ("name", "codec", "n_train", "chunk"),
    [
        ("x.npy", "PQ32", 40_000, "1MiB"),
        ("x.npy", "SQ8", 300, "16MiB"),
        ("x.npy", "SQ4", 1_000, "100MiB"),
        ("x.parquet", "PQ16", 1_000, "8MiB"),
    ],
)
def test_the_peak_is_within_the_projection(
    name: str, codec: str, n_train: int, chunk: str, tmp_path: Path
) -> None:
    x = vectors(40_000, 512, "float32")
    path = tmp_path / name
    write_npy(path, x) if name == "x.npy" else write_parquet(path, x, row_group_size=1_000)
    words = [sys.executable, "-c", PEAK, str(path), codec, str(tmp_path / "q"), str(n_train), chunk]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=200)
    peak, projected = json.loads(done.stdout)
    assert peak <= projected
    assert open_source(tmp_path / "q").n_rows == len(x)
    assert read_rows(open_source(tmp_path / "q"), 39_990).shape == (10, 512)
