"""`haag-vq ground-truth`: prefixes, leaving out the query itself, and checkpoints."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from haag_vq import load_ground_truth, open_dataset
from haag_vq.groundtruth.intervals import list_intervals
from haag_vq.groundtruth.lock import locked
from tests.commands.searching import (
    BASES,
    DIM,
    K,
    N,
    Told,
    assert_same_answer,
    contents,
    done,
    ended,
    intervals,
    program,
    tell,
    write_base,
    write_queries,
)
from tests.groundtruth import oracle
from tests.support.files import vectors, write_npy

CHUNK = str(100 * DIM * 4)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with base.npy (float16) and queries.npy in it."""
    write_queries(tmp_path, write_base(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def search(*argv: object, base: object = "base.npy", queries: object = "queries.npy") -> list[Any]:
    """A search of k neighbours of the queries in the base, in blocks of 100 rows."""
    words = ["ground-truth", base, "--queries", queries, "--chunk-size", CHUNK]
    return [*words, *([] if "--k" in argv else ["--k", K]), *argv]


# --- prefixes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("name", BASES)
def test_prefixes_are_the_answers_of_separate_runs(name: str, metric: str, home: Path) -> None:
    rows = write_base(home, name)
    queries = np.load(home / "queries.npy")
    common = search("--metric", metric, base=name)
    facts = done(*common, "--prefixes", "750,all,233", "--out", "t.npz")
    outs = ["t.750.npz", "t.npz", "t.233.npz"]
    assert [(fact["out"], fact["n_rows"]) for fact in facts] == list(
        zip(outs, (750, N, 233), strict=True)
    )
    for out, n in zip(outs, (750, N, 233), strict=True):
        done(*common, "--limit", n, "--out", "alone.npz")
        assert_same_answer(home / out, home / "alone.npz")
        keys, ids = oracle.neighbours(rows[:n], queries, K, metric)
        truth = load_ground_truth(out)
        np.testing.assert_array_equal(truth.ids, ids)
        np.testing.assert_array_equal(truth.distances, keys if metric == "l2" else 0 - keys)


def test_one_prefix_is_one_answer_under_its_own_name(home: Path) -> None:
    told = tell(*search("--prefixes", "1_00", "--out", "a.b.hdf5"))
    assert told.code == 0
    assert "written    a.b.100.hdf5" in told.out
    assert load_ground_truth("a.b.100.hdf5").n_rows == 100
    assert not (home / "a.b.hdf5").exists()
    assert done(*search("--prefixes", "100", "--out", "a.npz"))["n_rows"] == 100


@pytest.mark.parametrize(
    ("prefixes", "told"),
    [
        ("100,901", "901 rows was asked of a base of 900 rows"),
        ("5,all", "k=6"),
        ("0", "'0' is no number of rows"),
        ("100,,all", "'' is no number of rows"),
        ("-100", "--prefixes"),
        ("1e3", "'1e3' is no number of rows"),
    ],
)
def test_prefixes_that_cannot_be(prefixes: str, told: str, home: Path) -> None:
    tell(*search("--prefixes", prefixes, "--out", "t.npz", "--quiet")).refused(2, told)
    assert not list(home.glob("t*.npz"))


def test_all_files_of_prefixes_can_be_written_or_none_is_searched(home: Path) -> None:
    (home / "t.100.npz").mkdir()
    tell(*search("--prefixes", "all,100", "--out", "t.npz")).refused(2, "t.100.npz is a directory")


# --- leaving out the query itself ----------------------------------------------------------------


def without(ids: NDArray[Any], left_out: list[int | None]) -> list[list[int]]:
    """The first K ids of each query but one of them."""
    return [
        [i for i in row if i != own][:K] for row, own in zip(ids.tolist(), left_out, strict=True)
    ]


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_query_of_a_file_leaves_out_the_first_row_like_it(metric: str, home: Path) -> None:
    rows, queries = write_base(home), np.load(home / "queries.npy")
    facts = done(*search("--metric", metric, "--exclude-self", "--out", "t.npz"))
    assert (facts["excluded_self"], facts["n_excluded"], facts["n_self_matches"]) == (True, 5, 5)
    ids = oracle.neighbours(rows, queries, K + 1, metric)[1]
    truth = load_ground_truth("t.npz")
    assert truth.ids.tolist() == without(ids, [3, 4, 5, 6, 7, *[None] * 9])
    assert truth.ids[:5, 0].tolist() == [703, 704, 705, 706, 707]
    assert truth.excluded_self
    with_them = done(*search("--metric", metric, "--out", "u.npz"))
    assert (with_them["n_excluded"], with_them["n_self_matches"]) == (0, 5)
    np.testing.assert_array_equal(load_ground_truth("u.npz").ids, ids[:, :K])


@pytest.mark.parametrize("spec", ["first:7", "sample:200"])
def test_a_query_that_is_a_row_leaves_out_that_row_and_not_its_twin(spec: str, home: Path) -> None:
    rows = write_base(home)
    facts = done(*search("--exclude-self", "--out", "t.npz", "--seed", 1, queries=spec))
    truth = load_ground_truth("t.npz")
    own = truth.query_rows
    assert own is not None
    assert facts["n_excluded"] == len(own)
    # Of first:7 all are the first of two equal rows, of the sample some are the second.
    assert np.isin(own, range(700, 760)).any() == (spec != "first:7")
    ids = oracle.neighbours(rows, rows[own], K + 1, "l2")[1]
    assert truth.ids.tolist() == without(ids, own.tolist())


def test_held_out_queries_have_no_row_to_leave_out(home: Path) -> None:
    rows = write_base(home)
    common = search(queries="holdout:300")
    facts = done(*common, "--exclude-self", "--out", "t.npz")
    truth = load_ground_truth("t.npz")
    assert truth.query_rows is not None
    ids = oracle.neighbours(
        np.delete(rows, truth.query_rows, axis=0), rows[truth.query_rows], K, "l2"
    )[1]
    np.testing.assert_array_equal(truth.ids, ids)
    # Twins of some are in the base: they stay.
    assert facts["n_self_matches"] > 0
    assert facts["n_excluded"] == 0
    done(*common, "--out", "u.npz")
    np.testing.assert_array_equal(load_ground_truth("u.npz").ids, ids)


def test_neighbours_beside_the_query_itself_must_be_there(home: Path) -> None:
    argv = ("--exclude-self", "--out", "t.npz", "--quiet")
    tell(*search("--k", N, *argv)).refused(2, "k=900", "take 1 to 899")
    done(*search("--k", N - 1, *argv))
    truth = load_ground_truth("t.npz")
    # Of queries 3 to 7 all rows but their own; of the others all but the last.
    assert sorted(truth.ids[0].tolist()) == sorted({*range(N)} - {3})
    assert np.isfinite(truth.distances).all()


def test_what_cannot_be_is_told_before_workers_are_asked_for(home: Path) -> None:
    # Whoever asks for the workers of this profile is told that there is none.
    none_such = ("--cluster", "none-such", "--out", "t.npz", "--checkpoint", "kept")
    (home / "kept").mkdir()

    def told(*argv: object) -> Told:
        return ended(program(*search(*none_such, *argv)))

    told("--k", N + 1).refused(2, f"k={N + 1:,}")
    with locked(home / "kept", True):
        told().refused(2, "in use")
    told().refused(2, "none-such")


# --- facts ---------------------------------------------------------------------------------------


def test_facts_are_json_where_there_is_no_next_neighbour(home: Path) -> None:
    facts = done(*search("--k", N, "--prefixes", "all", "--out", "t.npz"))
    assert facts["smallest_margin"] is None
    assert set(facts) >= {"dataset", "query_source", "reused_rows", "scored", "n_duplicates"}
    assert facts["dataset"] == "base.npy"
    assert facts["query_source"] == str(home / "queries.npy")


# --- checkpoints ---------------------------------------------------------------------------------

KEEP = ("--checkpoint", "kept", "--out", "t.npz")


@pytest.mark.parametrize("name", BASES)
def test_a_second_run_searches_nothing(name: str, home: Path) -> None:
    write_base(home, name)
    first = done(*search(*KEEP, base=name))
    assert (first["partitions"] >= 9, first["reused_rows"]) == (True, 0)
    after = contents(home / "kept")
    done(*search("--out", "fresh.npz", base=name))
    assert_same_answer(home / "t.npz", home / "fresh.npz")
    (home / "t.npz").unlink()
    again = done(*search(*KEEP, base=name))
    assert (again["partitions"], again["reused_rows"]) == (0, N)
    assert_same_answer(home / "t.npz", home / "fresh.npz")
    assert contents(home / "kept") == after


def test_a_smaller_k_other_prefixes_and_the_query_itself_use_what_is_kept(home: Path) -> None:
    done(*search(*KEEP, "--prefixes", "300,all"))
    for argv in (["--k", 2], ["--exclude-self"], ["--prefixes", "all,300"], ["--limit", 300]):
        facts = done(*search(*KEEP, *argv))
        found = facts if isinstance(facts, list) else [facts]
        assert {fact["partitions"] for fact in found} == {0}
        out = Path(found[0]["out"])
        done(*search(*argv, "--out", "fresh.npz"))
        assert_same_answer(out, home / "fresh.npz")


def test_a_raised_limit_searches_the_new_rows(home: Path) -> None:
    assert done(*search(*KEEP, "--limit", 400))["partitions"] == 4
    grown = done(*search(*KEEP))
    assert (grown["partitions"], grown["reused_rows"]) == (5, 400)
    done(*search("--out", "fresh.npz"))
    assert_same_answer(home / "t.npz", home / "fresh.npz")


def test_another_chunk_size_goes_on_where_the_first_was(home: Path) -> None:
    for span in ("0:150", "480:733"):
        done(*search("--rows", span, "--checkpoint", "kept"))
    facts = done(*search(*KEEP, "--chunk-size", 64 * DIM * 4))
    assert facts["reused_rows"] == 150 + 253
    assert facts["partitions"] == 6 + 3
    done(*search("--out", "fresh.npz"))
    assert_same_answer(home / "t.npz", home / "fresh.npz")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--metric", "ip"], "metric was l2, ip is asked"),
        (["--k", K + 1], "k was 6, 7 is asked"),
        (["--queries", "first:14"], "queries_sha256 was "),
        (["--queries", "first:3"], "n_queries was 14, 3 is asked"),
        (["--dims", 4], "dim was 8, 4 is asked"),
    ],
)
@pytest.mark.parametrize("tail", [("--out", "t.npz"), ("--rows", "0:100")])
def test_another_job_is_refused(
    tail: tuple[str, str], argv: list[object], told: str, home: Path
) -> None:
    done(*search(*KEEP))
    before = contents(home / "kept")
    tell(*search("--checkpoint", "kept", *tail, *argv, "--quiet")).refused(2, "kept", told)
    assert contents(home / "kept") == before


