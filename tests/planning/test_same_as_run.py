"""A plan's memory is the run's own projection, whatever the job; and its disk holds the run's."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from haag_vq import connect, ground_truth, plan
from haag_vq.commands import export
from haag_vq.commands import ground_truth as command
from haag_vq.commands.ground_truth import planned
from haag_vq.commands.planned import Planned
from haag_vq.data import open_dataset
from haag_vq.errors import InsufficientMemoryError
from haag_vq.export import export_vectors
from haag_vq.groundtruth import search_rows
from haag_vq.groundtruth.checkpoint import Checkpoint
from haag_vq.memory import parse_bytes
from haag_vq.planning import query_values
from haag_vq.sources import ArraySource
from haag_vq.workers import current_workers

N, DIM = 6_000, 24
# Of one worker, and of each of two: an equal share of the machine.
LIMITS = {1: "2GiB", 2: None}

# Format, queries, and the words of the job: metrics, k, chunk sizes, prefixes, checkpoints.
JOBS = {
    "npy": ("x.npy", "first:1", ["--k", "10", "--metric", "l2"]),
    "float32": ("x.fbin", "holdout:50", ["--k", "100", "--metric", "cosine"]),
    "parquet": ("x.parquet", "first:100", ["--metric", "ip", "--chunk-size", "100KiB"]),
    "parquet-64": ("y.parquet", "sample:30", ["--metric", "cosine", "--k", "17"]),
    "bytes": ("x.u8bin", "first:10", ["--k", "1000", "--chunk-size", "64KiB"]),
    "many": ("x.npy", "many.npy", ["--k", "10", "--chunk-size", "200KiB"]),
    "wide": ("x.fbin", "first:200", ["--k", "1000", "--metric", "ip", "--chunk-size", "48KiB"]),
    "self": ("x.npy", "first:40", ["--k", "20", "--exclude-self", "--limit", "3000"]),
    "prefixes": ("x.npy", "first:40", ["--k", "20", "--prefixes", "500,2500,all"]),
    "kept": ("x.npy", "first:40", ["--k", "30", "--chunk-size", "32KiB", "--checkpoint", "kept"]),
    "few rows": ("x.npy", "first:5", ["--k", "20", "--limit", "21", "--metric", "cosine"]),
    "dims": ("x.parquet", "first:5", ["--dims", "7", "--renormalize"]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("data")
    x = np.random.default_rng(0).integers(0, 200, (N, DIM)).astype(np.float32)
    # No zero rows: cosine refuses them.
    x[:, 0] += 1
    for name, dtype in (
        ("x.npy", "float16"),
        ("x.fbin", None),
        ("x.parquet", "float32"),
        ("y.parquet", "float64"),
        ("x.u8bin", None),
    ):
        export_vectors(ArraySource(x), home / name, dtype)
    many: NDArray[np.float32] = np.resize(x, (10_000, DIM))
    np.save(home / "many.npy", many)
    return home


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def n_workers(request: pytest.FixtureRequest) -> Iterator[int]:
    with connect("local", jobs=request.param, memory_limit=LIMITS[request.param]):
        yield request.param


def parsed(name: str, home: Path, *more: str) -> argparse.Namespace:
    file, queries, words = JOBS[name]
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    if queries.endswith(".npy"):
        queries = str(home / queries)
    return parser.parse_args([str(home / file), "--queries", queries, *words, *more])


@pytest.mark.parametrize("name", JOBS)
def test_a_search_is_projected_as_it_runs(
    name: str, n_workers: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    limit = LIMITS[n_workers]
    words = [] if limit is None else ["--memory-limit", limit]
    args = parsed(name, data, "--workers", str(n_workers), *words)
    found = planned(args)
    met = current_workers()
    assert found.site.workers.allowance == met.allowance
    assert (found.site.n_workers, found.site.workers.n_threads) == (met.n_workers, met.n_threads)
    checked: list[int] = []
    monkeypatch.setattr(Checkpoint, "check_space", lambda _, n_bytes: checked.append(n_bytes))
    made = plan(found.job, found.site)
    truths = ground_truth(
        command._open(args),
        k=args.k,
        metric=args.metric,
        prefixes=args.prefixes or [None],
        exclude_self=args.exclude_self,
        checkpoint=args.checkpoint,
        chunk_size=args.chunk_size,
    )
    run = truths[0].run
    assert run is not None
    assert made.projection == run.projection
    assert made.n_partitions == run.n_partitions
    assert made.fits
    if args.checkpoint is not None:
        kept = sum(path.stat().st_size for path in Path(args.checkpoint).glob("rows-*.part"))
        assert 0 < kept <= made.disk.checkpoint_bytes
        assert checked == [made.disk.checkpoint_bytes]
        # What it has is not planned again.
        again = plan(found.job, found.site)
        assert (again.n_partitions, again.flop, again.disk.checkpoint_bytes) == (0, 0, 0)
    outs = [tmp_path / f"{i}.npz" for i in range(len(truths))]
    for truth, out in zip(truths, outs, strict=True):
        truth.save(out)
    arrays = sum(truth.ids.nbytes + truth.distances.nbytes for truth in truths)
    assert made.disk.output_bytes == arrays


def test_rows_are_projected_as_they_run(data: Path, tmp_path: Path) -> None:
    words = ["--rows", "1000:4000", "--checkpoint", str(tmp_path / "kept")]
    found = planned(parsed("npy", data, *words, "--chunk-size", "32KiB"))
    made = plan(found.job, found.site)
    dataset = open_dataset(data / "x.npy", queries="first:1")
    kept, chunk = tmp_path / "kept", "32KiB"
    half = search_rows(dataset, k=10, rows=(1000, 2000), checkpoint=kept, chunk_size=chunk)
    rest = plan(found.job, found.site)
    whole = search_rows(dataset, k=10, rows=(1000, 4000), checkpoint=kept, chunk_size=chunk)
    assert made.n_partitions == half.n_blocks + whole.n_blocks
    assert (rest.n_partitions, rest.projection) == (whole.n_blocks, whole.projection)
    assert made.projection == half.projection


@pytest.mark.parametrize("chunk", ["100KiB", "32MiB"])
@pytest.mark.parametrize(("file", "out"), [("x.npy", "o.fbin"), ("y.parquet", "o.npy")])
def test_an_export_is_projected_as_it_runs(
    file: str, out: str, chunk: str, data: Path, tmp_path: Path
) -> None:
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    words = [str(data / file), str(tmp_path / out), "--chunk-size", chunk, "--sample", "500"]
    found: Planned = export.planned(parser.parse_args(words))
    made = plan(found.job, found.site)
    source = found.job.source
    assert source is not None
    report = export_vectors(source, tmp_path / out, None, parse_bytes(chunk))
    assert made.projection == report.projection
    assert 0 <= report.written_bytes - made.disk.output_bytes < 200


def test_what_the_run_refuses_is_refused_in_its_words(data: Path) -> None:
    args = parsed("wide", data, "--workers", "1", "--memory-limit", "300MB")
    found = planned(args)
    made = plan(found.job, found.site)
    with (
        connect("local", jobs=1, memory_limit="300MB"),
        pytest.raises(InsufficientMemoryError) as refused,
    ):
        ground_truth(command._open(args), k=args.k, metric="ip", chunk_size=args.chunk_size)
    assert made.refusal == str(refused.value)


@pytest.mark.parametrize("spec", ["sample:30", "first:30", "holdout:2"])
def test_queries_from_row_groups_take_whole_groups(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many elements as pyarrow decodes for them; those held out are not the base's."""
    x = np.random.default_rng(1).standard_normal((2_000, 6), dtype=np.float32)
    table = pa.table({"emb": pa.array(list(x), pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=300)
    dataset = open_dataset(tmp_path / "x.parquet", queries=spec)
    decoded: list[int] = []
    read = pq.ParquetFile.iter_batches

    def counted(file: pq.ParquetFile, **options: Any) -> Any:
        decoded.extend(file.metadata.row_group(g).num_rows for g in options["row_groups"])
        return read(file, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    assert dataset.queries is not None
    np.asarray(dataset.queries)
    n_held = len(dataset.queries) if spec.startswith("holdout") else 0
    assert 0 <= sum(decoded) * 6 - query_values(dataset) <= n_held * 6
