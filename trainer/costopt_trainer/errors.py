"""The one exception that says: do not try again."""

from costopt.schema.replica import FailureReason


class NotRetryable(Exception):
    """A mistake in settings or data, or a state of training, that no restart can mend.

    The rank ends with exit code 78 and the job fails at once with `reason` and the sentence given.
    """

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.reason: FailureReason = reason
