"""A list-watch of one kind of object, limited by a selector: all objects and every change of them.

    list (in pages) ──▶ watch from its version ──▶ connection lost or ended: watch again from the last version seen
          ▲                                   └──▶ 410, the version is too old: list again
          └────────────────────────────────────────┘

A new list is compared with what is known: an object that is missing from it was deleted meanwhile and is reported as
deleted. Objects are kept in the small form that `parse` returns.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Generic, Protocol, TypeVar

from costopt_operator.kube.api import Api, ApiError, Json, Unreachable

log = logging.getLogger(__name__)

BOOKMARK_SECONDS = 60.0
"""Interval at which the API server sends bookmarks on a quiet watch, roughly."""
SILENCE_SECONDS = 2 * BOOKMARK_SECONDS
"""A watch without data for this long is dead: its connection was lost unnoticed."""
WATCH_SECONDS = (240, 300)
"""Bounds of the lifetime of a watch request, in seconds; drawn at random."""
REMEMBERED_GONE = 10_000
"""Uids of deleted objects that are remembered; a uid is never reused."""
REMEMBERED_PASSED_OVER = 1_000
"""Objects that could not be parsed and have been logged once."""
BACKOFF_SECONDS = (0.2, 15.0)
"""First and longest pause after a failure."""


class Versioned(Protocol):
    """What a list-watch needs of an object. Two are equal if they differ only in their version."""

    @property
    def uid(self) -> str:
        """Unique over time."""

    @property
    def resource_version(self) -> int:
        """Grows with every change."""


T = TypeVar("T", bound=Versioned)


class Expired(Exception):
    """The version to continue from is too old (410)."""


class ListWatch(Generic[T]):
    """Keeps `objects` as the API server has them, and reports each change."""

    def __init__(
        self,
        api: Api,
        path: str,
        query: Mapping[str, str],
        parse: Callable[[Json], T],
        on_change: Callable[[T, bool], None],
        *,
        namespace: str | None = None,
    ) -> None:
        self._api = api
        self.path = path
        self._query = dict(query)
        self._parse = parse
        self._on_change = on_change
        """Called with an object and whether it is gone."""
        self.namespace = namespace
        self.objects: dict[str, T] = {}
        """By uid."""
        self.synced = asyncio.Event()
        """Set once the first list is complete."""
        self.last_heard = time.monotonic()
        """When the API server last sent anything about these objects."""
        self.refused = False
        """The API server does not allow listing these objects, or the namespace is gone."""
        self.relists = 0
        """Lists after the first."""
        self._passed_over: deque[str | None] = deque(maxlen=REMEMBERED_PASSED_OVER)
        self._gone: deque[str] = deque(maxlen=REMEMBERED_GONE)
        self._gone_set: set[str] = set()

    async def run(self) -> None:
        """Keep watching until cancelled."""
        failures = 0
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list()
                    self.refused = False
                    failures = 0
                async for seen in self._watch(version):
                    version = seen
                    failures = 0
            except Expired:
                log.info("watch of %s is too old, listing again", self.path)
                version = ""
            except (ApiError, *Unreachable, ValueError) as error:
                failures += 1
                self.refused = isinstance(error, ApiError) and error.status in (403, 404)
                first, longest = BACKOFF_SECONDS
                pause = min(longest, first * 2 ** min(failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311
                log.warning("watch of %s is interrupted (%s), going on in %.1f s", self.path, error, pause)
                await asyncio.sleep(pause)

    async def _list(self) -> str:
        """List all objects; returns the version of the list."""
        listed: dict[str, T] = {}
        version = ""
        try:
            async for page in self._api.pages(self.path, self._query):
                self.last_heard = time.monotonic()
                version = page["metadata"]["resourceVersion"]
                for item in page["items"]:
                    parsed = self._parsed(item)
                    if parsed is not None:
                        listed[parsed.uid] = parsed
        except ApiError as error:
            if error.status == 410:
                raise Expired from error
            raise
        self.relists += self.synced.is_set()
        for uid, known in list(self.objects.items()):
            # An object that this process has just created may be newer than the list.
            if uid not in listed and known.resource_version <= int(version):
                self.forget(known)
        for parsed in listed.values():
            self.learn(parsed)
        self.synced.set()
        return version

    async def _watch(self, version: str) -> AsyncIterator[str]:
        """Follow the changes after `version`; yields the version of each."""
        query = {
            **self._query,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),  # noqa: S311
        }
        try:
            async for event in self._api.stream(self.path, query, SILENCE_SECONDS):
                self.last_heard = time.monotonic()
                kind, data = event["type"], event["object"]
                if kind == "ERROR":
                    raise _error_of(data)
                if kind != "BOOKMARK":
                    parsed = self._parsed(data)
                    if kind == "DELETED":
                        # Its labels may have changed so that it cannot be parsed; it is gone all the same.
                        gone = parsed or self.objects.get(data["metadata"]["uid"])
                        if gone is not None:
                            self.forget(gone)
                    elif parsed is not None:
                        self.learn(parsed)
                yield data["metadata"]["resourceVersion"]
        except ApiError as error:
            if error.status == 410:
                raise Expired from error
            raise

    def _parsed(self, data: Json) -> T | None:
        """The parsed object; None if it is not ours although it has our label, which anyone may set."""
        try:
            return self._parse(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            metadata = data.get("metadata", {})
            if metadata.get("uid") not in self._passed_over:
                self._passed_over.append(metadata.get("uid"))
                log.warning("%s/%s is passed over: %r", metadata.get("namespace"), metadata.get("name"), error)
            return None

    def learn(self, parsed: T) -> None:
        """Take note of an object as it is now; older news of it is passed over."""
        if parsed.uid in self._gone_set:
            return  # the answer to our own last write of it came after the news of its end
        known = self.objects.get(parsed.uid)
        if known is None or known.resource_version < parsed.resource_version:
            self.objects[parsed.uid] = parsed
            if known != parsed:  # of what an object's version is raised for, most is nothing that is kept of it
                self._on_change(parsed, False)

    def forget(self, gone: T) -> None:
        """The object is gone, or no longer ours."""
        if len(self._gone) == self._gone.maxlen:
            self._gone_set.discard(self._gone[0])
        self._gone.append(gone.uid)
        self._gone_set.add(gone.uid)
        if self.objects.pop(gone.uid, None) is not None:
            self._on_change(gone, True)


def _error_of(status: Json) -> ApiError:
    return ApiError(status.get("code", 500), status.get("reason", ""), status.get("message", ""))
