"""The objects of one kind of ours: kopf reports each change of them, and a list shows what kopf has missed."""

import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from costopt.schema.kinds import Kind
from costopt_operator.decide.keys import Key
from costopt_operator.kube.api import Api, Json


class Own(Protocol):
    """An object of ours, as it was at one version."""

    @property
    def namespace(self) -> str:
        """Empty for an object of the whole cluster."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def uid(self) -> str:
        """What tells it from an object of the same name before or after it."""

    @property
    def resource_version(self) -> int:
        """Grows with every change."""


T = TypeVar("T", bound=Own)


class OwnObjects(Generic[T]):
    """What is known of one kind; each object at its newest version, and one object per name."""

    def __init__(
        self,
        api: Api,
        kind: Kind,
        parse: Callable[[Json], T],
        *,
        learned: Callable[[T, bool], None],
        gone: Callable[[T, bool], None],
    ) -> None:
        self.kind = kind
        self.objects: dict[Key, T] = {}
        """By namespace and uid."""
        self.heard = time.monotonic()
        """When kopf last reported anything."""
        self.news = False
        """Something was new since this was last set to False."""
        self._api = api
        self._parse = parse
        self._learned = learned
        """Called with an object that is new or has changed, and whether it was not known before."""
        self._gone = gone
        """Called with an object that is gone, and whether it was known."""
        self._uids: dict[tuple[str, str], str] = {}
        """By namespace and name: the uid of the object that has this name now."""

    def hear(self, event: str | None, data: Json) -> None:
        """Take note of what a watch reports."""
        self.heard = time.monotonic()
        parsed = self._parse(data)
        if event == "DELETED":
            self.forget(parsed)
        else:
            self.learn(parsed)

    def learn(self, now: T) -> None:
        """Take note of an object as it is now; older news of it is passed over."""
        key = (now.namespace, now.uid)
        known = self.objects.get(key)
        if known is None and not self._takes_the_name(now):
            return
        if known is None or known.resource_version < now.resource_version:
            self.news = True
            self.objects[key] = now
            self._learned(now, known is None)

    def _takes_the_name(self, now: T) -> bool:
        """An object that was not known is the one of its name, and another of that name is gone; unless that is
        younger."""
        name = (now.namespace, now.name)
        namesake = self.objects.get((now.namespace, self._uids.get(name, "")))
        if namesake is not None:
            if namesake.resource_version > now.resource_version:
                return False
            self.forget(namesake)
        self._uids[name] = now.uid
        return True

    def forget(self, last: T) -> None:
        """The object is gone."""
        known = self.objects.pop((last.namespace, last.uid), None) is not None
        if known and self._uids.get((last.namespace, last.name)) == last.uid:
            del self._uids[last.namespace, last.name]
        self._gone(last, known)

    async def list_in(self, namespace: str | None) -> None:
        """List the objects of a namespace or (None) all, and compare them with what is known. Raises ApiError."""
        listed: set[Key] = set()
        version = 0
        async for page in self._api.pages(self.kind.path(namespace=namespace), {}):
            version = int(page["metadata"]["resourceVersion"])
            for item in page["items"]:
                parsed = self._parse({"apiVersion": page["apiVersion"], "kind": self.kind.name, **item})
                listed.add((parsed.namespace, parsed.uid))
                self.learn(parsed)
        for key, known in list(self.objects.items()):
            if namespace in (None, known.namespace) and key not in listed and known.resource_version <= version:
                self.forget(known)
