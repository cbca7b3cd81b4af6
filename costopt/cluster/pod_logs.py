"""The log of a replica's pod, also while it grows."""

import time
from collections.abc import Iterator

from costopt.cluster.api import Cluster, segment
from costopt.cluster.patience import Patience
from costopt.cluster.pods import ReplicaPod, replica_pod
from costopt.cluster.refusals import Forbidden, Invalid, LoginRefused, NotThere, Unreachable, refusal
from costopt.render.pods import CONTAINER
from costopt.schema.replica import says_no_log

AGAIN_AFTER_SECONDS = 1.0
"""Between two tries to read on, while the container starts or after a lost connection."""


def read_log(cluster: Cluster, pod: ReplicaPod, *, tail: int | None = None) -> Iterator[str]:
    """The log so far. Raises NotThere if the pod is gone, Invalid if its container has not started, NoLog if its node
    removed the log."""
    query = {"container": CONTAINER, **({} if tail is None else {"tailLines": str(tail)})}
    for number, line in enumerate(cluster.lines(_path(pod), query, patiently=False)):
        text = line.decode(errors="replace").rstrip()
        if number == 0 and says_no_log(text):
            raise refusal(404, line, str(cluster))
        yield text


def follow_log(cluster: Cluster, pod: ReplicaPod, patience: Patience, *, tail: int | None = None) -> Iterator[str]:
    """The same and what is added, until the container ends or its pod is gone; reconnects after a lost connection.

    Each line comes with its time, so after a loss reading goes on after the last line seen.
    """
    place = _Place()
    while True:
        heard = False
        query = {"container": CONTAINER, "follow": "true", "timestamps": "true", **place.query(tail)}
        try:
            for raw in cluster.lines(_path(pod), query, patiently=True):
                if not heard:
                    heard = True
                    patience.back()
                text = raw.decode(errors="replace")
                if says_no_log(text):  # a log line would begin with its time
                    return
                stamp, _, line = text.partition(" ")
                if place.is_new(_moment(stamp)):
                    yield line.rstrip()
            place.rewind()
            is_over = _is_over(cluster, pod)
            patience.back()
            if is_over:
                return
        except NotThere:
            return
        except Invalid as error:
            if "waiting" not in str(error):  # "... is waiting to start: ContainerCreating"
                raise
        except (Unreachable, LoginRefused, Forbidden) as error:
            place.rewind()
            if not (heard and isinstance(error, Unreachable)):  # a connection that has worked is reopened silently
                patience.lost(error)
        time.sleep(AGAIN_AFTER_SECONDS)


Moment = tuple[str, str]
"""A sortable time in nanoseconds: its seconds, and nine digits."""


class _Place:
    """The last line seen: its time, and its number among lines of that time."""

    def __init__(self) -> None:
        self._moment: Moment = ("", "")
        self._count = 0
        self._to_pass_over = 0

    @property
    def begun(self) -> bool:
        """Whether any line was seen."""
        return bool(self._moment[0])

    def query(self, tail: int | None) -> dict[str, str]:
        """Where the API server starts; it takes whole seconds."""
        if self.begun:
            return {"sinceTime": f"{self._moment[0]}Z"}
        return {} if tail is None else {"tailLines": str(tail)}

    def rewind(self) -> None:
        """Called before reconnecting."""
        self._to_pass_over = self._count

    def is_new(self, moment: Moment) -> bool:
        """Whether a line of that time is new; marks it as seen."""
        if moment > self._moment:
            self._moment, self._count, self._to_pass_over = moment, 1, 0
            return True
        if moment == self._moment and self._to_pass_over == 0:
            self._count += 1
            return True
        self._to_pass_over -= moment == self._moment
        return False


def _moment(stamp: str) -> Moment:
    """RFC 3339 as the API server writes it, which leaves zeros out."""
    seconds, _, fraction = stamp.removesuffix("Z").partition(".")
    return seconds, fraction.ljust(9, "0")


def _is_over(cluster: Cluster, pod: ReplicaPod) -> bool:
    """Whether the log has ended because its container has, and not because the connection was closed."""
    now = replica_pod(cluster.ask("GET", _pod_path(pod)))
    return now is None or now.has_ended or now.uid != pod.uid


def _path(pod: ReplicaPod) -> str:
    return f"{_pod_path(pod)}/log"


def _pod_path(pod: ReplicaPod) -> str:
    return f"/api/v1/namespaces/{segment(pod.namespace)}/pods/{segment(pod.name)}"
