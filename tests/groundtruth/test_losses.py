"""When the death of a worker ends a run, and what is said of it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from haag_vq.deaths import Cause, Death, Kind
from haag_vq.errors import ClusterError, InsufficientMemoryError
from haag_vq.groundtruth.attempts import attempted, losses_of, open_attempts
from haag_vq.groundtruth.losses import Losses
from haag_vq.memory import Projection

SPANS = [(0, 100), (100, 200)]
MIB = 1 << 20


def losses(directory: Path | None = None) -> Losses:
    return Losses(SPANS, Projection(MIB), directory, lambda a, b: f"rows {a}:{b} (x.npy)")


def death(kind: Kind, *running: int | str, limit: int = 900 * MIB, worker: str = "w") -> Death:
    cause = Cause(kind, "somebody killed it", 950 * MIB, limit)
    return Death(worker, "node7", 1.0, running, cause)


def test_out_of_memory_twice_over_the_same_rows_ends_it() -> None:
    told = losses()
    with pytest.warns(UserWarning, match=r"rows 0:100 \(x.npy\) ran out of memory on node7"):
        told(death("memory", 0))
    with pytest.warns(UserWarning, match="rows 100:200"):
        told(death("memory", 1))
    with pytest.raises(InsufficientMemoryError) as caught:
        told(death("memory", 1))
    assert str(caught.value) == (
        "rows 100:200 (x.npy) ran out of memory on node7: the worker was seen with 950 MiB, its "
        "limit was 900 MiB, and somebody killed it; 281 MiB (block buffer 1 MiB + process 280 MiB) "
        "had been projected. That was the second time, so the run stops. Give each worker more "
        "(memory: of a Slurm profile, memory_limit= of connect, fewer --workers), take a smaller "
        "--chunk-size (chunk_size=), or ask fewer queries at once."
    )


def test_those_who_were_ended_never_count() -> None:
    told = losses()
    for _ in range(50):
        told(death("ended", 0))
    with pytest.warns(UserWarning, match="tried once more"):
        told(death("memory", 0))


def test_four_deaths_that_nobody_explains_end_it() -> None:
    told = losses()
    for _ in range(3):
        told(death("unknown", 0))
        told(death("unknown", 1))
    with pytest.raises(ClusterError, match=r"rows 100:200 \(x.npy\) were lost .* 4 times"):
        told(death("unknown", 1))


def test_a_merge_counts_by_its_name() -> None:
    told = losses()
    with pytest.warns(UserWarning, match="task merge-7"):
        told(death("memory", "merge-7"))
    with pytest.raises(InsufficientMemoryError, match="task merge-7"):
        told(death("memory", "merge-7"))


def test_with_a_checkpoint_the_notes_say_what_was_run(tmp_path: Path) -> None:
    told = losses(tmp_path)
    with ExitStack() as stack:
        for span, worker in zip(SPANS, ("one", "two"), strict=True):
            stack.enter_context(attempted(str(tmp_path), span, 5, worker))
        # The scheduler had sent the first block; by its own note the worker was at the second.
        with pytest.warns(UserWarning, match="rows 100:200"):
            told(death("memory", 0, worker="two"))
    assert open_attempts(tmp_path) == []
    assert losses_of(tmp_path, SPANS[0]) == []
    (loss,) = losses_of(tmp_path, SPANS[1])
    assert (loss.kind, loss.limit_bytes) == ("memory", 900 * MIB)


@pytest.mark.parametrize(("limit", "ends"), [(900 * MIB, True), (901 * MIB, False)])
def test_counts_outlive_a_run_unless_there_is_more_memory(
    tmp_path: Path, limit: int, ends: bool
) -> None:
    with attempted(str(tmp_path), SPANS[0], 5, "w"), pytest.warns(UserWarning, match="once more"):
        losses(tmp_path)(death("memory", 0))
    with attempted(str(tmp_path), SPANS[0], 5, "w"):
        if ends:
            with pytest.raises(InsufficientMemoryError, match="second time"):
                losses(tmp_path)(death("memory", 0, limit=limit))
        else:
            with pytest.warns(UserWarning, match="once more"):
                losses(tmp_path)(death("memory", 0, limit=limit))


def test_who_left_no_note_was_at_what_it_was_sent_first(tmp_path: Path) -> None:
    told = losses(tmp_path)
    for _ in range(3):
        told(death("unknown", 1))
    with pytest.raises(ClusterError, match="rows 100:200"):
        told(death("unknown", 1))
