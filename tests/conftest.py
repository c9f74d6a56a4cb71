"""Settings of all tests."""

import os
import signal
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# No test reaches the Hub: nothing listens there. Those that need one bring their own.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"

# A landing must not depend on luck: in CI the examples are the same every time. Elsewhere they
# are new ones, and a failing one is remembered under .hypothesis/.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("here", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# A shell lets what it runs in the background ignore interrupts, nohup what it runs hangups; so
# would all programs that the tests start and send them to.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _uses_slurm(nodeid: str) -> bool:
    return nodeid.startswith("tests/slurm/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that use Slurm: they wait most, and last longest of what stays together."""
    items.sort(key=lambda item: not _uses_slurm(item.nodeid))


class Together(LoadScopeScheduling):
    """Which tests go to one process, where several run them: a file's, and all that use Slurm.

    Those look for processes by the numbers of jobs, which two Slurms would both give.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "slurm" if _uses_slurm(nodeid) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together | None:
    """Have xdist do so, unless it was told another way."""
    return Together(config, log) if config.getoption("dist") == "loadscope" else None
