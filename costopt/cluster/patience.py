"""Waits out outages, for a while: a command that follows a job goes on when the API server or a node is back."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from costopt.cluster.refusals import Forbidden, LoginRefused, Unreachable
from costopt.refused import Refused

SECONDS = 600.0
"""How long an outage is waited out: an upgrade of a control plane takes some minutes."""
AGAIN_AFTER_SECONDS = 1.0
"""Between two tries."""

Answer = TypeVar("Answer")


class Told:
    """What the user was told about outages; shared by all that wait for one cluster, so that it is said once."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def lost(self, sentence: str) -> None:
        """Say it, unless it was already said in this outage."""
        with self._lock:
            if sentence not in self._said:
                self._said.add(sentence)
                self._tell(f"{sentence.removesuffix('; try again')}; trying again for up to {SECONDS / 60:.0f} minutes")

    def back(self) -> None:
        """Say that the outage is over, if one was reported."""
        with self._lock:
            if self._said:
                self._said.clear()
                self._tell("the cluster answers again")


class Patience:
    """Waits through one outage at a time."""

    def __init__(self, told: Told, clock: Callable[[], float] = time.monotonic) -> None:
        self._told = told
        self._clock = clock
        self._since: float | None = None

    def lost(self, error: Refused) -> None:
        """No answer came. Raises Refused once patience is over, or at once if waiting does not help."""
        # An API server that has just started may not know its permissions yet.
        if self._since is None and not isinstance(error, Unreachable):
            raise error
        if self._since is None:
            self._since = self._clock()
        if self._clock() - self._since >= SECONDS:
            raise Refused(f"{error}; given up after {SECONDS / 60:.0f} minutes, while the job goes on")
        self._told.lost(str(error))

    def back(self) -> None:
        """An answer came."""
        if self._since is not None:
            self._since = None
            self._told.back()

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """The answer, after several tries if needed."""
        while True:
            try:
                answer = question()
            except (Unreachable, LoginRefused, Forbidden) as error:
                self.lost(error)
            else:
                self.back()
                return answer
            time.sleep(AGAIN_AFTER_SECONDS)
