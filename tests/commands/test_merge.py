"""`haag-vq ground-truth --rows` in any order, and `haag-vq merge`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from haag_vq import load_ground_truth, open_dataset
from haag_vq.errors import UsageError
from haag_vq.groundtruth import merge_checkpoint, search_rows
from tests.commands.searching import (
    BASES,
    K,
    N,
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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a base of each format and queries.npy in it."""
    for name in BASES:
        rows = write_base(tmp_path, name)
    write_queries(tmp_path, rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def search(*argv: object, base: str = "base.npy", queries: object = "queries.npy") -> list[Any]:
    return ["ground-truth", base, "--queries", queries, "--k", K, *argv]


def rows(start: int, stop: int, *argv: object, into: str = "kept", **named: Any) -> Any:
    """Search some rows into a checkpoint; returns the facts."""
    return done(
        *search("--rows", f"{start}:{stop}", "--checkpoint", into, *argv, **named),
    )


# --- ranges --------------------------------------------------------------------------------------


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.sets(st.integers(1, N - 1), max_size=6),
    order=st.randoms(use_true_random=False),
    name=st.sampled_from(BASES),
    metric=st.sampled_from(["l2", "ip", "cosine"]),
)
def test_any_ranges_in_any_order_make_the_answer(
    cuts: set[int],
    order: Any,
    name: str,
    metric: str,
    home: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    into = str(tmp_path_factory.mktemp("kept"))
    ends = [0, *sorted(cuts), N]
    spans = list(zip(ends[:-1], ends[1:], strict=True))
    order.shuffle(spans)
    for a, b in spans:
        facts = rows(a, b, "--metric", metric, "--chunk-size", "5KiB", into=into, base=name)
        assert (facts["rows"], facts["searched_rows"]) == ([a, b], b - a)
    done("merge", into, "--out", "t.npz")
    truth = load_ground_truth("t.npz")
    keys, ids = oracle.neighbours(write_base(home), np.load(home / "queries.npy"), K, metric)
    np.testing.assert_array_equal(truth.ids, ids)
    np.testing.assert_array_equal(truth.distances, keys if metric == "l2" else 0 - keys)


def test_tasks_at_once(home: Path) -> None:
    """Three processes make the directory and fill it together, two of them with the same rows."""
    argv = search("--checkpoint", "kept", "--chunk-size", "3KiB", "--quiet", "--json")
    tasks = [program(*argv, "--rows", span) for span in ("0:500", "500:900", "0:500")]
    for told, n_rows in zip([ended(task) for task in tasks], (500, 400, 500), strict=True):
        assert told.err == "", told
        assert told.facts["searched_rows"] <= n_rows
    done("merge", "kept", "--out", "t.npz")
    done(*search("--out", "fresh.npz"))
    assert_same_answer(home / "t.npz", home / "fresh.npz")


def test_rows_that_are_there_are_not_searched_again(home: Path) -> None:
    rows(100, 300)
    after = contents(home / "kept")
    facts = rows(100, 300)
    assert (facts["searched_rows"], facts["partitions"]) == (0, 0)
    assert contents(home / "kept") == after
    assert rows(0, 400)["searched_rows"] == 200
    told = tell(*search("--rows", "0:900", "--checkpoint", "kept"))
    assert told.code == 0
    assert "rows     0:900, 500 of them now" in told.out
    assert "kept in  kept" in told.out


def test_a_damaged_interval_is_searched_again_by_its_own_range(home: Path) -> None:
    rows(0, 500)
    rows(500, N)
    damaged = intervals(home / "kept")[1]
    data = bytearray(damaged.read_bytes())
    data[-40] ^= 255
    damaged.write_bytes(data)
    tell("merge", "kept", "--out", "t.npz").refused(1, str(damaged), "damaged", "--rows 500:900")
    assert not (home / "t.npz").exists()
    told = tell(*search("--rows", "500:900", "--checkpoint", "kept", "--quiet", "--json"))
    assert told.facts["searched_rows"] == 400
    assert "was damaged" in told.err
    done("merge", "kept", "--out", "t.npz")
    done(*search("--out", "fresh.npz"))
    assert_same_answer(home / "t.npz", home / "fresh.npz")


@pytest.mark.parametrize(
    "span", ["5:5", "7:3", "5:", ":5", "5", "a:b", "1:2:3", "0:901", "900:901"]
)
def test_rows_that_cannot_be(span: str, home: Path) -> None:
    argv = ("--rows", span, "--checkpoint", "kept", "--quiet")
    tell(*search(*argv)).refused(2, "rows")
    assert not (home / "kept").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["--out", "t.npz"],
        ["--prefixes", "100"],
        ["--exclude-self"],
        ["--workers", "2"],
        ["--cluster", "pace-ice"],
        ["--set", "walltime=1:00"],
    ],
)
def test_what_does_not_go_with_rows(argv: list[str], home: Path) -> None:
    tell(*search("--rows", "0:9", "--checkpoint", "kept", *argv)).refused(
        2, f"{argv[0]} does not go with --rows"
    )
    assert not (home / "kept").exists()