def test_another_base_is_refused(home: Path) -> None:
    done(*search(*KEEP))
    before = contents(home / "kept")
    rows = np.load(home / "base.npy")
    rows[0, 0] += 1
    write_npy(home / "other.npy", rows)
    write_npy(home / "longer.npy", np.concatenate((rows, rows[:10])))
    # Of as many rows it is known at once, of more when the intervals are looked at.
    tell(*search(*KEEP, "--quiet", base="other.npy")).refused(2, "base_fingerprint was ")
    tell(*search(*KEEP, "--quiet", base="longer.npy")).refused(2, "rows 0:900 of another base")
    assert contents(home / "kept") == before


def test_a_moved_base_of_the_same_content_goes_on(home: Path) -> None:
    done(*search(*KEEP))
    (home / "a b").mkdir()
    (home / "base.npy").rename(home / "a b/moved base.npy")
    facts = done(*search(*KEEP, base="a b/moved base.npy"))
    assert (facts["partitions"], facts["reused_rows"]) == (0, N)


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty"])
def test_a_damaged_interval_is_searched_again(harm: str, home: Path) -> None:
    done(*search(*KEEP, "--prefixes", "250,all"))
    done(*search("--out", "fresh.npz"))
    damaged = intervals(home / "kept")[0]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    left = {"flip": bytes(data), "truncate": bytes(data[:-1]), "empty": b""}
    damaged.write_bytes(left[harm])
    told = tell(*search(*KEEP, "--json", "--quiet"))
    assert told.err == (
        f"haag-vq: note: {damaged} was damaged: it is removed, and its rows are searched again.\n"
    )
    assert told.facts["reused_rows"] == N - 250
    assert_same_answer(home / "t.npz", home / "fresh.npz")


