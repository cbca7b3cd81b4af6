"""The one exception that says: do not try again; and the words of another error, fit to stand in its sentence."""

from costopt.schema.replica import FailureReason


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
