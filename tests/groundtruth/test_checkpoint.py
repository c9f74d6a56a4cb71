"""A directory of finished rows: made, entered again, checked and tidied."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from haag_vq.errors import DataError, HaagVQError, UsageError, WriteError
from haag_vq.groundtruth.attempts import attempted, note_paths
from haag_vq.groundtruth.checkpoint import (
    STALE_SECONDS,
    Checkpoint,
    load_queries,
    open_checkpoint,
    reopen_checkpoint,
)
from haag_vq.groundtruth.cover import Span, cover
from haag_vq.groundtruth.intervals import interval_path, write_interval
from haag_vq.groundtruth.manifest import Manifest, read_manifest
from tests.groundtruth.stored import F32, made_part, queries, question

XQ = queries()
OWN_ROWS = np.array([4, 8, 15])


def fingerprint_of(start: int, stop: int) -> str:
    return f"base[{start}:{stop}]"


@contextmanager
def opened(
    directory: Path, asked: Manifest | None = None, *, exclusive: bool = True
) -> Iterator[Checkpoint]:
    asked = question() if asked is None else asked
    with open_checkpoint(directory, asked, XQ, None, exclusive=exclusive) as checkpoint:
        yield checkpoint


def store(directory: Path, *spans: Span) -> None:
    for start, stop in spans:
        part = made_part(len(XQ), n_rows=stop - start)
        write_interval(directory, (start, stop), part, fingerprint_of(start, stop))


def test_is_made_for_its_owner_alone_and_entered_again(tmp_path: Path) -> None:
    home = tmp_path / "runs" / "first"
    with open_checkpoint(home, question(), XQ, OWN_ROWS, exclusive=True) as made:
        assert made.manifest == question()
        assert made.spans() == []
        store(home, (0, 10), (10, 30))
    assert home.stat().st_mode & 0o777 == 0o700
    with opened(home) as again:
        assert again.manifest == question()
        assert again.spans() == [(0, 10), (10, 30)]
    with reopen_checkpoint(home) as merged:
        assert merged.manifest == question()
        xq, rows = load_queries(merged)
    assert xq.tobytes() == XQ.tobytes()
    assert rows is not None
    assert rows.tolist() == OWN_ROWS.tolist()


def test_a_relative_directory_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(Path("here")) as checkpoint:
        assert checkpoint.directory == tmp_path / "here"


def test_grows_with_its_base(tmp_path: Path) -> None:
    with opened(tmp_path):
        store(tmp_path, (0, 60), (60, 100))
    larger = question(cuts=(250,), base_fingerprint="base of 250")
    with opened(tmp_path, larger) as grown:
        assert grown.manifest.cuts == (100, 250)
        spans = grown.verified(0, 250, fingerprint_of)
        assert read_manifest(tmp_path) == question()
        grown.accept()
        assert cover(spans, 0, 250) == ([(0, 60), (60, 100)], [(100, 250)])
    assert read_manifest(tmp_path) == grown.manifest
    assert grown.manifest.base_fingerprint == "base of 250"


def test_another_question_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path):
        store(tmp_path, (0, 10))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="metric was l2, ip is asked"):
        opened(tmp_path, question(metric="ip")).__enter__()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_finished_rows_of_an_unknown_question_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path):
        store(tmp_path, (0, 10))
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"finished rows and no manifest\.json"):
        opened(tmp_path).__enter__()


def test_rows_of_queries_that_a_killed_job_left_are_not_taken_for_ours(tmp_path: Path) -> None:
    with open_checkpoint(tmp_path, question(), XQ, OWN_ROWS, exclusive=True):
        pass
    (tmp_path / "manifest.json").unlink()  # as if it had not come so far
    with opened(tmp_path) as checkpoint:
        assert load_queries(checkpoint)[1] is None


def test_runs_and_tasks_keep_out_of_each_others_way(tmp_path: Path) -> None:
    with opened(tmp_path):
        for exclusive in (True, False):
            with pytest.raises(UsageError, match="in use"):
                opened(tmp_path, exclusive=exclusive).__enter__()
        with pytest.raises(UsageError, match="in use"):
            reopen_checkpoint(tmp_path).__enter__()
    with (
        opened(tmp_path, exclusive=False),
        opened(tmp_path, exclusive=False),
        pytest.raises(UsageError, match="in use"),
    ):
        reopen_checkpoint(tmp_path).__enter__()


def at_once(n: int, enter: Callable[[int], None]) -> list[HaagVQError]:
    """Run `enter` in n threads that begin together; the package's errors."""
    barrier, errors = threading.Barrier(n), []

    def run(i: int) -> None:
        barrier.wait()
        try:
            enter(i)
        except HaagVQError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_of_tasks_with_different_queries_that_begin_at_once_one_question_wins(
    tmp_path: Path,
) -> None:
    refused = threading.Semaphore(0)

    def enter(i: int) -> None:
        xq: F32 = queries(seed=i)
        try:
            with open_checkpoint(tmp_path, question(xq), xq, None, exclusive=False) as checkpoint:
                assert checkpoint.manifest == question(xq)
                # Nothing is finished: who leaves now leaves the directory to the others.
                assert all(refused.acquire(timeout=30) for _ in range(5))
        except UsageError:
            refused.release()
            raise

    errors = at_once(6, enter)
    assert len(errors) == 5
    assert all("queries_sha256 was" in str(error) for error in errors)
    with reopen_checkpoint(tmp_path) as checkpoint:
        stored = hashlib.sha256(load_queries(checkpoint)[0].data).hexdigest()
        assert stored == checkpoint.manifest.queries_sha256


