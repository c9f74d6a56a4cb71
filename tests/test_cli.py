"""The command line: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import haag_vq
from haag_vq import cli, load_ground_truth, open_dataset
from haag_vq.commands import arguments, demo, workers
from haag_vq.errors import DataError
from haag_vq.memory import parse_bytes
from haag_vq.sources import open_source
from tests.groundtruth import oracle
from tests.support.files import (
    list_array,
    read_rows,
    vectors,
    write_bigann,
    write_npy,
    write_parquet,
)

Run = Callable[..., tuple[int, str, str]]

DBPEDIA_COLUMN = "text-embedding-3-large-1536-embedding"
DIM = 24


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in this process: exit code, standard output, standard error."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main() replaces it

    def main(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.main([str(arg) for arg in argv])
        except SystemExit as ended:
            code = int(ended.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return main


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search in this process, for what does not depend on workers."""

    def connect(where: str, **_: Any) -> AbstractContextManager[Any]:
        assert where == "local"
        context: AbstractContextManager[Any] = dask.config.set(scheduler="sync")
        return context

    monkeypatch.setattr(workers, "connect", connect)


def command(*argv: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a process of its own."""
    program = Path(sys.executable).with_name("haag-vq")
    return subprocess.run(
        [program, *map(str, argv)], capture_output=True, text=True, timeout=100, **options
    )


def assert_one_line(err: str, *parts: str) -> None:
    """Standard error is one paragraph that says these things."""
    assert re.fullmatch(r"haag-vq: [^\n]+\n", err), err
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def write_dbpedia(home: Path) -> NDArray[np.float32]:
    """Three shards of float64 lists beside text, in row groups of 1,000; returns float32 rows."""
    (home / "data").mkdir(parents=True)
    parts = []
    for i, n in enumerate((2_300, 1_900, 2_100)):
        parts.append(vectors(n, DIM, "float64", seed=i))
        write_parquet(
            home / f"data/train-{i:05}-of-00003.parquet",
            parts[-1],
            column=DBPEDIA_COLUMN,
            row_group_size=1_000,
        )
    return np.concatenate(parts).astype(np.float32)


def write_msmarco(home: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Four float16 .npy shards and a file of queries with all its columns; returns both."""
    (home / "passages_npy").mkdir(parents=True)
    (home / "queries_parquet").mkdir()
    parts = [vectors(n, DIM, "float16", seed=10 + n) for n in (1_500, 1_700, 900, 1_300)]
    for i, part in enumerate(parts):
        write_npy(home / f"passages_npy/msmarco_v2.1_doc_segmented_{i:02}.npy", part)
    queries = vectors(70, DIM, seed=99)
    n = len(queries)
    table = pa.table(
        {
            "_id": pa.array([str(i) for i in range(n)]),
            "text": pa.array([f"question {i}" for i in range(n)]),
            "trec-year": pa.array([2021] * n),
            "emb": list_array(queries),
            "top1k_offsets": pa.array([[1, 2, 3]] * n, pa.list_(pa.int64())),
            "top1k_passage_ids": pa.array([["a", "b"]] * n),
            "top1k_cossim": pa.array([[0.5, 0.25]] * n, pa.list_(pa.float32())),
            "qrels": pa.array(["{}"] * n),
        }
    )
    pq.write_table(table, home / "queries_parquet/queries.parquet")
    return np.concatenate(parts).astype(np.float32), queries


# --- the main job --------------------------------------------------------------------------------

KEYS = {"n_rows", "dim", "n_queries", "k", "metric", "partitions", "seconds"}
KEYS |= {"peak_rss_bytes", "projected_bytes", "out"}

CUTS = [(1, str(1_000 * DIM * 4), 7), (2, "150KiB", 4), (3, None, 1)]


@pytest.mark.parametrize(("n_workers", "chunk_size", "fewest"), CUTS)
def test_ground_truth_of_dbpedia_is_that_of_brute_force(
    n_workers: int, chunk_size: str | None, fewest: int, tmp_path: Path, run: Run
) -> None:
    rows = write_dbpedia(tmp_path)
    out = tmp_path / "gt.hdf5"
    argv = ["ground-truth", tmp_path / "data/*.parquet", "--queries", "holdout:60", "--k", 50]
    argv += ["--metric", "cosine", "--workers", n_workers, "--out", out, "--json", "--quiet"]
    code, printed, err = run(*argv, *(["--chunk-size", chunk_size] if chunk_size else []))
    assert (code, err) == (0, "")
    facts = json.loads(printed)
    assert set(facts) >= KEYS
    assert {name: facts[name] for name in ("n_rows", "dim", "n_queries", "k", "metric", "out")} == {
        "n_rows": 6_240,
        "dim": DIM,
        "n_queries": 60,
        "k": 50,
        "metric": "cosine",
        "out": str(out),
    }
    assert fewest <= facts["partitions"] <= 10
    assert facts["seconds"] > 0
    assert 0 < facts["peak_rss_bytes"] <= facts["projected_bytes"]
    truth = load_ground_truth(out)
    held = truth.query_rows
    assert held is not None
    base = np.delete(rows, held, axis=0)
    keys, ids = oracle.neighbours(base, rows[held], 50, "cosine")
    np.testing.assert_array_equal(truth.ids, ids)
    np.testing.assert_allclose(truth.distances, -keys, atol=1e-6)  # float32 in the file


@pytest.mark.parametrize(("n_workers", "chunk_size", "fewest"), CUTS)
def test_ground_truth_of_msmarco_with_its_own_queries_is_that_of_brute_force(
    n_workers: int, chunk_size: str | None, fewest: int, tmp_path: Path, run: Run
) -> None:
    rows, queries = write_msmarco(tmp_path / "repository")
    out = tmp_path / "gt.npz"
    argv = ["ground-truth", tmp_path / "repository", "--k", 20, "--metric", "ip"]
    argv += ["--workers", n_workers, "--out", out, "--json", "--quiet"]
    code, printed, err = run(*argv, *(["--chunk-size", chunk_size] if chunk_size else []))
    assert (code, err) == (0, "")
    facts = json.loads(printed)
    assert (facts["n_rows"], facts["n_queries"]) == (5_400, 70)
    assert facts["peak_rss_bytes"] <= facts["projected_bytes"]
    truth = load_ground_truth(out)
    keys, ids = oracle.neighbours(rows, queries, 20, "ip")
    np.testing.assert_array_equal(truth.ids, ids)
    np.testing.assert_array_equal(truth.distances, 0 - keys)
    assert truth.query_rows is None


def test_ground_truth_of_a_limited_subset_in_a_table(
    tmp_path: Path, run: Run, no_cluster: None
) -> None:
    rows = write_dbpedia(tmp_path)
    out = tmp_path / "gt.ibin"
    code, printed, err = run(
        *["ground-truth", tmp_path / "data", "--queries", "sample:9", "--k", 5, "--limit", 2_500],
        *["--dims", 6, "--seed", 3, "--out", out],
    )
    assert code == 0
    table = dict(re.split("  +", line, maxsplit=1) for line in printed.splitlines())
    assert table["base"] == "2,500 × 6"
    assert table["queries"] == "9, k=5, l2"
    assert table["certified"].startswith("all 9 queries")
    assert "projected" in table["memory"]
    assert table["written"] == str(out)
    assert "1/1 blocks" in err
    dataset = open_dataset(tmp_path / "data", queries="sample:9", limit=2_500, dims=6, seed=3)
    assert dataset.queries is not None
    ids = oracle.neighbours(rows[:2_500, :6], dataset.queries, 5, "l2")[1]
    np.testing.assert_array_equal(load_ground_truth(out, metric="l2").ids, ids)


def test_auto_is_the_publishers_metric(tmp_path: Path, run: Run, no_cluster: None) -> None:
    write_dbpedia(tmp_path)
    argv = ["--queries", "first:3", "--k", 2, "--metric", "auto", "--json"]
    code, printed, _ = run(
        "ground-truth", "dbpedia-100k", "--cache-dir", tmp_path, *argv, "--out", tmp_path / "a.npz"
    )
    assert code == 0
    assert json.loads(printed)["metric"] == "cosine"
    code, _, err = run("ground-truth", tmp_path / "data", *argv, "--out", tmp_path / "b.npz")
    assert code == 2
    assert_one_line(err, "metric='auto'", "pass l2, ip or cosine")


# --- the other commands --------------------------------------------------------------------------


def test_datasets(run: Run) -> None:
    code, printed, err = run("datasets")
    assert (code, err) == (0, "")
    for part in ("dbpedia-100k", "113,520,750 × 1024", "~53M", "Cohere/msmarco"):
        assert part in printed
    facts = json.loads(run("datasets", "--json")[1])
    assert [entry["name"] for entry in facts][:2] == ["dbpedia-100k", "dbpedia-1536"]
    assert facts[3]["float32_bytes"] == 113_520_750 * 4_096


def test_info_reads_headers_alone(tmp_path: Path, run: Run) -> None:
    write_msmarco(tmp_path)
    # The vectors are gone; what says how many there are stays.
    for shard in (tmp_path / "passages_npy").iterdir():
        size = shard.stat().st_size
        os.truncate(shard, 128)
        os.truncate(shard, size)
    code, printed, err = run("info", tmp_path)
    assert (code, err) == (0, "")
    assert "5,400 × 24, stored as float16" in printed
    facts = json.loads(run("info", tmp_path, "--json", "--limit", 600, "--dims", 8)[1])
    assert (facts["n_rows"], facts["dim"], facts["dtype"]) == (600, 8, "float16")
    assert (facts["n_queries"], facts["metric"], facts["files"]) == (70, None, 4)
    assert facts["float32_bytes"] == 600 * 8 * 4
    assert facts["allowance_bytes"] > 0


def test_info_of_chosen_columns_and_catalogued_sets(tmp_path: Path, run: Run) -> None:
    write_dbpedia(tmp_path)
    by_column = run("info", tmp_path / "data", "--column", DBPEDIA_COLUMN, "--json")
    by_name = run("info", "dbpedia-100k", "--cache-dir", tmp_path, "--json")
    found = [json.loads(printed) for _, printed, _ in (by_column, by_name)]
    assert [facts["n_rows"] for facts in found] == [6_300, 6_300]
    assert [facts["metric"] for facts in found] == [None, "cosine"]
    assert found[0]["fingerprint"] == found[1]["fingerprint"]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (["--limit", 10], list(range(10))),
        (["--take", "rows.txt"], [7, 0, 7, 6_299]),
        (["--take", "rows.npy"], [7, 0, 7, 6_299]),
    ],
)
def test_export(options: list[object], rows: list[int], tmp_path: Path, run: Run) -> None:
    base = write_dbpedia(tmp_path)
    (tmp_path / "rows.txt").write_text("7\n0\n\n7\n-1\n")
    np.save(tmp_path / "rows.npy", np.array([7, 0, 7, -1]))
    argv = [tmp_path / str(o) if str(o).startswith("rows") else o for o in options]
    out = tmp_path / "out.fbin"
    code, printed, err = run("export", tmp_path / "data", out, *argv, "--json")
    assert code == 0
    assert f"{len(rows)}/{len(rows)} rows" in err
    facts = json.loads(printed)
    assert facts["n_rows"] == len(rows)
    assert facts["written_bytes"] == out.stat().st_size == 8 + len(rows) * DIM * 4
    np.testing.assert_array_equal(read_rows(open_source(out)), base[rows])


