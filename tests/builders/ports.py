"""Ports of this machine for programs that the tests start."""

import contextlib
import itertools
import os
import socket

_NEXT = itertools.count()


def free_port() -> int:
    """A port nobody listens on now, and none of those that the system gives to whoever connects in the meantime.

    Each process of the tests has ports of its own, in an order of its own.
    """
    while True:
        port = 12_000 + (os.getpid() * 1_009 + next(_NEXT)) % 18_000
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