def test_of_tasks_with_different_bases_that_begin_at_once_all_are_known(tmp_path: Path) -> None:
    def enter(i: int) -> None:
        asked = question(cuts=(100 + i,), base_fingerprint=f"base of {100 + i}")
        with opened(tmp_path, asked, exclusive=False) as checkpoint:
            checkpoint.accept()
            assert 100 + i in checkpoint.manifest.cuts

    assert at_once(8, enter) == []
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest.cuts == tuple(range(100, 108))
    assert manifest.base_fingerprint == "base of 107"


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file is a file, not a directory; name a directory"):
        opened(tmp_path / "file").__enter__()
    with pytest.raises(WriteError, match=r"cannot make .*below: Not a directory"):
        opened(tmp_path / "file" / "below").__enter__()


@pytest.mark.parametrize("named", ["", "  ", 5, b"bytes", None])
def test_what_names_no_directory_is_told(named: Any) -> None:
    with pytest.raises(UsageError, match=re.escape(f"checkpoint={named!r}")):
        opened(named).__enter__()


def test_a_home_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with opened(Path("~/kept")) as checkpoint:
        assert checkpoint.directory == tmp_path / "kept"


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_job_that_finished_nothing_gives_way(exclusive: bool, tmp_path: Path) -> None:
    other: F32 = queries(seed=5)
    # One who may still finish something does not.
    with (
        opened(tmp_path, exclusive=False),
        pytest.raises(UsageError, match="queries_sha256 was"),
        open_checkpoint(tmp_path, question(other), other, None, exclusive=False),
    ):
        pass
    with open_checkpoint(tmp_path, question(other), other, None, exclusive=exclusive) as checkpoint:
        assert checkpoint.manifest == question(other)
        assert_array_equal(load_queries(checkpoint)[0], other)


def test_a_directory_without_a_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no checkpoint: it has no manifest\.json"):
        reopen_checkpoint(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"rubbish", "others", "float64"])
def test_damaged_queries_are_written_anew_by_who_has_them(
    content: bytes | str | None, tmp_path: Path
) -> None:
    with opened(tmp_path) as checkpoint:
        xq = load_queries(checkpoint)[0]
    path = tmp_path / "queries.npy"
    path.unlink()
    if content == "others":
        np.save(path, xq + 1)
    elif content == "float64":
        np.save(path, xq.astype(np.float64))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with opened(tmp_path) as checkpoint:
        # Not before it is known that the base is the job's.
        assert path.exists() == (content is not None)
        checkpoint.accept()
        assert load_queries(checkpoint)[0].tobytes() == xq.tobytes()


