"""A signal that ends a run does so, wherever its exception was raised."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from haag_vq import interrupts, search_rows, workers
from haag_vq.deaths import Deaths
from haag_vq.lags import Lags
from haag_vq.sources import open_source

# Raised while an object is finalized, it is nobody's to catch.
LOST = """
import os, signal, sys
from haag_vq import interrupts
class Finalized:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(1000):
            pass
with interrupts.end_in_order():
    Finalized()
    print("still here", flush=True)
    try:
        interrupts.check()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise SystemExit(130)
"""


@pytest.mark.parametrize(
    ("number", "told"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, ""), (signal.SIGHUP, "")]
)
def test_what_was_lost_in_a_finalizer_is_raised_again(number: signal.Signals, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST, str(int(number))], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split("\n") == ["still here", *filter(None, [told]), ""]
    assert "Exception ignored" in done.stderr
    assert done.returncode == 128 + number


def test_a_wait_for_workers_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_pending", KeyboardInterrupt())
    never = SimpleNamespace(done=lambda: False)
    deaths, lags = Deaths(None, lambda death: None), Lags(lambda lag: None)
    with pytest.raises(KeyboardInterrupt):
        workers._watch(None, never, "search", 1, None, deaths, lags)


def test_rows_that_are_searched_without_workers_end_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "_pending", KeyboardInterrupt())
    np.save(tmp_path / "x.npy", np.eye(4, dtype=np.float32))
    base = open_source(tmp_path / "x.npy")
    with pytest.raises(KeyboardInterrupt):
        search_rows(base, np.eye(4), k=1, rows=(0, 4), checkpoint=tmp_path / "kept")


def test_a_new_run_knows_nothing_of_the_last_ones_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_pending", KeyboardInterrupt())
    with interrupts.end_in_order():
        interrupts.check()


def test_what_was_caught_is_not_raised_once_more_by_what_comes_after() -> None:
    """In a program that calls the command line, or tests of it."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(KeyboardInterrupt), interrupts.end_in_order():
        signal.raise_signal(signal.SIGINT)
    interrupts.check()
    assert {n: signal.getsignal(n) for n in before} == before


def test_what_is_ignored_stays_so() -> None:
    """As under nohup, or in the background of a script."""
    ignored = (
        "import os, signal; from haag_vq import interrupts; "
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with interrupts.end_in_order():\n"
        "    os.kill(os.getpid(), signal.SIGHUP); interrupts.check(); print('on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", ignored], capture_output=True, text=True, env=dict(os.environ)
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")
