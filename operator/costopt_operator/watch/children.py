"""The children of jobs, one cache per kind of object, as the list-watches report them."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from costopt.names import MANAGED_BY_SELECTOR
from costopt_operator.decide.keys import Key
from costopt_operator.decide.kinship import Gang, Kinship
from costopt_operator.decide.objects import Pod, parse_pod
from costopt_operator.kube.api import Api, Json, list_path
from costopt_operator.watch.list_watch import ListWatch, Versioned


class Keyed(Versioned, Protocol):
    """An object that belongs to a job."""

    @property
    def key(self) -> Key:
        """The job."""


T = TypeVar("T", bound=Keyed)


class Children(Generic[T]):
    """The objects of one kind that belong to jobs, over all watched namespaces."""

    def __init__(
        self,
        api: Api,
        kind: str,
        namespaces: Iterable[str | None],
        parse: Callable[[Json], T],
        changed: Callable[[Key], None],
        *,
        met: Callable[[T], None] = lambda _: None,
    ) -> None:
        self.kind = kind
        self._changed = changed
        self._met = met
        """Called with an object before anybody else is told about its change."""
        self._by_key: defaultdict[Key, dict[str, T]] = defaultdict(dict)
        self._key_of: dict[str, Key] = {}
        """By uid: the key under which the object is kept. Somebody may give it another owner."""
        query = {"labelSelector": MANAGED_BY_SELECTOR}
        self.watches = [
            ListWatch(api, list_path(kind, namespace), query, parse, self._on_change, namespace=namespace)
            for namespace in namespaces
        ]

    def of(self, key: Key) -> tuple[T, ...]:
        """The objects of one job."""
        return tuple(self._by_key[key].values()) if key in self._by_key else ()

    def keys(self) -> set[Key]:
        """All jobs that objects belong to."""
        return set(self._by_key)

    def __len__(self) -> int:
        return sum(len(watch.objects) for watch in self.watches)

    def learn(self, parsed: T, namespace: str | None) -> None:
        """Add an object that this process has just written."""
        for watch in self.watches:
            if watch.namespace in (None, namespace):
                watch.learn(parsed)

    def forget(self, parsed: T) -> None:
        """The object is no longer ours."""
        for watch in self.watches:
            if watch.namespace in (None, parsed.key[0]):
                watch.forget(parsed)

    def _on_change(self, changed: T, gone: bool) -> None:
        before = self._key_of.pop(changed.uid, changed.key)
        if gone or before != changed.key:
            self._by_key[before].pop(changed.uid, None)
            if not self._by_key[before]:
                del self._by_key[before]
        if not gone:
            self._key_of[changed.uid] = changed.key
            self._by_key[changed.key][changed.uid] = changed
            self._met(changed)
        for key in {before, changed.key}:
            self._changed(key)


class Pods(Children[Pod]):
    """The pods that have our label, each with the job that its batch Job is of. (See `kinship`.)"""

    def __init__(
        self, api: Api, namespaces: Iterable[str | None], kinship: Kinship, changed: Callable[[Key], None]
    ) -> None:
        super().__init__(api, "Pod", namespaces, parse_pod, changed)
        self._kinship = kinship
        self._gang_of: dict[str, str] = {}
        """By pod uid: the uid of its batch Job, as it was when the pod was first seen."""
        self._by_gang: defaultdict[tuple[str, str], dict[str, Pod]] = defaultdict(dict)
        """By namespace and uid of a batch Job: a pod of another namespace that names it as its owner is not its pod."""

    def of(self, key: Key) -> tuple[Pod, ...]:
        """The pods of one job."""
        gangs = [(key[0], gang.uid) for gang in self._kinship.of(key[1]) if gang.namespace == key[0]]
        return tuple(pod for gang in gangs if gang in self._by_gang for pod in self._by_gang[gang].values())

    def stranger(self, key: Key) -> Pod | None:
        """The pod of this key, if it belongs to no known job."""
        gang = self._gang_of.get(key[1])
        if gang is None or self._kinship.get(key[0], gang) is not None:
            return None
        return self._by_gang[key[0], gang].get(key[1])

    def strangers(self) -> list[Pod]:
        """All pods that have our label and belong to no known job."""
        unknown = [gang for gang in self._by_gang if self._kinship.get(*gang) is None]
        return [pod for gang in unknown for pod in self._by_gang[gang].values()]

    def adopt(self, pod: Pod, gang: Gang) -> None:
        """The stranger belongs to that batch Job, whatever its owner references say."""
        place = (pod.namespace, pod.gang_uid)
        self._by_gang[place].pop(pod.uid, None)
        if not self._by_gang[place]:
            del self._by_gang[place]
        self._gang_of[pod.uid] = gang.uid
        self._by_gang[gang.namespace, gang.uid][pod.uid] = pod.of_gang(gang)
        self._changed((gang.namespace, gang.job_uid))

    def keys(self) -> set[Key]:
        """All jobs that pods belong to."""
        return {self._key(pod) for pods in self._by_gang.values() for pod in pods.values()}

    def any_of(self, gang: Gang) -> bool:
        """Whether pods of that batch Job are left."""
        return (gang.namespace, gang.uid) in self._by_gang

    def meet(self, gang: Gang) -> None:
        """The batch Job is known from now on: its pods belong to its job."""
        pods = self._by_gang.get((gang.namespace, gang.uid), {})
        for uid, pod in pods.items():
            pods[uid] = pod.of_gang(gang)
            self._changed((gang.namespace, gang.job_uid))

    def _on_change(self, changed: Pod, gone: bool) -> None:
        uid = self._gang_of.setdefault(changed.uid, changed.gang_uid)
        place = (changed.namespace, uid)
        gang = self._kinship.get(*place)
        pod = changed.of_gang(gang) if gang is not None else replace(changed, gang_uid=uid)
        if gone:
            del self._gang_of[changed.uid]
            self._by_gang[place].pop(changed.uid, None)
            if not self._by_gang[place]:
                del self._by_gang[place]
        else:
            self._by_gang[place][changed.uid] = pod
        self._changed(self._key(pod))

    def _key(self, pod: Pod) -> Key:
        gang = self._kinship.get(pod.namespace, pod.gang_uid)
        return (pod.namespace, gang.job_uid if gang is not None else pod.uid)