@pytest.mark.parametrize("content", [None, b"", b"rubbish", b"\x93NUMPY\x01\x00\x00\x00"])
def test_queries_that_cannot_be_read_are_told(content: bytes | None, tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoint:
        (tmp_path / "queries.npy").unlink()
        if content is not None:
            (tmp_path / "queries.npy").write_bytes(content)
        with pytest.raises(DataError, match=r"query_rows\.npy is gone, damaged or not"):
            load_queries(checkpoint)


# --- what is there -------------------------------------------------------------------------------


def test_damaged_intervals_are_removed_with_a_warning(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoint:
        store(tmp_path, (0, 10), (10, 20), (20, 30))
        path = interval_path(tmp_path, (10, 20))
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.warns(UserWarning, match=r"rows-0+10-0+20\.part was damaged: it is removed"):
            assert checkpoint.verified(0, 100, fingerprint_of) == [(0, 10), (20, 30)]
        assert checkpoint.spans() == [(0, 10), (20, 30)]


def test_an_interval_of_other_queries_is_removed(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoint:
        write_interval(tmp_path, (0, 10), made_part(len(XQ) + 1), fingerprint_of(0, 10))
        with pytest.warns(UserWarning, match="it is removed"):
            assert checkpoint.verified(0, 100, fingerprint_of) == []
        assert checkpoint.spans() == []


def test_an_interval_of_another_base_is_refused_and_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoint:
        store(tmp_path, (0, 10), (1000, 1010))
        with pytest.raises(UsageError) as refused:
            checkpoint.verified(0, 2000, lambda a, b: "new" if a else fingerprint_of(a, b))
        assert checkpoint.spans() == [(0, 10), (1000, 1010)]
    told = str(refused.value)
    assert "rows 1,000:1,010 of another base" in told
    assert "fingerprint was base[1000:1010], it is new now" in told
    assert "Take another directory, or remove this one" in told


def test_intervals_outside_the_rows_asked_are_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoint:
        store(tmp_path, (0, 10), (10, 20), (15, 25), (20, 30))
        for span in ((0, 10), (15, 25), (20, 30)):
            interval_path(tmp_path, span).write_bytes(b"rubbish")
        assert checkpoint.verified(5, 22, fingerprint_of) == [(10, 20)]
        assert len(checkpoint.spans()) == 4


def test_tidying_removes_what_no_cut_needs(tmp_path: Path) -> None:
    with opened(tmp_path, question(cuts=(50, 100))) as checkpoint:
        store(tmp_path, (0, 10), (10, 50), (0, 50), (40, 60), (45, 50), (50, 60), (90, 120))
        checkpoint.tidy()
        assert checkpoint.spans() == [(0, 50), (50, 60), (90, 120)]


def test_notes_of_rows_that_only_an_interval_over_a_cut_has_stay(tmp_path: Path) -> None:
    with opened(tmp_path, question(cuts=(50, 100))) as checkpoint:
        store(tmp_path, (0, 100))
        with (
            attempted(str(tmp_path), (10, 20), 1, ""),
            attempted(str(tmp_path), (60, 70), 1, ""),
        ):
            checkpoint.tidy_meanwhile([(0, 50)])
            assert [span for span, _ in note_paths(tmp_path)] == [(10, 20)]


def test_tidying_removes_what_killed_writers_have_left(tmp_path: Path) -> None:
    targets = ("rows-1-2.part", "manifest.json", "queries.npy", "query_rows.npy")
    with opened(tmp_path) as checkpoint:
        kept = {path.name for path in tmp_path.iterdir()}
        for name in targets:
            for i, age in enumerate((STALE_SECONDS + 60, 0)):
                path = tmp_path / f".{name}.{i}.part"  # as `written_whole` names them
                path.touch()
                os.utime(path, times=(time.time() - age,) * 2)
        (tmp_path / "notes.part").touch()
        os.utime(tmp_path / "notes.part", (0, 0))
        checkpoint.tidy()
        left = {path.name for path in tmp_path.iterdir()}
    # A living writer's are its own.
    assert left == kept | {f".{name}.1.part" for name in targets} | {"notes.part"}


def test_temporary_files_have_the_names_that_are_tidied(tmp_path: Path) -> None:
    from haag_vq.atomic import written_whole

    with opened(tmp_path) as checkpoint:
        for name in ("rows-1-2.part", "manifest.json", "queries.npy", "query_rows.npy"):
            with written_whole(tmp_path / name) as path:
                os.utime(path, (0, 0))
                before = set(tmp_path.iterdir())
                checkpoint.tidy()
                assert before - set(tmp_path.iterdir()) == {path}
                path.touch()


def test_more_than_the_file_system_has_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoint:
        checkpoint.check_space(1)
        with pytest.raises(WriteError, match=r"may need .* TiB in .* has .* free\. Free some"):
            checkpoint.check_space(1 << 50)
