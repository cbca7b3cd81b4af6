"""Looks beyond the watched objects: node labels, and logs of running gangs. Both are asked for as rarely as will do.

Logs are how a gang's progress gets here without a way from pods to the operator: training prints it there, and the
API server hands it on. Only the first replica's log is read, until that falls silent; then all of them are, for a gang
in which any replica stirs has not stalled.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

from costopt.schema.replica import phase_in_log, progress_in_log
from costopt_operator.api import Api, ApiError, Json, Unreachable, object_path
from costopt_operator.node_class import UNKNOWN_NODE, NodeClass, classify
from costopt_operator.observe import LogSight
from costopt_operator.sightings import Pod, parse_time
from costopt_operator.work_queue import Key

log = logging.getLogger(__name__)

LOG_EVERY = timedelta(seconds=30)
"""Between two looks into the log of one gang."""
FIRST_LOG_AFTER = timedelta(seconds=30)
"""How long after a replica has begun its log is looked into first."""
LOG_LINES = 60
LOG_BYTES = 65_536
"""Most of a log that is read at a time; a progress report is printed at least that often."""
CONCURRENT_LOGS = 16
OTHERS_READ = 8
"""Replicas besides the first whose logs are read when that is silent: one that stirs is enough."""
NODE_CLASSES_KEPT = 50_000
NODE_CLASS_SECONDS = 600.0
"""A node's class is asked for again after this long: device labels come a while after the node."""
CONCURRENT_NODES = 16


class Nodes:
    """Classes of nodes, each asked for once in a while."""

    def __init__(self, api: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._classes: dict[str, tuple[NodeClass, float]] = {}
        """Class and when it was asked for, by name."""
        self._forbidden = False

    async def of(self, pods: Iterable[Pod]) -> Mapping[str, NodeClass]:
        """The classes of the nodes that these pods were placed on."""
        wanted = {pod.node for pod in pods if pod.node is not None}
        due = [name for name in wanted if self._is_due(name)]
        for begin in range(0, len(due), CONCURRENT_NODES):
            await asyncio.gather(*(self._ask(name) for name in due[begin : begin + CONCURRENT_NODES]))
        return {name: self._classes[name][0] if name in self._classes else UNKNOWN_NODE for name in wanted}

    def _is_due(self, name: str) -> bool:
        if self._forbidden:
            return False
        return name not in self._classes or self._clock() - self._classes[name][1] > NODE_CLASS_SECONDS

    async def _ask(self, name: str) -> None:
        try:
            node = await self._api.request("GET", f"/api/v1/nodes/{name}")
        except ApiError as error:
            if error.status == 403:
                self._forbidden = True
                log.warning("nodes may not be read, so device models and kinds of capacity are not known")
                return
            if error.status != 404:
                raise
            # It is gone; what it was, if that is known, stays true of the pods that ran there.
            found = self._classes[name][0] if name in self._classes else UNKNOWN_NODE
        else:
            found = classify(node["metadata"].get("labels", {}))
        if len(self._classes) >= NODE_CLASSES_KEPT:
            self._classes.pop(next(iter(self._classes)))
        self._classes[name] = (found, self._clock())

    async def is_lost(self, name: str) -> bool:
        """Whether the node is gone, or its kubelet has not been heard of for long."""
        try:
            node = await self._api.request("GET", f"/api/v1/nodes/{name}")
        except ApiError as error:
            if error.status == 404:
                return True
            raise
        return not _is_ready(node)


def _is_ready(node: Json) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


class Logs:
    """What the logs of running pods showed. They are read in the background, so that no job waits for another's log."""

    def __init__(self, api: Api, on_read: Callable[[Key], None]) -> None:
        self._api = api
        self._on_read = on_read
        """Called with a job of which a log has been read."""
        self._places = asyncio.Semaphore(CONCURRENT_LOGS)
        self._seen: dict[str, LogSight] = {}
        self._read_at: dict[str, datetime] = {}
        self._reading: set[asyncio.Task[None]] = set()

    def of(self, pods: Iterable[Pod], stall_timeout: timedelta, now: datetime) -> Mapping[str, LogSight]:
        """The latest sights of `pods`; logs that are due are read meanwhile."""
        there = list(pods)
        running = [pod for pod in there if pod.running and not pod.ended]
        first = [pod for pod in running if pod.index == 0]
        silent = {(pod.stage, pod.attempt) for pod in first if self._is_silent(pod, stall_timeout, now)}
        others = [pod for pod in running if pod.index != 0 and (pod.stage, pod.attempt) in silent]
        for pod in (*first, *sorted(others, key=lambda pod: pod.index)[:OTHERS_READ]):
            if self._is_due(pod, now):
                self._read_at[pod.uid] = now
                task = asyncio.ensure_future(self._read(pod))
                self._reading.add(task)
                task.add_done_callback(self._reading.discard)
        return {pod.uid: self._seen[pod.uid] for pod in there if pod.uid in self._seen}

    def forget(self, uids: Iterable[str]) -> None:
        """These pods have been recorded."""
        for uid in uids:
            self._seen.pop(uid, None)
            self._read_at.pop(uid, None)

    def _is_due(self, pod: Pod, now: datetime) -> bool:
        read_at = self._read_at.get(pod.uid)
        if read_at is not None:
            return now - read_at >= LOG_EVERY
        # The first look waits as well: a replica that has just begun has nothing to say.
        return pod.started is not None and now - parse_time(pod.started) >= FIRST_LOG_AFTER

    def _is_silent(self, pod: Pod, stall_timeout: timedelta, now: datetime) -> bool:
        sight = self._seen.get(pod.uid)
        since = (sight and sight.last_line) or (parse_time(pod.started) if pod.started else now)
        return now - since > stall_timeout / 2

    async def _read(self, pod: Pod) -> None:
        query = {
            "tailLines": str(LOG_LINES),
            "limitBytes": str(LOG_BYTES),
            "timestamps": "true",
            "container": "trainer",
        }
        async with self._places:
            try:
                text = await self._api.text(object_path("Pod", pod.namespace, pod.name) + "/log", query)
            except (ApiError, *Unreachable) as error:
                # Its node may be cut off, or the pod has just gone. What is not known cannot have stalled.
                log.debug("log of %s/%s cannot be read: %s", pod.namespace, pod.name, error)
                return
        if pod.uid in self._read_at:  # else it has ended and been recorded meanwhile
            self._seen[pod.uid] = read_log(text, self._seen.get(pod.uid))
            self._on_read(pod.key)


def read_log(text: str, before: LogSight | None) -> LogSight:
    """What the end of a log shows, each line beginning with its time; progress that has scrolled away is kept."""
    lines = text.splitlines()
    times = [line.split(" ", 1)[0] for line in lines[-1:]]
    progress = progress_in_log([line.split(" ", 1)[-1] for line in lines])
    try:
        last = parse_time(times[0]) if times else None
    except ValueError:
        last = None
    phase = phase_in_log(lines, before.phase if before else None)
    return LogSight(
        last or (before and before.last_line) or None, progress or (before and before.progress) or None, phase
    )
