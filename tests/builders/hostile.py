"""What anybody may put in place of a file: how to do it, by name. And in place of a value."""

import copy
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

TOO_LARGE_BYTES = 2**40
"""A tebibyte without content: reading all of it runs out of memory."""


def _link(path: Path) -> None:
    elsewhere = path.with_name(f"{path.name}.elsewhere")
    if path.exists():
        path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _large(path: Path) -> None:
    path.touch()
    os.truncate(path, TOO_LARGE_BYTES)


def _bytes(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def _instead(put: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink(missing_ok=True)
        put(path)

    return replace


POISONS: dict[str, Callable[[Path], None]] = {
    "a link to what was there": _link,
    "a link to a device": _instead(lambda path: path.symlink_to("/dev/zero")),
    "a pipe": _instead(os.mkfifo),
    "a folder": _instead(Path.mkdir),
    "a tebibyte": _large,
    "nothing": _bytes(b""),
    "no UTF-8": _bytes(b'{"stage": "\xff\xfe"}'),
    "deep JSON": _bytes(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "not a number": _bytes(b'{"step": NaN}'),
    "a huge number": _bytes(b'{"step": ' + b"9" * 100_000 + b"}"),
    "half a surrogate pair": _bytes(b'{"stage": "\\ud800"}'),
    "a name that the terminal would obey": _bytes(b'{"\\u001b]0;pwned\\u0007\\n\\n\\u202e": "\\u001b[2J"}'),
}


def one_of(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    """A copy of one of them: a test that changes it does not change later draws."""
    return st.sampled_from(values).map(copy.deepcopy)


@contextmanager
def within(seconds: float, *, then: type[BaseException] = pytest.fail.Exception) -> Iterator[None]:
    """Fail the test if the block takes longer; also if it waits in a system call, or catches every Exception.

    `then`: raised in it instead, such as the KeyboardInterrupt of a user who has seen enough.

    A process has one such timer, and pytest-timeout may have set it: its timer goes on afterwards, and comes first if
    it has less time left.
    """

    def give_up(_number: int, _frame: object) -> None:
        raise then(f"not within {seconds} s")

    left, interval = signal.getitimer(signal.ITIMER_REAL)
    if 0 < left <= seconds:
        yield
        return
    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, give_up)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.001), interval)


def poisoned(folder: Path, copy: Path, file: str, poison: str) -> Path:
    """A copy of `folder` in which the poison has changed `file`."""
    shutil.copytree(folder, copy)
    POISONS[poison](copy / file)
    return copy
