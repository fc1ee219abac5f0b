"""What holds for all tests: how random ones are drawn, that none hangs, and that Ctrl-C means what it means."""

import os
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

# Time is not what these tests are about, and a busy machine is no failure. What CI finds must be found again by whoever
# looks into it, so there the draws are always the same; elsewhere each run explores further.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("explore"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "explore")

# A shell that starts a command in the background has it ignore SIGINT, and children inherit that; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

HANG_S = 400  # No test takes so long; one that hangs is a failure, not a silence.


@pytest.fixture(autouse=True)
def no_test_hangs():
    if sys.platform == "win32":
        yield
        return

    def fail(_signal, _frame):
        message = f"this test has not ended after {HANG_S} s"
        raise TimeoutError(message)

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