@pytest.mark.parametrize("n_parts", [1, 7])
def test_even_parts_make_the_answer(n_parts: int, home: Path) -> None:
    spans = []
    for i in range(n_parts, 0, -1):
        part = ("--part", f"{i}/{n_parts}", "--checkpoint", "kept")
        spans.append(tuple(done(*search(*part))["rows"]))
    spans.reverse()
    assert [0, *(stop for _, stop in spans)] == [*(start for start, _ in spans), N]
    sizes = [stop - start for start, stop in spans]
    assert max(sizes) - min(sizes) <= 1
    done("merge", "kept", "--out", "t.npz")
    done(*search("--out", "fresh.npz"))
    assert_same_answer(home / "t.npz", home / "fresh.npz")


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", f"1/{N + 1}"])
def test_parts_that_cannot_be(part: str, home: Path) -> None:
    tell(*search(f"--part={part}", "--checkpoint", "kept", "--quiet")).refused(2, "part")
    assert not (home / "kept").exists()


def test_a_part_is_not_asked_for_with_rows_or_without_a_checkpoint(home: Path) -> None:
    both = ("--part", "1/3", "--rows", "0:9", "--checkpoint", "kept")
    tell(*search(*both)).refused(2, "--rows and --part")
    tell(*search("--part", "1/3")).refused(2, "--part needs --checkpoint")


def test_rows_need_a_checkpoint(home: Path) -> None:
    tell(*search("--rows", "0:9")).refused(2, "--rows needs --checkpoint")


# --- merge ---------------------------------------------------------------------------------------


def test_what_is_missing_is_told_with_the_command_that_finds_it(home: Path) -> None:
    rows(0, 200)
    rows(350, 600)
    for n_missing in (450, 300):
        told = tell("merge", "kept", "--out", "t.npz")
        told.refused(2, f"{n_missing} rows are missing in {home}/kept")
        command = re.search(r"`haag-vq (ground-truth … [^`]*)`", told.err)
        assert command, told
        words = shlex.split(command.group(1))
        assert words[:2] == ["ground-truth", "…"]
        done(*search(*words[2:]))
    assert not (home / "t.npz").exists()
    facts = done("merge", "kept", "--out", "t.npz")
    assert (facts["n_rows"], facts["k"], facts["out"]) == (N, K, "t.npz")
    done(*search("--out", "fresh.npz"))
    assert_same_answer(home / "t.npz", home / "fresh.npz")


def test_or_by_a_run_of_all(home: Path) -> None:
    rows(100, 400)
    assert done(*search("--checkpoint", "kept", "--out", "t.npz"))["reused_rows"] == 300
    done("merge", "kept", "--out", "u.npz")
    assert_same_answer(home / "t.npz", home / "u.npz")


@pytest.mark.parametrize("queries", ["queries.npy", "first:12"])
def test_merge_gives_fewer_neighbours_prefixes_and_leaves_out_the_query(
    queries: str, home: Path
) -> None:
    for a, b in ((250, 600), (0, 250), (600, N)):
        rows(a, b, queries=queries)
    before = contents(home / "kept")
    options = ["--k", 3, "--prefixes", "600,all,250", "--exclude-self"]
    facts = done("merge", "kept", *options, "--out", "t.npz")
    assert [fact["out"] for fact in facts] == ["t.600.npz", "t.npz", "t.250.npz"]
    assert [fact["n_rows"] for fact in facts] == [600, N, 250]
    assert {fact["k"] for fact in facts} == {3}
    done(*search(*options, "--out", "fresh.npz", queries=queries))
    for name in ("600.npz", "npz", "250.npz"):
        truth, fresh = load_ground_truth(f"t.{name}"), load_ground_truth(f"fresh.{name}")
        assert truth.ids.tobytes() == fresh.ids.tobytes()
        assert truth.distances.tobytes() == fresh.distances.tobytes()
        assert truth.findings == fresh.findings
        assert truth.excluded_self
    assert facts[1]["n_excluded"] == (5 if queries == "queries.npy" else 12)
    assert contents(home / "kept") == before


def test_merge_of_held_out_queries_asks_for_the_base_to_leave_any_out(home: Path) -> None:
    rows(0, 800, queries="holdout:100")
    done("merge", "kept", "--out", "t.npz")
    argv = ["merge", "kept", "--out", "u.npz", "--exclude-self"]
    told = tell(*argv)
    told.refused(2, "can only be told from the base", "which searches nothing again")
    remedy = search(
        "--checkpoint", "kept", "--exclude-self", "--out", "u.npz", queries="holdout:100"
    )
    facts = done(*remedy)
    assert (facts["partitions"], facts["n_excluded"]) == (0, 0)


