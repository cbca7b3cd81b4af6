"""What holds for all tests: neither a busy machine nor the way they were started is a reason to fail."""

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started by a shell in the background: programs that are to hear a Ctrl-C would inherit that they ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
