"""The exceptions that say whether to try again; and what other errors say, fit to stand in their sentence."""

import re
from collections.abc import Sequence

from costopt.schema.replica import FailureReason

_DEVICE_OUT_OF_MEMORY = re.compile(
    r"(cuda|hip|xpu|mps|nccl)\b.*out of memory|(CUBLAS|CUDNN|HIPBLAS)_STATUS_ALLOC_FAILED", re.IGNORECASE | re.DOTALL
)
_OUT_OF_MEMORY = re.compile(r"out of memory|(can't|cannot) allocate memory|std::bad_alloc", re.IGNORECASE)


class NotRetryable(Exception):
    """A mistake in settings or data, or a state of training, that no restart can mend.

    The rank ends with exit code 78 and the job fails at once with `reason` and the sentence given.
    """

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(safe(message))
        self.reason: FailureReason = reason


class Retryable(Exception):
    """A trouble from outside that may pass, of which the sentence given says all: a traceback would add nothing.

    The rank ends with exit code 1, and its attempt with `reason`.
    """

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(safe(message))
        self.reason: FailureReason = reason


def safe(text: str) -> str:
    """`text` on one line, with what controls a terminal or is half a character written out: a name or a value of the
    user's data may hold anything."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _written_out(character) for character in text)


def quoted(value: object, limit: int = 60) -> str:
    """A value of the user's data as a sentence quotes it: on one line, and no longer than `limit`."""
    text = "null" if value is None else repr(value if not isinstance(value, str) else value[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _written_out(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a name that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of an error's text, which may quote a file; `limit` characters at most, and none that controls."""
    line = str(error).strip().partition("\n")[0].rstrip(".:")
    shown = "".join(character if character.isprintable() else "?" for character in line[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def memory_reason(types: Sequence[str], message: str) -> FailureReason | None:
    """Which memory ran out, by an exception's classes and its text."""
    # torch.OutOfMemoryError is raised for accelerators only; the machine's memory has Python's MemoryError.
    if "OutOfMemoryError" in types or _DEVICE_OUT_OF_MEMORY.search(message):
        return "DeviceOutOfMemory"
    return "OutOfMemory" if "MemoryError" in types or _OUT_OF_MEMORY.search(message) else None