def test_what_merge_refuses(home: Path) -> None:
    rows(0, 400)
    rows(400, N)
    before = contents(home / "kept")
    for where in ("nothing", "base.npy", "."):
        tell("merge", where, "--out", "t.npz").refused(2, f"{home}", "is no checkpoint")
    kept = ["merge", "kept", "--out", "t.npz"]
    tell(*kept, "--k", K + 1).refused(2, "holds 6 neighbours of each query, 7 are asked")
    tell(*kept, "--prefixes", "399,all").refused(2, "399 rows are missing", "0:399")
    tell("merge", "kept").refused(2, "--out")
    tell("merge", "kept", "--out", "t.txt").refused(2, "t.txt", ".npz")
    tell("merge", "kept", "--out", "no/t.npz").refused(2, "no directory")
    assert contents(home / "kept") == before
    assert not list(home.glob("t*"))
    assert [path.name for path in home.iterdir() if path.name.endswith("lock")] == []


@pytest.mark.parametrize("name", ["queries.npy", "query_rows.npy"])
def test_queries_that_are_not_those_of_the_job(name: str, home: Path) -> None:
    rows(0, N, queries="first:9")
    path = home / "kept" / name
    path.write_bytes(path.read_bytes()[:-1])
    tell("merge", "kept", "--out", "t.npz").refused(1, str(home / "kept"))
    if name == "queries.npy":
        np.save(path, np.zeros((9, 8), np.float32))
        tell("merge", "kept", "--out", "t.npz").refused(1, "not what the job began with")


# --- what merge must refuse as a search does -----------------------------------------------------


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--exclude-self"], ["k=900", "take 1 to 899"]),
        (["--prefixes", "400"], ["k=900", "400 rows"]),
        (["--prefixes", "400,all", "--k", "401"], ["k=401", "400 rows"]),
        (["--prefixes", "400,all", "--k", "400", "--exclude-self"], ["k=400", "take 1 to 399"]),
        (["--prefixes", "901", "--k", "6"], ["901 rows", "900 rows"]),
    ],
)
def test_more_neighbours_than_there_are(options: list[str], parts: list[str], home: Path) -> None:
    for a, b in ((0, 400), (400, N)):
        rows(a, b, "--k", N)
    told = tell("merge", "kept", "--out", "t.npz", *options)
    told.refused(2, *parts)
    assert "--rows" not in told.err
    assert not list(home.glob("t*.npz"))


@pytest.mark.parametrize("k", [0, -1, 2.5, "5"])
def test_merging_a_k_that_is_none(k: Any, home: Path) -> None:
    rows(0, N)
    with pytest.raises(UsageError, match=f"k={k!r}|k={k}"):
        merge_checkpoint("kept", k)


@pytest.mark.parametrize("prefixes", [[0], [-1], [2.5], ["900"], 5, "all"])
def test_merging_prefixes_that_are_none(prefixes: Any, home: Path) -> None:
    rows(0, N)
    with pytest.raises(UsageError, match="prefix"):
        merge_checkpoint("kept", prefixes=prefixes)


@pytest.mark.parametrize("span", [(0.5, 3), 5, (1, 2, 3), ("a", "b"), None, slice(0, 5)])
def test_rows_that_are_no_range(span: Any, home: Path) -> None:
    with pytest.raises(UsageError, match="rows"):
        search_rows(open_dataset("base.npy", queries="first:3"), k=2, rows=span, checkpoint="kept")
    assert not (home / "kept").exists()


def test_rows_may_be_numpys_numbers(home: Path) -> None:
    dataset = open_dataset("base.npy", queries="first:3")
    span: Any = tuple(np.array([0, 100]))
    assert search_rows(dataset, k=2, rows=span, checkpoint="kept").n_rows_searched == 100


def test_a_job_that_never_began_leaves_the_directory_free(home: Path) -> None:
    tiny = ("--chunk-size", "1B")
    tell(*search("--rows", "0:9", "--checkpoint", "kept", "--quiet", *tiny)).refused(2, "1 B")
    rows(0, N, "--metric", "ip", "--k", K + 1)


@pytest.mark.parametrize("option", [["--workers", "2"], ["--memory-limit", "2GB"]])
def test_merge_is_not_named_for_what_it_does_not_take(option: list[str], home: Path) -> None:
    told = tell(*search("--rows", "0:9", "--checkpoint", "kept", *option))
    told.refused(2, option[0])
    assert "merge" not in told.err


def test_a_checkpoint_without_a_name(home: Path) -> None:
    tell(*search("--rows", "0:9", "--checkpoint", "")).refused(2, "--checkpoint")
    assert not (home / "manifest.json").exists()
