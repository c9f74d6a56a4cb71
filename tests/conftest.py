"""Settings of all tests."""

import os
import signal

from hypothesis import settings

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