@pytest.mark.parametrize("tail", [("--out", "t.npz"), ("--rows", "0:100")])
def test_a_directory_that_cannot_be(tail: tuple[str, str], home: Path) -> None:
    (home / "file").write_text("mine")
    tell(*search("--checkpoint", "file", *tail, "--quiet")).refused(2, "file is a file, not a")
    for where, told in (("file/kept", "file/kept"), ("/proc", "/proc/lock")):
        tell(*search("--checkpoint", where, *tail, "--quiet")).refused(1, "cannot ", told)
    assert (home / "file").read_text() == "mine"
    assert not (home / "t.npz").exists()


def test_damaged_manifests_and_queries_are_told(home: Path) -> None:
    done(*search(*KEEP))
    manifest = home / "kept/manifest.json"
    text = manifest.read_text()
    manifest.write_text(text[:-20])
    tell(*search(*KEEP, "--quiet")).refused(1, str(manifest), "not readable")
    manifest.write_text(text.replace('"format": 1', '"format": 2'))
    tell(*search(*KEEP, "--quiet")).refused(2, "format 2", "writes and reads 1")
    manifest.unlink()
    tell(*search(*KEEP, "--quiet")).refused(2, "no manifest.json", "remove this one")


def test_a_full_disk_keeps_what_was_finished(home: Path) -> None:
    """No file above 40 kB may be written: 20 rows of 40 queries fit into one, 100 do not."""
    base = home / "wide.npy"
    write_npy(base, vectors(2_000, DIM))
    argv = search("--k", 100, base=base, queries="first:40")
    done(*argv, "--rows", "0:20", "--checkpoint", "kept")
    before = contents(home / "kept")
    told = ended(
        program(
            *[*argv, "--rows", "20:2000", "--checkpoint", "kept", "--quiet"],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
        )
    )
    told.refused(1, f"{home}/kept/rows-000000000000020-", "File too large", "Nothing was left")
    assert contents(home / "kept") == before
    assert [path.name for path in (home / "kept").glob(".*")] == []
    facts = done(*argv, *KEEP)
    assert facts["reused_rows"] == 20


