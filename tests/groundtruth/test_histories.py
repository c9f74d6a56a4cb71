"""A checkpoint through any history: whatever was done to it, the next run ends, and is right."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dask
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from haag_vq.errors import UsageError
from haag_vq.groundtruth import GroundTruth, ground_truth, merge_checkpoint, resume, search_rows
from haag_vq.groundtruth.intervals import interval_path, list_intervals
from haag_vq.sources import ArraySource
from tests.groundtruth import oracle
from tests.groundtruth.cases import rows_of
from tests.support.counting import CountingSource

N, DIM, K = 300, 4, 4
BASE, XQ = rows_of("normal", N, DIM, 1), rows_of("normal", 6, DIM, 2)
# The nearest come last: what blocks before them left out, a prefix may need.
LAST_NEAREST = np.ascontiguousarray(
    BASE[np.argsort(-((BASE[:, None] - XQ[None]) ** 2).sum(axis=2).min(axis=1))]
)

ROWS, CHUNKS = st.integers(K, N), st.integers(7, 120).map(lambda rows: rows * DIM * 4)
STEPS = st.one_of(
    st.tuples(st.just("run"), ROWS, CHUNKS, st.lists(ROWS, max_size=2)),
    st.tuples(st.just("rows"), ROWS, CHUNKS, st.tuples(ROWS, ROWS)),
    st.tuples(st.just("lose"), ROWS, CHUNKS, st.integers(0, 255)),
    st.tuples(st.just("merge"), ROWS, CHUNKS, st.none()),
)


def assert_is_truth(truth: GroundTruth, x: Any) -> None:
    keys, ids = oracle.neighbours(x[: truth.n_rows], XQ, K, "l2")
    assert_array_equal(truth.ids, ids)
    assert truth.distances.tobytes() == keys.tobytes()


def take(step: tuple[Any, ...], x: Any, home: Path) -> None:
    """Do one thing to a checkpoint; what is not to be had is refused, and harms nothing."""
    what, limit, chunk, more = step
    source = ArraySource(x).narrow(0, limit)
    if what == "run":
        prefixes = sorted({min(p, limit) for p in more} - {limit})
        for truth in ground_truth(source, XQ, K, prefixes=[*prefixes, None], **kept(home, chunk)):
            assert_is_truth(truth, x)
    elif what == "rows":
        start, stop = sorted((min(more[0], limit) - 1, min(more[1], limit)))
        if start < stop:
            search_rows(source, XQ, K, rows=(start, stop), **kept(home, chunk))
    elif what == "lose":
        for i, span in enumerate(list_intervals(home) if home.is_dir() else []):
            if more >> i % 8 & 1:
                interval_path(home, span).unlink()
    else:
        for truth in merge_checkpoint(home, prefixes=[limit]):
            assert_is_truth(truth, x)


def kept(home: Path, chunk: int) -> dict[str, Any]:
    return {"checkpoint": home, "chunk_size": chunk}


@given(st.lists(STEPS, max_size=5), st.booleans(), ROWS, CHUNKS)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_was_done_before_a_run_ends_and_is_right(
    steps: list[tuple[Any, ...]], last_nearest: bool, prefix: int, chunk: int
) -> None:
    x = LAST_NEAREST if last_nearest else BASE
    with (
        tempfile.TemporaryDirectory() as directory,
        dask.config.set(scheduler="sync"),
        # Tidied whenever a block is done.
        patch.object(resume, "TIDY_SECONDS", 0.0),
    ):
        home, log = Path(directory) / "kept", Path(directory) / "log"
        for step in steps:
            try:
                take(step, x, home)
            except UsageError:
                assert step[0] in ("rows", "merge")
        source = CountingSource(ArraySource(x), log)
        prefixes = [prefix, None] if prefix < N else [None]
        for _ in range(2):
            n_read = len(source.reads())
            for truth in ground_truth(source, XQ, K, prefixes=prefixes, **kept(home, chunk)):
                assert_is_truth(truth, x)
        # All was there, and what a prefix had to have searched again was kept.
        assert len(source.reads()) == n_read
        for truth in merge_checkpoint(home, prefixes=prefixes):
            assert_is_truth(truth, x)
