"""Headers are read right while Python's parser is disturbed by other threads."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from haag_vq.parsing import undisturbed
from haag_vq.sources import open_source
from tests.support.files import write_npy


@pytest.fixture
def _threads_take_turns_within_a_parse() -> Iterator[None]:
    """Garbage is collected all the time, and each time another thread goes on."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()

    def pause(phase: str, info: dict[str, int]) -> None:
        time.sleep(0)

    gc.callbacks.append(pause)
    gc.set_threshold(10)
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)
    gc.callbacks.remove(pause)


@pytest.mark.usefixtures("_threads_take_turns_within_a_parse")
def test_many_files_are_opened_by_threads_that_take_turns(tmp_path: Path) -> None:
    for i in range(16):
        write_npy(tmp_path / f"{i}.npy", np.zeros((3, 2), np.float32))
    with ThreadPoolExecutor(8) as pool:
        opened = pool.map(open_source, [tmp_path / f"{i % 16}.npy" for i in range(400)])
        assert {source.n_rows for source in opened} == {3}


def test_another_fault_is_not_hidden() -> None:
    def fail() -> NoReturn:
        raise SystemError("something else")

    with pytest.raises(SystemError, match="something else"):
        undisturbed(fail)