# --- real processes ------------------------------------------------------------------------------


def wait_for(reached: Callable[[], bool], process: Any) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def has_begun(directory: Path) -> bool:
    """Some rows are finished."""
    return directory.is_dir() and bool(list_intervals(directory))


# 500 blocks of 2,000 rows: when the first is seen, some seconds are left in which to stop it.
LONG = search("--chunk-size", 2_000 * DIM * 4, base="synthetic:1000000x8")


@contextmanager
def stopped(*argv: object) -> Iterator[subprocess.Popen[str]]:
    """A process that has finished a block and is held there, alive."""
    process = program(*argv, "--quiet")
    try:
        wait_for(lambda: has_begun(Path("kept")), process)
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str], number: signal.Signals) -> Told:
    """Let it go on, to its end by a signal."""
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    return ended(process)


def check_goes_on(home: Path) -> None:
    """No answer is left; a run of a few more rows has the answer of one alone."""
    assert not list(home.glob("*.npz"))
    # Inside a block that follows: blocks may be done in another order than the rows'.
    n_rows = list_intervals(home / "kept")[0][1] + 3_000
    facts = done(*LONG, *KEEP, "--limit", n_rows)
    assert 0 < facts["reused_rows"] < n_rows
    assert facts["partitions"] > 0
    done(*LONG, "--out", "fresh.npz", "--limit", n_rows)
    assert_same_answer(home / "t.npz", home / "fresh.npz")


@pytest.mark.slow
def test_an_interrupted_run_was_alone_and_goes_on(home: Path) -> None:
    with stopped(*LONG, *KEEP, "--workers", 2) as first:
        holder = f"{home}/kept is in use by process {first.pid} on "
        tell(*LONG, *KEEP, "--quiet").refused(2, holder, "since ")
        tell(*LONG, "--rows", "0:9", "--checkpoint", "kept").refused(2, holder)
        tell("merge", "kept", "--out", "t.npz").refused(2, holder)
        end(first, signal.SIGINT).refused(130, "interrupted")
    check_goes_on(home)


def test_a_terminated_task_of_rows_was_beside_others_and_goes_on(home: Path) -> None:
    with stopped(*LONG, "--rows", "0:1000000", "--checkpoint", "kept") as task:
        beside = done(*LONG, "--rows", "0:100", "--checkpoint", "kept")
        assert beside["searched_rows"] == 100
        tell(*LONG, *KEEP, "--quiet").refused(2, "in use by a task", "(--rows)")
        tell("merge", "kept", "--out", "t.npz").refused(2, "in use by a task", "(--rows)")
        told = end(task, signal.SIGTERM)
    assert told == Told(128 + signal.SIGTERM, "", "")
    # Of workers, which are killed, a half-written file may be left; a task removes its own.
    assert not list((home / "kept").glob(".*"))
    check_goes_on(home)


def test_workers_leave_what_one_thread_goes_on_with(home: Path) -> None:
    """Two processes over a growing base: nothing that one finished is searched by the other."""
    told = ended(program(*search(*KEEP, "--limit", 600, "--workers", 2, "--json", "--quiet")))
    assert told.facts["partitions"] >= 6
    facts = done(*search(*KEEP))
    assert facts["reused_rows"] == 600
    done(*search("--out", "fresh.npz"))
    assert_same_answer(home / "t.npz", home / "fresh.npz")
    assert json.loads((home / "kept/manifest.json").read_text())["cuts"] == [600, N]
    assert open_dataset("base.npy").n_rows == N
