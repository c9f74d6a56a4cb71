"""A worker that cannot write what it found, and shards that cannot be read: told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_array_equal

from haag_vq import connect, ground_truth, open_dataset
from haag_vq.errors import DataError, ReadError, WriteError
from haag_vq.sources import ArraySource
from tests.groundtruth import oracle
from tests.slurm.conftest import Slurm, timed
from tests.support.files import vectors, write_parquet
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

N, DIM, NQ, K = 800, 16, 200, 20
CHUNK = 100 * DIM * 4
X, XQ = vectors(N, DIM), vectors(NQ, DIM, seed=5)


def check(truth: Any) -> None:
    keys, ids = oracle.neighbours(X, XQ, K, "l2")
    assert_array_equal(truth.ids, ids)
    assert truth.distances.tobytes() == keys.tobytes()


def test_a_disk_without_room_is_told_and_the_same_command_goes_on(
    slurm: Slurm, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the full disk: the same calls fail, for any user."""
    kept = tmp_path / "kept"
    base = ArraySource(X)
    # Its part has 22 rows a query; what is compiled is compiled now, not into files of 32 KiB.
    check(ground_truth(base, XQ, k=K))
    full: dict[str, Any] = {"job_script_prologue": ["ulimit -f 32"]}
    with (
        connect(slurm.profile, jobs=1, **full) as connection,
        pytest.raises(WriteError, match=r"writing .*rows-.*\.part failed: File too large"),
        timed("scratch full, to the error"),
    ):
        ground_truth(base, XQ, k=K, chunk_size=CHUNK, checkpoint=kept)
    assert connection.client.status == "closed"
    assert [path.name for path in kept.glob("*rows-*")] == []
    with connect(slurm.profile, jobs=1), timed("scratch full, the same again"):
        check(ground_truth(base, XQ, k=K, chunk_size=CHUNK, checkpoint=kept))


def test_a_damaged_shard_is_told_with_its_rows_and_the_rest_is_kept(
    slurm: Slurm, tmp_path: Path
) -> None:
    n = 4_000
    x = vectors(4 * n, DIM)
    for i in range(4):
        write_parquet(tmp_path / f"{i}.parquet", x[n * i : n * (i + 1)], row_group_size=n // 4)
    shard = tmp_path / "3.parquet"
    whole = shard.read_bytes()
    # Of large files fingerprints sample sixteen places; this is between two of them.
    at = 9 * (len(whole) - 4096) // 15 + 8000
    shard.write_bytes(whole[:at] + b"\xff" * 4096 + whole[at + 4096 :])
    kept = tmp_path / "kept"
    search: dict[str, Any] = {"k": K, "chunk_size": n // 4 * DIM * 4, "checkpoint": kept}
    with connect(slurm.profile, jobs=1):
        with (
            pytest.raises((DataError, ReadError), match=r"3\.parquet.*rows? .*\d"),
            timed("a damaged shard, to the error"),
        ):
            ground_truth(open_dataset(tmp_path / "*.parquet"), XQ, **search)
        # A block that was begun before the error was told comes to its end.
        wait_until("no attempts", lambda: not list(kept.glob("attempt-*")))
        assert list(kept.glob("rows-*")), "what was finished before is kept"
        shard.write_bytes(whole)
        with timed("a damaged shard, replaced"):
            truth = ground_truth(open_dataset(tmp_path / "*.parquet"), XQ, **search)
    assert truth.run is not None
    assert truth.run.n_reused_rows > 0
    keys, ids = oracle.neighbours(x, XQ, K, "l2")
    assert_array_equal(truth.ids, ids)
    assert truth.distances.tobytes() == keys.tobytes()
