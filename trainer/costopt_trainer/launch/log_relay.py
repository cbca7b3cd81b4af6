"""Passes a rank's output to the launcher's stdout: whole lines, at once; remembers the last ones.

Pipes instead of the log files of torch's own agent: nothing grows on disk, no line waits for a polling interval, and a
read-only root file system is enough. Two pipes per rank keep the lines of stdout and stderr whole.
"""

import os
import re
import select
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import IO

REMEMBERED_LINES = 200
"""Enough to find the exception at the end of a long traceback."""
REMEMBERED_CHARACTERS = 2000
"""Per line; the whole termination message is 4,096 bytes."""
REPORT_STARTS = ('{"step":', '{"phase":')
"""Starts of lines with a `costopt.schema.replica.Progress` or `Phase`."""
LONGEST_LINE_BYTES = 65536
"""A longer line is passed on in pieces, so that a rank without line ends does not fill the memory."""

# A carriage return ends a line too (progress bars), unless its line feed may still be on the way.
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


def split_lines(pending: bytes, chunk: bytes) -> tuple[list[bytes], bytes]:
    """The lines that `chunk` completes after `pending` (which has no line end), and what is pending then."""
    text = pending + chunk
    lines, start = [], 0
    for end in _LINE_END.finditer(text, max(0, len(pending) - 1)):  # only what is new can end a line
        lines.append(text[start : end.end()])
        start = end.end()
    return lines, text[start:]


class Sink:
    """The launcher's stdout, shared by all ranks: each write is whole lines, never mixed with another's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._broken = False

    def write(self, data: bytes) -> None:
        """Write all of `data`. Drop it once the reader is gone: ranks must be able to reach their checkpoint."""
        with self._lock:
            while data and not self._broken:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:
                    select.select([], [self._fd], [])
                except OSError:
                    self._broken = True


@dataclass(frozen=True)
class Line:
    """A line a rank wrote, without its end."""

    text: str
    is_stderr: bool


@dataclass
class RankOutput:
    """The two streams of one rank."""

    sink: Sink
    prefix: bytes
    """Before every line; empty for rank 0, whose reports are parsed."""
    lines: deque[Line] = field(default_factory=lambda: deque(maxlen=REMEMBERED_LINES))
    """The last lines of both streams, oldest first."""
    _threads: list[threading.Thread] = field(default_factory=list)

    def relay(self, stream: IO[bytes] | None, *, is_stderr: bool) -> None:
        """Start passing on `stream`, the reading end of the rank's pipe, until it is closed by all writers."""
        if stream is None:
            return
        thread = threading.Thread(target=self._relay, args=(stream, is_stderr), name="relay", daemon=True)
        self._threads.append(thread)
        thread.start()

    def tail(self, count: int) -> tuple[str, ...]:
        """The last `count` lines, oldest first, without reports: the last progress is reported separately."""
        told = [line.text for line in tuple(self.lines) if line.is_stderr or not line.text.startswith(REPORT_STARTS)]
        return tuple(told[-count:])

    def finish(self, timeout_seconds: float) -> None:
        """Wait until all output has been passed on; a child that outlives the rank may hold a pipe open."""
        for thread in self._threads:
            thread.join(timeout_seconds)

    def _relay(self, stream: IO[bytes], is_stderr: bool) -> None:
        pending = b""
        with stream:
            while chunk := os.read(stream.fileno(), LONGEST_LINE_BYTES):
                complete, pending = split_lines(pending, chunk)
                if len(pending) >= LONGEST_LINE_BYTES:
                    complete.append(pending + b"\n")
                    pending = b""
                self._pass_on(complete, is_stderr)
            if pending:
                self._pass_on([pending + b"\n"], is_stderr)

    def _pass_on(self, complete: list[bytes], is_stderr: bool) -> None:
        for line in complete[-REMEMBERED_LINES:]:
            text = line[: 4 * REMEMBERED_CHARACTERS].decode("utf-8", "replace").rstrip("\r\n")
            if text.strip():
                self.lines.append(Line(text[:REMEMBERED_CHARACTERS], is_stderr))
        if complete:
            self.sink.write(b"".join(self.prefix + line for line in complete))
