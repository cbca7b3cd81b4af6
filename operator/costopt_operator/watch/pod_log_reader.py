"""Reads the logs of gangs: training progress, signs of life, and the last lines of ended pods.

Progress reaches the operator through logs, so pods need no connection to it: training prints progress, the API server
serves the log. Only the log of the gang's speaker is read (its running replica of the lowest index) until it is silent
from one reading to the next. Then some others are read too: a gang has not stalled while any replica writes. Logs are
read in the background, so that no job waits for another's log.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from costopt.accounting.outcome import Attempt
from costopt.plan.silence import Silence, look_every
from costopt.render.pods import CONTAINER
from costopt.schema.replica import log_lines, phase_in_log, progress_in_log, says_no_log, time_in_log
from costopt_operator.decide.keys import Key
from costopt_operator.decide.objects import Pod
from costopt_operator.decide.observe import LogSight
from costopt_operator.kube.api import Api, ApiError, Unreachable, object_path

log = logging.getLogger(__name__)

LOG_LINES = 60
LOG_BYTES = 65_536
"""Bytes of a log read at a time; a progress report is printed at least once in that many."""
CONCURRENT_LOGS = 16
OTHERS_READ = 8
"""Replicas besides the speaker whose logs are read while it is silent: one that writes is enough."""
LATE_LOOKS = 2
"""After this many intervals a reading is out of date, and the time since then does not count as silence."""
LAST_WORDS_SECONDS = 5.0
"""How long the last lines of a pod are waited for: a node that does not answer delays nothing for longer."""
FOLLOWED_WITHIN_SECONDS = 1.0
"""How long the stop of a pod waits for its log to be followed: a node that does not answer delays it for no longer."""
FOLLOW_SECONDS = 600.0
"""Longest silence of a log that is followed."""
LAST_WORDS_PAUSE_SECONDS = 0.5
"""Between two tries within that time."""


@dataclass
class _Heard:
    """What is known of one pod's log."""

    asked: timedelta
    """When it was last requested; at first, since when the pod is known to run."""
    silence: Silence = field(default_factory=Silence)
    said: LogSight = field(default_factory=LogSight)
    """What its lines have shown, without the silence."""
    reading: bool = False
    """A request is in progress."""


