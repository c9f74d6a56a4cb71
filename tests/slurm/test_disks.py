"""A worker that cannot write what it found, and shards that cannot be read: told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from haag_vq import connect, ground_truth, open_dataset
from haag_vq.errors import DataError, ReadError, WriteError
from haag_vq.sources import ArraySource
from tests.groundtruth import oracle
from tests.slurm.conftest import Slurm
from tests.support.files import vectors, write_parquet

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
    ):
        ground_truth(base, XQ, k=K, chunk_size=CHUNK, checkpoint=kept)
    assert connection.client.status == "closed"
    assert [path.name for path in kept.glob("*rows-*")] == []
    with connect(slurm.profile, jobs=1):
        check(ground_truth(base, XQ, k=K, chunk_size=CHUNK, checkpoint=kept))


def test_a_damaged_shard_is_told_with_its_rows_and_the_rest_is_kept(
    slurm: Slurm, tmp_path: Path
) -> None:
    for i in range(4):
        write_parquet(tmp_path / f"{i}.parquet", X[200 * i : 200 * i + 200], row_group_size=100)
    shard = tmp_path / "3.parquet"
    whole = shard.read_bytes()
    damaged = bytearray(whole)
    at = len(damaged) * 3 // 4  # in the second row group's pages; header and footer are sound
    damaged[at : at + 256] = bytes(range(256))
    dataset = open_dataset(tmp_path / "*.parquet")
    kept = tmp_path / "kept"
    search: dict[str, Any] = {"k": K, "chunk_size": CHUNK, "checkpoint": kept}
    with connect(slurm.profile, jobs=1):
        shard.write_bytes(damaged)
        with pytest.raises((DataError, ReadError), match=r"3\.parquet.*rows? .*\d"):
            ground_truth(dataset, XQ, **search)
        assert list(kept.glob("attempt-*")) == []
        n_kept = len(list(kept.glob("rows-*")))
        shard.write_bytes(whole)
        check(ground_truth(open_dataset(tmp_path / "*.parquet"), XQ, **search))
    assert n_kept >= 1
    assert np.isfinite(X).all()
