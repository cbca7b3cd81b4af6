"""What holds for all tests: neither a busy machine nor the way they were started is a reason to fail."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("searching", settings.get_profile("patient"), derandomize=False)
# The same examples each time, so that a change is blamed only for what it broke. HYPOTHESIS=searching finds new ones.
settings.load_profile(os.environ.get("HYPOTHESIS", "patient"))

# Started in the background or by nohup, programs that are to hear these signals would inherit that they ignore them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _environment_is_as_it_was() -> Iterator[None]:
    """Libraries set variables when first used (as torch does); the next test must not find them."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)