class Logs:
    """Reads the logs of the pods of all jobs."""

    def __init__(self, api: Api, on_read: Callable[[Key], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._on_read = on_read
        """Called with a job of which a log has been read."""
        self._steady_clock = clock
        self._places = asyncio.Semaphore(CONCURRENT_LOGS)
        self._places_for_last_words = asyncio.Semaphore(CONCURRENT_LOGS)
        self._places_to_follow = asyncio.Semaphore(CONCURRENT_LOGS)
        self._heard: dict[str, _Heard] = {}
        """By pod uid."""
        self._last_words: dict[str, bool] = {}
        """By pod uid: whether its last lines have been read, or given up."""
        self._followed: dict[str, asyncio.Task[None]] = {}
        """By pod uid: the reading of a log to its end."""
        self._follows: dict[str, asyncio.Event] = {}
        """By pod uid: whether that has begun to come, or never will."""
        self._tasks: set[asyncio.Task[None]] = set()

    def of(self, pods: Iterable[Pod], stall_timeout: timedelta) -> Mapping[str, LogSight]:
        """The latest readings of the logs of `pods`; starts those that are due in the background."""
        there, every = list(pods), look_every(stall_timeout)
        for pod in self._listened_to(there):
            heard = self._heard.setdefault(pod.uid, _Heard(self._now()))
            # The first reading waits as well: a replica that has just started has written nothing.
            if not heard.reading and self._now() - heard.asked >= every:
                heard.reading, heard.asked = True, self._now()
                self._in_background(self._look(pod, heard, LATE_LOOKS * every))
        return {pod.uid: self._sight(self._heard[pod.uid], every) for pod in there if pod.uid in self._heard}

    def follow(self, pods: Iterable[Pod]) -> None:
        """Follow the logs of pods that are being deleted until they end: their nodes delete the logs then."""
        for pod in pods:
            if pod.uid not in self._followed:
                self._follows[pod.uid] = asyncio.Event()
                self._followed[pod.uid] = self._in_background(self._follow(pod, self._follows[pod.uid]))

    async def followed(self, pods: Iterable[Pod]) -> None:
        """Follow the logs of pods that are about to be stopped; returns once they come, or do not for a moment.

        A program that ends at once when it is told to, and its log with it, would have been heard of too late.
        """
        pods = list(pods)
        self.follow(pods)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FOLLOWED_WITHIN_SECONDS):
                for pod in pods:
                    await self._follows[pod.uid].wait()

    def last_words(self, pods: Iterable[Pod]) -> frozenset[str]:
        """Uids of the ended pods among these whose logs are still being read for the last time."""
        pods = list(pods)
        for pod in pods:
            if pod.uid not in self._last_words:
                self._last_words[pod.uid] = False
                self._in_background(self._hear_last_words(pod))
        return frozenset(pod.uid for pod in pods if not self._last_words[pod.uid])

    def forget(self, uids: Iterable[str]) -> None:
        """These pods have been recorded."""
        for uid in uids:
            self._heard.pop(uid, None)
            self._last_words.pop(uid, None)
            self._followed.pop(uid, None)
            self._follows.pop(uid, None)

    def _now(self) -> timedelta:
        return timedelta(seconds=self._steady_clock())

    def _listened_to(self, pods: Iterable[Pod]) -> Iterator[Pod]:
        gangs: dict[Attempt, list[Pod]] = {}
        running = [pod for pod in pods if pod.running and not pod.ended]
        for pod in sorted(running, key=lambda pod: (pod.index, pod.uid)):
            gangs.setdefault((pod.stage, pod.attempt), []).append(pod)
        for speaker, *others in gangs.values():
            yield speaker
            heard = self._heard.get(speaker.uid)
            if heard is not None and heard.silence.known > timedelta(0):
                # The last replica is among them: in a pipeline it is often the one that reports.
                yield from [*others[-1:], *others[:-1]][:OTHERS_READ]

    def _sight(self, heard: _Heard, every: timedelta) -> LogSight:
        until = heard.silence.until
        is_of_now = until is not None and self._now() - until <= LATE_LOOKS * every
        return replace(heard.said, silent_for=heard.silence.length if is_of_now else None)

    async def _look(self, pod: Pod, heard: _Heard, longest: timedelta) -> None:
        try:
            async with self._places:
                asked = self._now()
                try:
                    lines = await self._read(pod)
                except (ApiError, *Unreachable) as error:
                    # Its node may be unreachable, or the pod is gone. Without a log nothing counts as stalled.
                    log.debug("log of %s/%s cannot be read: %s", pod.namespace, pod.name, error)
                    heard.silence = heard.silence.missed()
                    return
            heard.silence = heard.silence.heard(_mark_of(lines), asked=asked, answered=self._now(), longest=longest)
            heard.said = read_log(lines, heard.said)
        finally:
            heard.reading = False
        self._on_read(pod.key)

    async def _follow(self, pod: Pod, begun: asyncio.Event) -> None:
        end = b""
        query = {"tailLines": str(LOG_LINES), "timestamps": "true", "container": CONTAINER, "follow": "true"}
        try:
            async with asyncio.timeout((pod.grace_seconds or 0) + LAST_WORDS_SECONDS), self._places_to_follow:
                path = object_path("Pod", pod.namespace, pod.name) + "/log"
                async for chunk in self._api.chunks(path, query, FOLLOW_SECONDS):
                    begun.set()
                    end = (end + chunk)[-LOG_BYTES:]
        except (ApiError, *Unreachable) as error:
            log.debug("the log of %s/%s cannot be followed: %s", pod.namespace, pod.name, error)
        finally:
            begun.set()
        if end and pod.uid in self._followed:
            heard = self._heard.setdefault(pod.uid, _Heard(self._now()))
            # The first line may be cut, and what is left of it may begin with something like a time.
            whole = end.partition(b"\n")[2] if len(end) == LOG_BYTES else end
            heard.said = read_log(_lines_of(whole.decode("utf-8", "replace")), heard.said)

    async def _hear_last_words(self, pod: Pod) -> None:
        try:
            async with asyncio.timeout(LAST_WORDS_SECONDS), self._places_for_last_words:
                if pod.uid in self._followed:
                    await asyncio.wait([self._followed[pod.uid]])
                lines = await self._read_at_last(pod)
            if pod.uid in self._last_words:  # else it has been let go of meanwhile
                heard = self._heard.setdefault(pod.uid, _Heard(self._now()))
                heard.said = read_log(lines, heard.said)
        except (ApiError, *Unreachable) as error:
            log.info("the last lines of %s/%s cannot be read: %s", pod.namespace, pod.name, error or "no answer")
        finally:
            if pod.uid in self._last_words:
                self._last_words[pod.uid] = True
        self._on_read(pod.key)

    async def _read_at_last(self, pod: Pod) -> list[str]:
        """The last lines of the log, requested until they arrive or are known to be lost."""
        while True:
            try:
                return await self._read(pod)
            except ApiError as error:
                if error.status < 500 and error.status != 429:
                    raise
            except Unreachable:
                pass
            await asyncio.sleep(LAST_WORDS_PAUSE_SECONDS)

    async def _read(self, pod: Pod) -> list[str]:
        """The log's last lines, each with its time."""
        text = await self._ask(pod, LOG_LINES)
        if len(text.encode()) >= LOG_BYTES:
            # The server cuts a log at its end, which is the part that counts.
            text += "\n" + await self._ask(pod, 1)
        lines = _lines_of(text)
        if lines and says_no_log(lines[-1]):
            raise ApiError(404, "NotFound", lines[-1][:500])
        return lines

    async def _ask(self, pod: Pod, lines: int) -> str:
        query = {
            "tailLines": str(lines),
            "limitBytes": str(LOG_BYTES),
            "timestamps": "true",
            "container": CONTAINER,
        }
        return await self._api.text(object_path("Pod", pod.namespace, pod.name) + "/log", query)

    def _in_background(self, reading: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(reading)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _lines_of(text: str) -> list[str]:
    """Splits at line feeds only: the kubelet writes a time after these, after others a program could forge one."""
    return text.removesuffix("\n").split("\n") if text else []


def _mark_of(lines: list[str]) -> str:
    """A hash that differs if a line was added, because each line begins with its time."""
    return hashlib.sha256("\n".join(lines).encode(errors="backslashreplace")).hexdigest()


def read_log(lines: list[str], before: LogSight) -> LogSight:
    """What the end of a log shows, where each line begins with its time; earlier progress is kept.

    What follows a carriage return (a progress bar's) is a line too, but has no time of its own.
    """
    parts = [part for line in lines for part in log_lines(line)]
    return replace(
        before,
        progress=progress_in_log(parts) or before.progress,
        phase=phase_in_log(parts, before.phase),
        last_line=(time_in_log(lines[-1]) if lines else None) or before.last_line,
    )
