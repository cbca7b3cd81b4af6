"""The one exception that says: do not try again; and what other errors say, fit to stand in its sentence."""

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
        super().__init__(message)
        self.reason: FailureReason = reason


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
