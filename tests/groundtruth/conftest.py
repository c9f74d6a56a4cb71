"""FAISS on one thread: on blocks this small, waiting for the others is most of the time."""

from __future__ import annotations

import pytest

from haag_vq.groundtruth import engine


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    engine.use_threads(1)