def test_export_of_a_sample_in_another_type(tmp_path: Path, run: Run) -> None:
    base = write_dbpedia(tmp_path)
    out = tmp_path / "out.npy"
    argv = ["--sample", 200, "--seed", 5, "--run-rows", 20, "--dtype", "float16", "--dims", 4]
    code, printed, err = run("export", tmp_path / "data", out, *argv, "--quiet")
    assert (code, err) == (0, "")
    assert "200 × 4 float16" in printed
    sample = open_dataset(tmp_path / "data").sample(200, 5, run_rows=20)
    expected = base[sample.stored_rows(np.arange(200)), :4].astype(np.float16)
    np.testing.assert_array_equal(np.load(out), expected)


def test_export_renormalizes(tmp_path: Path, run: Run) -> None:
    write_dbpedia(tmp_path)
    out = tmp_path / "out.parquet"
    argv = ["--limit", 50, "--dims", 4, "--renormalize", "--chunk-size", "300"]
    assert run("export", tmp_path / "data", out, *argv)[0] == 0
    norms = np.linalg.norm(read_rows(open_source(out)), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-6)


def test_demo(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def stop(*args: Any, progress: bool) -> None:
        asked.append((*args, progress))
        raise DataError("far enough")

    monkeypatch.setattr(demo, "run_demo", stop)
    code, _, err = run("demo", "--rows", "3_000", "--dim", 16, "--workers", 3, "--out", tmp_path)
    assert code == 1
    assert_one_line(err, "far enough")
    assert asked == [(str(tmp_path), 3_000, 16, 3, True)]


# --- what is wrong with the input ----------------------------------------------------------------


def search(source: object, tmp_path: Path, *argv: object) -> list[object]:
    return ["ground-truth", source, "--k", 3, "--out", tmp_path / "gt.npz", "--quiet", *argv]


FIRST = ("--queries", "first:3")


def test_a_missing_file(tmp_path: Path, run: Run) -> None:
    for source in (tmp_path / "none.npy", tmp_path / "none-*.npy"):
        for argv in (["info", source], search(source, tmp_path, *FIRST)):
            code, printed, err = run(*argv)
            assert (code, printed) == (1, "")
            assert_one_line(err, str(source))


def test_a_missing_copy(tmp_path: Path, run: Run) -> None:
    code, _, err = run("info", "msmarco", "--cache-dir", tmp_path)
    assert code == 1
    assert_one_line(err, str(tmp_path), "hf download Cohere/msmarco-v2.1-embed-english-v3")


def test_a_missing_column_lists_those_there(tmp_path: Path, run: Run) -> None:
    write_dbpedia(tmp_path)
    code, _, err = run(*search(tmp_path / "data", tmp_path, *FIRST, "--column", "embbedding"))
    assert code == 1
    assert_one_line(err, "'embbedding'", "'title'", "'text'", DBPEDIA_COLUMN, "train-00000")


def test_a_truncated_npy(tmp_path: Path, run: Run) -> None:
    path = write_npy(tmp_path / "a.npy", vectors(100, 8))
    os.truncate(path, path.stat().st_size - 100)
    code, _, err = run(*search(path, tmp_path, *FIRST))
    assert code == 1
    assert_one_line(err, str(path), "truncated", "100 rows × 8 float32", "96 rows")


def test_a_truncated_fbin_and_a_header_that_promises_more(tmp_path: Path, run: Run) -> None:
    path = write_bigann(tmp_path / "a.fbin", vectors(100, 8))
    path.write_bytes(path.read_bytes()[:2_000])
    code, _, err = run("info", path)
    assert code == 1
    assert_one_line(err, "a.fbin", "100 rows × 8", "62 rows")


def test_a_truncated_parquet(tmp_path: Path, run: Run) -> None:
    path = write_parquet(tmp_path / "a.parquet", vectors(100, 8))
    os.truncate(path, path.stat().st_size // 2)
    code, _, err = run("info", path)
    assert code == 1
    assert_one_line(err, "a.parquet", "truncated or damaged")


def test_an_object_array_is_never_unpickled(tmp_path: Path, run: Run) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    np.save(tmp_path / "a.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    code, _, err = run(*search(tmp_path / "a.npy", tmp_path, *FIRST))
    assert code == 1
    assert_one_line(err, "a.npy", "Python objects")
    assert not (tmp_path / "exploded").exists()


def test_a_directory_of_mixed_formats(tmp_path: Path, run: Run) -> None:
    write_npy(tmp_path / "a.npy", vectors(9, 8))
    write_bigann(tmp_path / "b.fbin", vectors(9, 8))
    code, _, err = run("info", tmp_path)
    assert code == 1
    assert_one_line(err, "mixes formats", "a.npy", "b.fbin", "*.npy")


def test_an_empty_shard_among_good_ones_is_fine(tmp_path: Path, run: Run, no_cluster: None) -> None:
    for i, n in enumerate((5, 0, 4)):
        write_npy(tmp_path / f"{i}.npy", vectors(n, 8))
    code, printed, _ = run(*search(tmp_path, tmp_path, *FIRST, "--json"))
    assert code == 0
    assert json.loads(printed)["n_rows"] == 9


def test_an_empty_set(tmp_path: Path, run: Run) -> None:
    write_npy(tmp_path / "a.npy", vectors(0, 8))
    code, _, err = run("info", tmp_path)
    assert code == 1
    assert_one_line(err, "0 rows")
    (tmp_path / "nothing").mkdir()
    code, _, err = run("info", tmp_path / "nothing")
    assert code == 1
    assert_one_line(err, "no vector files")


@pytest.mark.parametrize(
    ("embeddings", "told"),
    [
        (pa.array([[1.0, 2.0], None, [3.0, 4.0], [5.0, 6.0]]), "null embedding"),
        (pa.array([[1.0, 2.0], [3.0, None], [3.0, 4.0], [5.0, 6.0]]), "null value"),
        (pa.array([[1.0, 2.0], [3.0], [3.0, 4.0], [5.0, 6.0, 7.0]]), "ragged"),
    ],
)
def test_rows_that_are_no_vectors(
    embeddings: pa.Array, told: str, tmp_path: Path, run: Run, no_cluster: None
) -> None:
    write_parquet(tmp_path / "a.parquet", embeddings)
    write_npy(tmp_path / "queries.npy", vectors(3, 2))
    code, _, err = run(
        *search(tmp_path / "a.parquet", tmp_path, "--queries", tmp_path / "queries.npy")
    )
    assert code == 1
    assert_one_line(err, "a.parquet", told, "row 1 " if told == "ragged" else "row 1")


def test_rows_that_are_not_finite_are_named_by_a_worker_process(tmp_path: Path) -> None:
    rows = vectors(3_000, 8)
    write_npy(tmp_path / "part-0.npy", rows)
    rows[[1_234, 2_500]] = np.inf
    rows[1_500, 3] = np.nan
    write_npy(tmp_path / "part-1.npy", rows)
    argv = search(tmp_path / "part-*.npy", tmp_path, *FIRST)
    words = [sys.executable, "-m", "haag_vq.cli", *map(str, argv)]
    # With what the workers print, who share the terminal.
    done = subprocess.run(
        [*words, "--chunk-size", "96000", "--workers", "2"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    err = done.stderr
    assert_one_line(err, str(tmp_path / "part-1.npy"), " of the 750 rows read from rows ")
    # Whichever piece a thread came upon first.
    assert re.search(r"the first is row (1,234|1,500|2,500)\.", err)
    assert not (tmp_path / "gt.npz").exists()


def test_zero_vectors_under_cosine(tmp_path: Path, run: Run, no_cluster: None) -> None:
    rows = vectors(50, 8)
    rows[17] = 0
    write_npy(tmp_path / "a.npy", rows)
    code, _, err = run(*search(tmp_path / "a.npy", tmp_path, *FIRST, "--metric", "cosine"))
    assert code == 1
    assert_one_line(err, "zero", "17")


def test_a_file_that_changes_between_planning_and_reading(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_npy(tmp_path / "a.npy", vectors(500, 8))

    def connect(*args: Any, **options: Any) -> Any:
        write_npy(path, vectors(500, 8, seed=1))
        return haag_vq.connect(*args, **options)

    monkeypatch.setattr(workers, "connect", connect)
    write_npy(tmp_path / "queries.npy", vectors(3, 8))
    code, _, err = run(
        *search(path, tmp_path, "--queries", tmp_path / "queries.npy", "--workers", 1)
    )
    assert code == 1
    assert_one_line(err, str(path), "changed between planning and reading", "Open the dataset")


def test_too_many_neighbours(tmp_path: Path, run: Run, no_cluster: None) -> None:
    code, _, err = run(*search("synthetic:50x4", tmp_path, *FIRST, "--k", 51))
    assert code == 2
    assert_one_line(err, "k=51", "50 rows")


def test_queries_of_another_dimension(tmp_path: Path, run: Run) -> None:
    write_npy(tmp_path / "queries.npy", vectors(3, 7))
    code, _, err = run(*search("synthetic:50x4", tmp_path, "--queries", tmp_path / "queries.npy"))
    assert code == 2
    assert_one_line(err, "dimension 7", "4")


def test_no_queries(tmp_path: Path, run: Run) -> None:
    code, _, err = run(*search("synthetic:50x4", tmp_path))
    assert code == 2
    assert_one_line(err, "no queries of its own", "--queries holdout:N")


def test_a_worker_that_may_use_too_little(tmp_path: Path, run: Run) -> None:
    argv = search("synthetic:200000x64", tmp_path, *FIRST, "--workers", 1)
    code, printed, err = run(*argv, "--memory-limit", "200MB")
    assert (code, printed) == (1, "")
    assert_one_line(err, "needs", "block buffer", "a worker may use 143 MiB", "75% of 191 MiB")
    remedy = re.search(r"Give each worker ([\d.]+ \w+)", err)
    assert remedy, err
    code, _, err = run(*argv, "--memory-limit", parse_bytes(remedy.group(1)) + (2 << 20))
    assert (code, err) == (0, ""), "what it said would do, does"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["ground-truth", "synthetic:9x4", *FIRST, "--out", "gt.txt"], ["gt.txt", ".hdf5"]),
        (["ground-truth", "synthetic:9x4", *FIRST, "--out", "no/gt.npz"], ["no directory", "/no;"]),
        (["ground-truth", "synthetic:9x4", *FIRST, "--out", "dir.npz"], ["dir.npz is a directory"]),
        (["ground-truth", "synthetic:9x4", *FIRST], ["--out", "--help"]),
        (["ground-truth", "synthetic:9x4", "--queries", "first:x", "--out", "a.npz"], ["first:x"]),
        (["ground-truth", "synthetic:9x4", "--k", "0", "--out", "a.npz"], ["--k", "'0'"]),
        (["ground-truth", "synthetic:9x4", "--metric", "l1", "--out", "a.npz"], ["'l1'", "cosine"]),
        (["ground-truth", "synthetic:9x4", "--workers", "two", "--out", "a.npz"], ["'two'"]),
        (["ground-truth", "synthetic:9x4", "--memory-limit", "2XB", "--out", "a"], ["'2XB'"]),
        (["ground-truth", "synthetic:9x4", "--chunk-size", "-1", "--out", "a"], ["--chunk-size"]),
        (["info", "synthetic:9x4", "--dims", "5"], ["dims=5", "dimension 4"]),
        (["info", "synthetic:9x4", "--limit", "0"], ["--limit", "'0'"]),
        (["info"], ["SOURCE", "haag-vq info --help"]),
        (["info", "synthetic:9x4", "--nope"], ["--nope"]),
        (["export", "synthetic:9x4", "out.bin"], ["out.bin", ".npy"]),
        (["export", "synthetic:9x4", "out.fbin", "--dtype", "int8"], [".i8bin"]),
        (["export", "synthetic:9x4", "out.npy", "--dtype", "int3"], ["'int3'"]),
        (["export", "synthetic:9x4", "out.npy", "--sample", "10"], ["10 of 9"]),
        (["export", "synthetic:9x4", "out.npy", "--sample", "2", "--take", "x"], ["--sample"]),
        (["export", "synthetic:9x4", "out.npy", "--take", "nine.txt"], ["row 9", "9 rows"]),
        (["export", "synthetic:9x4", "o.npy", "--sample", "2", "--seed", "-1"], ["seed=-1"]),
        (["nonsense"], ["'nonsense'", "ground-truth"]),
        ([], ["COMMAND"]),
    ],
)
def test_a_wrong_command_line(
    argv: list[str], told: list[str], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir.npz").mkdir()
    (tmp_path / "nine.txt").write_text("9")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("workers were started for nothing")

    monkeypatch.setattr(workers, "connect", refuse)
    code, printed, err = run(*argv)
    assert (code, printed) == (2, "")
    assert_one_line(err, *told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dir.npz", "nine.txt"]


@pytest.mark.parametrize("content", ["seven", "1 2", "1.5", "\0"])
def test_row_numbers_that_are_none(content: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "rows.txt").write_text(content)
    code, _, err = run(
        "export", "synthetic:9x4", tmp_path / "out.npy", "--take", tmp_path / "rows.txt"
    )
    assert code == 1
    assert_one_line(err, "rows.txt", "integers, one a line")


def test_no_file_of_row_numbers(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out.npy"
    code, _, err = run("export", "synthetic:9x4", out, "--take", tmp_path / "rows.txt")
    assert code == 1
    assert_one_line(err, "rows.txt")
    np.save(tmp_path / "rows.npy", np.array([0.5]))
    code, _, err = run("export", "synthetic:9x4", out, "--take", tmp_path / "rows.npy")
    assert code == 2
    assert_one_line(err, "float64")


def test_an_export_that_does_not_fit_its_type(tmp_path: Path, run: Run) -> None:
    code, _, err = run("export", "synthetic:9x4", tmp_path / "out.u8bin", "--quiet")
    assert code == 1
    assert_one_line(err, "row 0", "uint8", "wider dtype")
    assert list(tmp_path.iterdir()) == []


# --- errors in general ---------------------------------------------------------------------------


def test_debug_shows_the_trace(tmp_path: Path, run: Run) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.npy"):
        run("info", tmp_path / "none.npy", "--debug")


def test_what_nobody_thought_of_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(arguments, "open_dataset", broken)
    code, _, err = run("info", "synthetic:9x4")
    assert code == 1
    assert_one_line(err, "unexpected ZeroDivisionError: first line", "--debug")
    assert "second line" not in err


def test_line_breaks_of_other_libraries_are_taken_out(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise DataError("a.parquet cannot be read:\n  Couldn't deserialize\n")

    monkeypatch.setattr(arguments, "open_dataset", broken)
    code, _, err = run("info", "synthetic:9x4")
    assert code == 1
    assert err == "haag-vq: a.parquet cannot be read: Couldn't deserialize\n"


def test_a_full_disk_at_the_end_of_a_search_leaves_the_older_file(tmp_path: Path) -> None:
    out = tmp_path / "gt.hdf5"
    out.write_bytes(b"older")
    # Workers and their files are under the limit as well; the truth takes 1.6 MB.
    done = command(
        *["ground-truth", "synthetic:3000x8", "--queries", "first:2000", "--k", 100, "--quiet"],
        *["--workers", 1, "--out", out],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_line(done.stderr, str(out), "File too large", "Nothing was left")
    assert [path.name for path in tmp_path.iterdir()] == ["gt.hdf5"]
    assert out.read_bytes() == b"older"


@pytest.mark.parametrize("code", [0, 1])
def test_a_commands_finding_can_be_its_exit_code(
    code: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = SimpleNamespace(
        NAME="find",
        HELP="find something",
        add_arguments=lambda parser: parser.add_argument("--code", type=int),
        run=lambda args: ({"code": args.code}, [("code", str(args.code))]),
        exit_code=lambda facts: facts["code"],
    )
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, finding))
    assert run("find", "--code", code, "--json") == (code, f'{{"code": {code}}}\n', "")
    assert run("find", "--code", code) == (code, f"code  {code}\n", "")


def test_an_interrupt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(arguments, "open_dataset", interrupted)
    code, printed, err = run("info", "synthetic:9x4")
    assert (code, printed) == (130, "")
    assert_one_line(err, "interrupted")


# --- as a program --------------------------------------------------------------------------------


def test_the_command_of_its_own(tmp_path: Path) -> None:
    argv = ["ground-truth", "synthetic:3000x8", "--queries", "holdout:10", "--k", 5]
    done = command(*argv, "--workers", 1, "--out", "gt.hdf5", "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["n_rows"] == 2_990
    assert all(re.match("^[█·]+ ", line) for line in done.stderr.splitlines())
    assert load_ground_truth(tmp_path / "gt.hdf5").ids.shape == (10, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["gt.hdf5"]


def test_a_note_is_one_line(tmp_path: Path) -> None:
    write_msmarco(tmp_path)
    done = command("info", "msmarco", "--cache-dir", tmp_path, "--json")
    assert done.returncode == 0
    assert_one_line(done.stderr, "note:", "4 of 60 shards")
    assert json.loads(done.stdout)["n_rows"] == 5_400


def test_debug_prints_the_trace(tmp_path: Path) -> None:
    plain = command("info", tmp_path / "none.npy")
    assert plain.returncode == 1
    assert_one_line(plain.stderr, "none.npy")
    debug = command("info", tmp_path / "none.npy", "--debug")
    assert debug.returncode == 1
    assert debug.stderr.startswith("Traceback")
    assert "SourceNotFoundError" in debug.stderr


def test_a_reader_that_has_gone_is_no_trace() -> None:
    read, write = os.pipe()
    os.close(read)
    program = [sys.executable, "-m", "haag_vq.cli", "datasets"]
    done = subprocess.run(program, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_version_and_help() -> None:
    assert re.fullmatch(r"haag-vq \d+\.\d+\.\d+\n", command("--version").stdout)
    done = command("ground-truth", "--help")
    assert done.returncode == 0
    for option in [
        "--queries",
        "--k",
        "--metric",
        "--limit",
        "--workers",
        "--memory-limit",
        "--chunk-size",
        "--out",
    ]:
        assert option in done.stdout
