"""A part comes back to the bit, or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haag_vq.errors import ReadError, WriteError
from haag_vq.groundtruth.intervals import (
    interval_path,
    list_intervals,
    read_interval,
    write_interval,
)
from haag_vq.groundtruth.part import Part, select
from tests.groundtruth.stored import made_part, same_part

SPAN = (20, 30)


@pytest.mark.parametrize(("nq", "width"), [(1, 1), (3, 4), (40, 17), (5, 0)])
def test_a_part_comes_back(nq: int, width: int, tmp_path: Path) -> None:
    part = made_part(nq, width)
    write_interval(tmp_path, SPAN, part, "the base")
    found = read_interval(tmp_path, SPAN)
    assert found is not None
    assert same_part(found[0], part)
    assert found[1] == "the base"
    assert found[0].keys.shape == found[0].ids.shape == found[0].hashes.shape


def test_what_comes_back_may_be_written_to(tmp_path: Path) -> None:
    write_interval(tmp_path, SPAN, made_part(), "")
    found = read_interval(tmp_path, SPAN)
    assert found is not None
    for array in (found[0].keys, found[0].ids, found[0].frontier, found[0].frontier_ids):
        array[...] = 0


def test_padding_is_not_stored(tmp_path: Path) -> None:
    part = made_part(100, 8)
    wide = Part(
        np.pad(part.keys, ((0, 0), (0, 1000)), constant_values=np.inf),
        np.pad(part.ids, ((0, 0), (0, 1000)), constant_values=-1),
        np.pad(part.hashes, ((0, 0), (0, 1000))),
        part.frontier,
        part.frontier_ids,
        part.n_rows,
        part.tally,
    )
    write_interval(tmp_path, (0, 1), part, "")
    write_interval(tmp_path, (1, 2), wide, "")
    sizes = [interval_path(tmp_path, span).stat().st_size for span in ((0, 1), (1, 2))]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("fingerprint", ["", "é" * 3, "two\nlines", "x" * 100_000])
def test_fingerprints_of_any_kind_come_back(fingerprint: str, tmp_path: Path) -> None:
    part = made_part()
    write_interval(tmp_path, SPAN, part, fingerprint)
    found = read_interval(tmp_path, SPAN)
    assert found is not None
    assert found[1] == fingerprint
    assert same_part(found[0], part)


def test_the_directory_lists_rows_and_nothing_else(tmp_path: Path) -> None:
    for span in ((100, 200), (5, 10**12), (5, 20)):
        write_interval(tmp_path, span, made_part(), "")
    for name in ("manifest.json", ".rows-000000000000001-000000000000002.part.x.part", "rows-1-2"):
        (tmp_path / name).touch()
    assert list_intervals(tmp_path) == [(5, 20), (5, 10**12), (100, 200)]


def test_any_flipped_bit_and_any_lost_byte_is_seen(tmp_path: Path) -> None:
    write_interval(tmp_path, SPAN, made_part(2, 2), "base")
    path = interval_path(tmp_path, SPAN)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        assert read_interval(tmp_path, SPAN) is None, at
        path.write_bytes(whole[:at])
        assert read_interval(tmp_path, SPAN) is None, at
    path.write_bytes(whole + b"\0")
    assert read_interval(tmp_path, SPAN) is None
    path.write_bytes(whole)
    assert read_interval(tmp_path, SPAN) is not None


@given(st.binary(max_size=200))
def test_rubbish_is_no_part(tmp_path_factory: pytest.TempPathFactory, rubbish: bytes) -> None:
    directory = tmp_path_factory.getbasetemp()
    interval_path(directory, SPAN).write_bytes(rubbish)
    assert read_interval(directory, SPAN) is None


def test_sizes_in_a_damaged_header_are_not_believed(tmp_path: Path) -> None:
    write_interval(tmp_path, SPAN, made_part(), "")
    path = interval_path(tmp_path, SPAN)
    line, rest = path.read_bytes().split(b"\n", 1)
    head = json.loads(line) | {"n_entries": 1 << 50, "n_queries": 1 << 50}
    path.write_bytes(json.dumps(head).encode() + b"\n" + rest)
    tracemalloc.start()
    assert read_interval(tmp_path, SPAN) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_part_under_the_name_of_other_rows_is_none(tmp_path: Path) -> None:
    write_interval(tmp_path, SPAN, made_part(), "")
    interval_path(tmp_path, SPAN).rename(interval_path(tmp_path, (0, 10)))
    assert read_interval(tmp_path, (0, 10)) is None
    assert read_interval(tmp_path, SPAN) is None  # gone


def test_what_the_system_does_not_let_be_read_is_told(tmp_path: Path) -> None:
    interval_path(tmp_path, SPAN).mkdir()
    with pytest.raises(ReadError, match=r"cannot read .*rows-0+20-0+30\.part: Is a directory"):
        read_interval(tmp_path, SPAN)


def test_a_part_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="cannot write in"):
        write_interval(tmp_path / "gone", SPAN, made_part(), "")


def test_reading_takes_the_part_and_its_file(tmp_path: Path) -> None:
    part = made_part(2000, 100)
    part = select(part, np.argsort(-(part.ids >= 0).sum(axis=1)))
    write_interval(tmp_path, SPAN, part, "")
    on_disk = interval_path(tmp_path, SPAN).stat().st_size
    tracemalloc.start()
    found = read_interval(tmp_path, SPAN)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    in_memory = sum(a.nbytes for a in (found[0].keys, found[0].ids, found[0].hashes))
    # Beside them: which entries are real, and the frontiers.
    assert peak <= on_disk + in_memory + found[0].keys.size + 100 * len(part.keys) + (64 << 10)


KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
from haag_vq.groundtruth.intervals import list_intervals, read_interval, write_interval
from tests.groundtruth.stored import made_part, same_part

directory, part = Path(sys.argv[1]), made_part(2000, 100)
met = {"sound": 0, "damaged": 0, "cut off": 0}


def look():
    for span in list_intervals(directory):
        found = read_interval(directory, span)
        sound = found is not None and found[1] in "ab" and same_part(found[0], part)
        met["sound" if sound else "damaged"] += 1


def writer(name):
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    while os.getppid() == parent:
        for start in range(0, 30, 10):
            write_interval(directory, (start, start + 10), part, name)
    os._exit(1)


for _ in range(100):
    writers = [writer("a"), writer("b")]
    end = time.monotonic() + random.uniform(0.01, 0.1)
    while time.monotonic() < end:
        look()
    for pid in writers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    look()
    met["cut off"] = len(list(directory.glob(".rows-*")))
    if met["cut off"] >= 5:
        break
print(json.dumps(met))
"""


def test_writers_killed_at_any_moment_leave_whole_intervals(tmp_path: Path) -> None:
    # Two at a time write the same intervals over and over, and are read meanwhile.
    ran = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path)], capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    met = json.loads(ran.stdout)
    assert met["damaged"] == 0
    assert met["sound"] > 0
    assert met["cut off"] > 0, "no writer was killed while it wrote: nothing was tried"
