"""Everything the program prints goes through here, which makes foreign text safe.

A server's message, a log line, a name: each may hold characters that move the cursor, change the terminal's title or
hide the text before them, and characters that the terminal's encoding lacks. While a command runs, standard output and
error are `Outlet`s, so that no command can forget it; rich, whose own escape sequences are wanted, prints through
`safe_console.SafeConsole`.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import TextIO, cast

_COLOR = re.compile(r"\x1b\[[0-9;:]*m")
"""Colours are harmless but disturb as text, so they are removed."""

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters except tab and line feed, and characters that change the text direction."""


def safe(text: str, encoding: str = "utf-8") -> str:
    """The text with characters that a terminal would obey or cannot show as escapes: `\\x1b`, `\\u2713`."""
    if "\x1b" in text:
        text = _COLOR.sub("", text)
    text = _UNSAFE.sub(_written_out, text)
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except (LookupError, ValueError):
        return text.encode("ascii", "backslashreplace").decode("ascii")


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class Outlet(io.TextIOBase):
    """A stream that lets through only what is safe."""

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner
        """The wrapped stream; for writers with their own escape sequences, who make all else safe."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The inner stream's."""
        return self.inner.encoding or "utf-8"

    def write(self, text: str) -> int:
        """Write what is safe of the text."""
        self.inner.write(safe(text, self.encoding))
        return len(text)

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Whether a terminal is at its end."""
        return self.inner.isatty()

    def fileno(self) -> int:
        """The inner stream's."""
        return self.inner.fileno()

    def flush(self) -> None:
        """Flush the inner stream."""
        self.inner.flush()

    def close(self) -> None:
        """Leave the inner stream open."""


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 -- as long as the program runs


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Standard output and error are safe until the end of the block."""
    before = sys.stdout, sys.stderr
    # Python has None for a stream that was closed at start; a command without output is still worth running.
    sys.stdout, sys.stderr = (cast("TextIO", Outlet(stream or _nowhere())) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
