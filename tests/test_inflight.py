"""A run's requests are divided: no worker has none, none more than helps."""

from __future__ import annotations

import pytest

from haag_vq import inflight
from haag_vq.errors import UsageError


@pytest.mark.parametrize(
    ("total", "n_workers", "each"),
    [("", 1, 8), ("", 4, 8), ("", 8, 4), ("", 100, 1), ("3", 1, 3), ("3", 2, 1), ("64", 4, 8)],
)
def test_the_total_is_divided(
    monkeypatch: pytest.MonkeyPatch, total: str, n_workers: int, each: int
) -> None:
    monkeypatch.setenv(inflight.VARIABLE, total)
    assert inflight.of_each_worker(n_workers) == each


def test_this_process_has_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(inflight.VARIABLE, raising=False)
    assert inflight.of_this_process() == 8
    monkeypatch.setenv(inflight.VARIABLE, "20")
    assert inflight.of_this_process() == 20


@pytest.mark.parametrize("text", ["0", "many", "nan", "inf"])
def test_what_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(inflight.VARIABLE, text)
    for asked in (inflight.of_this_process, lambda: inflight.of_each_worker(2)):
        with pytest.raises(UsageError, match=f"HAAG_VQ_HUB_REQUESTS='{text}' must be a number"):
            asked()
