"""Why a rank failed, in its own words: from its error file, else from its last lines.

The error file is torch's own (`TORCHELASTIC_ERROR_FILE`), so a user's script with torch's `@record` works too; the
worker adds `reason` and an exact `time` to torch's `extraInfo`.
"""

import json
import re
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from costopt.hostile import read_json
from costopt.schema.replica import FailureReason
from costopt_trainer.errors import memory_reason
from costopt_trainer.launch.log_relay import Line

ERROR_FILE_VARIABLE = "TORCHELASTIC_ERROR_FILE"

_LOST_PEER_SOURCES = re.compile(r"gloo|nccl|tcpstore|c10d|processgroup|process group|\bDist\w*Error\b", re.IGNORECASE)
_LOST_PEER_SIGNS = re.compile(
    r"connection (was )?(closed|reset|refused|aborted|lost)|closed by peer|broken pipe|socket closed|socket timeout"
    r"|timed ?out|timeout|remote process exited|network error|remote ?error|communicator was aborted|socket error"
    r"|failed to (connect|recv|send)|could not connect|recvValue failed|sendBytes failed",
    re.IGNORECASE,
)
_HELPER_KILLED = re.compile(
    r"(DataLoader worker|process that verifies) .*killed by signal: Killed|DataLoader worker .*exited unexpectedly",
    re.DOTALL,
)
"""What torch's DataLoader raises if one of its processes is gone; the rank itself was not killed."""
_EXCEPTION_LINE = re.compile(r"^([A-Za-z_][\w.]*)(?:: (.*))?$")
_WHAT_LINE = re.compile(r"^\s*what\(\):\s*(.*)$")
_TORCH_PREFIX = re.compile(r"^\[rank\d+\]: ?")
"""torch.distributed prefixes tracebacks with it once a process group exists."""
_TRACEBACK = "Traceback (most recent call last):"


@dataclass(frozen=True)
class RankError:
    """The exception that ended a rank."""

    type: str
    """Its class, without the module; empty if unknown."""
    message: str
    reason: FailureReason | None = None
    """None if the rank did not say."""
    time: float | None = None
    """When it was raised, seconds since 1970; None if not known to better than a second."""

    @property
    def sentence(self) -> str:
        """Type and message, as Python prints them."""
        return ": ".join(part for part in (self.type, self.message) if part)

    @property
    def is_echo(self) -> bool:
        """Whether this looks like the effect of another rank's end: a collective that lost its other side.

        Both a sign (closed, reset, timed out) and a source (gloo, NCCL, torch's store) are required: a failed download
        or a wrong NCCL setting is no echo.
        """
        return bool(_LOST_PEER_SOURCES.search(self.sentence) and _LOST_PEER_SIGNS.search(self.sentence))

    @property
    def memory_reason(self) -> FailureReason | None:
        """Which memory ran out, an accelerator's or the machine's; None: it names neither."""
        return memory_reason([self.type], self.message)

    @property
    def is_of_a_killed_helper(self) -> bool:
        """Whether it says that a helper process of the rank was killed."""
        return bool(_HELPER_KILLED.search(self.message))


def record_error(path: Path, error: BaseException, *, reason: FailureReason | None) -> None:
    """Write the error file of this rank."""
    extra = {"py_callstack": "".join(traceback.format_exception(error)), "timestamp": str(int(time.time()))}
    extra |= {"time": repr(time.time())} | ({"reason": reason} if reason else {})
    sentence = str(error) if reason else f"{type(error).__name__}: {error}"
    path.write_text(json.dumps({"message": {"message": sentence, "extraInfo": extra}}))


def read_error(path: Path) -> RankError | None:
    """The error a rank recorded; None if it recorded none, was killed while writing, or wrote something else."""
    try:
        message = read_json(path)["message"]
        if isinstance(message, str):
            return _split(message)
        extra = message.get("extraInfo", {})
        reason = extra.get("reason")
        sentence = message["message"]
        error = RankError("", sentence) if reason and isinstance(sentence, str) else _split(sentence)
        return RankError(error.type, error.message, _known_reason(reason), _seconds(extra.get("time")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def error_from_lines(lines: Sequence[Line]) -> RankError | None:
    """The exception at the end of the last traceback on stderr, or C++'s last words; None without either."""
    texts = [_TORCH_PREFIX.sub("", line.text) for line in lines if line.is_stderr]
    for index in range(len(texts) - 1, -1, -1):
        if match := _WHAT_LINE.match(texts[index]):
            return RankError("", match[1])
        if texts[index].endswith(_TRACEBACK):
            for text in texts[index + 1 :]:
                if (match := _EXCEPTION_LINE.match(text)) is not None:
                    return RankError(match[1].rpartition(".")[2], match[2] or "")
    return None


def _split(sentence: str) -> RankError:
    match = _EXCEPTION_LINE.match(sentence.partition("\n")[0])
    if match is None:
        return RankError("", sentence)
    return RankError(match[1].rpartition(".")[2], sentence.partition(": ")[2])


def _known_reason(reason: Any) -> FailureReason | None:
    return reason if reason in get_args(FailureReason) else None


def _seconds(text: Any) -> float | None:
    """A time as `record_error` writes it. Raises ValueError for an impossible one."""
    if not isinstance(text, str):
        return None
    datetime.fromtimestamp(float(text), UTC)
    return float(text)
