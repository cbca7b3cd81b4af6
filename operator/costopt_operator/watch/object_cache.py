"""The cluster as it is known here: jobs and price books as kopf reports them, their children as our list-watches do.

kopf's watch can lose a deletion (when its version is too old it lists again without comparing), so every few minutes
all jobs and price books are listed and compared. Until then nothing wrong can come of a job that is gone without our
knowing: a status write finds no object, and before a gang is started the job is read again.
"""

import asyncio
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import yaml
from pydantic import ValidationError

from costopt.names import MANAGED_BY_SELECTOR
from costopt.schema.document import read_documents
from costopt.schema.lenient_parse import read_known
from costopt.schema.prices import PriceBook
from costopt.schema.status import EarlierJob, JobStatus
from costopt_operator.decide.keys import Key
from costopt_operator.decide.kinship import Gang, Kinship, gangs_in
from costopt_operator.decide.objects import (
    ChildJob,
    JobObject,
    Pod,
    ServiceObject,
    parse_child_job,
    parse_job,
    parse_pod,
    parse_service,
)
from costopt_operator.kube.api import GROUP_PATH, JOBS, Api, ApiError, Json, Unreachable, list_path
from costopt_operator.watch.list_watch import ListWatch, Versioned

log = logging.getLogger(__name__)

SWEEP_SECONDS = 300.0
"""Between two lists of all jobs and price books."""

EARLIER_KEPT = 1000
"""Jobs that are gone and whose cost is remembered."""


class Changed(Protocol):
    """Told that a job or anything of it has changed; `new`: nothing has been done about the job yet."""

    def __call__(self, key: Key, *, new: bool = False) -> None: ...


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
        """Told of an object before anybody else is told of a change of it."""
        self._by_key: defaultdict[Key, dict[str, T]] = defaultdict(dict)
        self._key_of: dict[str, Key] = {}
        """By uid: under which key it is kept. Somebody may give it another owner."""
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
        """Take note of what this process has just written."""
        for watch in self.watches:
            if watch.namespace in (None, namespace):
                watch.learn(parsed)

    def forget(self, parsed: T) -> None:
        """It is none of ours any more."""
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
        """By namespace and uid of a batch Job: a pod elsewhere that names it as its owner is none of its pods."""

    def of(self, key: Key) -> tuple[Pod, ...]:
        """The pods of one job."""
        gangs = [(key[0], gang.uid) for gang in self._kinship.of(key[1]) if gang.namespace == key[0]]
        return tuple(pod for gang in gangs if gang in self._by_gang for pod in self._by_gang[gang].values())

    def stranger(self, key: Key) -> Pod | None:
        """The pod of this key that has our label and is of no job that we know."""
        gang = self._gang_of.get(key[1])
        if gang is None or self._kinship.get(key[0], gang) is not None:
            return None
        return self._by_gang[key[0], gang].get(key[1])

    def strangers(self) -> list[Pod]:
        """All pods that have our label and are of no job that we know."""
        unknown = [gang for gang in self._by_gang if self._kinship.get(*gang) is None]
        return [pod for gang in unknown for pod in self._by_gang[gang].values()]

    def adopt(self, pod: Pod, gang: Gang) -> None:
        """The stranger is of that batch Job, whatever it says about its owners."""
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
        """That batch Job is known from now on: its pods are its job's."""
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


class Cluster:
    """Everything that is known."""

    def __init__(self, api: Api, namespaces: tuple[str, ...], books: Path | None, changed: Changed) -> None:
        self._api = api
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._books_folder = books
        self._changed = changed
        self.on_job_gone: Callable[[str], None] = lambda _uid: None
        """Called with the uid of a job that is gone."""
        self.reads_books = books is None
        """Price books are read from the API server."""
        self.heard = time.monotonic()
        """When kopf last reported anything."""
        self.deaf = False
        """A list has shown what kopf should have reported long ago."""
        self._swept = time.monotonic()
        self._news = False
        self.jobs: dict[Key, JobObject] = {}
        self.earlier: dict[tuple[str, str], EarlierJob] = {}
        """By namespace and name: the last job of that name whose end was seen."""
        self.books: dict[str, PriceBook] = {}
        self._uids: dict[tuple[str, str], str] = {}
        """By namespace and name: the uid of the job that has this name now."""
        self.kinship = Kinship()
        self.child_jobs = Children[ChildJob](
            api, "Job", self._namespaces, parse_child_job, self._children_changed, met=self._meet
        )
        self.pods = Pods(api, self._namespaces, self.kinship, self._children_changed)
        self.services = Children[ServiceObject](api, "Service", self._namespaces, parse_service, changed)

    @property
    def watches(self) -> list[ListWatch[ChildJob] | ListWatch[Pod] | ListWatch[ServiceObject]]:
        """All list-watches."""
        return [*self.child_jobs.watches, *self.pods.watches, *self.services.watches]

    async def run(self) -> None:
        """Keep knowing, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for watch in self.watches:
                tasks.create_task(watch.run())
            tasks.create_task(self._sweep())

    async def known(self) -> None:
        """Wait until everything has been listed once."""
        pause = 0.5
        while True:
            try:
                await self.list_all()
                break
            except (ApiError, *Unreachable) as error:
                log.warning("jobs and price books cannot be listed (%s); again in %.1f s", error, pause)
                await asyncio.sleep(pause)
                pause = min(10.0, 2 * pause)
        for watch in self.watches:
            while not watch.synced.is_set() and not watch.refused:
                await asyncio.sleep(0.02)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                before, self._news = self._swept, False
                await self.list_all()
                self._swept = time.monotonic()
                self.deaf = self._news and self.heard < before
            except Exception as error:  # noqa: BLE001 -- whatever it is, the next sweep is in a few minutes
                log.warning("jobs could not be listed: %s", error)

    async def list_all(self) -> None:
        """List all jobs and price books, and compare them with what is known."""
        if self._books_folder is not None:
            self.books = read_books(self._books_folder)
        else:
            await self._list_books()
        for namespace in self._namespaces:
            try:
                await self._list_jobs(namespace)
            except ApiError as error:
                # No such kind, or no such namespace any more: then there are none, and their pods are let go.
                if error.status != 404 and (error.status != 403 or namespace is None):
                    raise
                log.warning("no jobs can be listed in %s: %s", namespace or "any namespace", error)

    async def _list_jobs(self, namespace: str | None) -> None:
        path = f"{GROUP_PATH}/namespaces/{namespace}/{JOBS}" if namespace else f"{GROUP_PATH}/{JOBS}"
        listed: set[Key] = set()
        version = 0
        async for page in self._api.pages(path, {}):
            version = int(page["metadata"]["resourceVersion"])
            for item in page["items"]:
                job = parse_job({"apiVersion": page["apiVersion"], "kind": "CostOptJob", **item})
                listed.add(job.key)
                self.learn_job(job)
        for key, job in list(self.jobs.items()):
            if namespace in (None, job.namespace) and key not in listed and job.resource_version <= version:
                self.forget_job(job)

    async def _list_books(self) -> None:
        listed: dict[str, Json] = {}
        try:
            async for page in self._api.pages(f"{GROUP_PATH}/pricebooks", {}):
                for item in page["items"]:
                    listed[item["metadata"]["name"]] = {
                        "apiVersion": page["apiVersion"],
                        "kind": "PriceBook",
                        "metadata": {"name": item["metadata"]["name"]},
                        "spec": item["spec"],
                    }
        except ApiError as error:
            if error.status not in (403, 404):
                raise
            if self.reads_books:
                log.warning("price books cannot be read (%s); without --price-books hours have no price", error)
            self.reads_books = False
            return
        for name in set(self.books) - set(listed):
            self.forget_book(name)
        for item in listed.values():
            self.learn_book(item)

    def learn_job(self, job: JobObject) -> None:
        """Take note of a job as it is now; older news of it is passed over."""
        known = self.jobs.get(job.key)
        if known is None and not self._takes_the_name(job):
            return
        if known is None or known.resource_version < job.resource_version:
            self._news = True
            self.jobs[job.key] = job
            if known is None:
                about = {"namespace": job.namespace, "job_uid": job.uid, "job_name": job.name}
                for gang in gangs_in(job.status, **about):
                    self.learn_gang(gang)
            self._changed(job.key, new=job.is_new)

    def _takes_the_name(self, job: JobObject) -> bool:
        """A job that was not known is the one of its name, and another of that name is gone; unless that is younger."""
        namesake = self.jobs.get((job.namespace, self._uids.get((job.namespace, job.name), "")))
        if namesake is not None:
            if namesake.resource_version > job.resource_version:
                return False
            self.forget_job(namesake)
        self._uids[job.namespace, job.name] = job.uid
        return True

    def forget_job(self, job: JobObject) -> None:
        """The job is gone."""
        if self.jobs.pop(job.key, None) is not None:
            self._remember(job)
            if self._uids.get((job.namespace, job.name)) == job.uid:
                del self._uids[job.namespace, job.name]
        for gang in self.kinship.of(job.uid):
            self._forget_if_nothing_is_left(gang)
        self.on_job_gone(job.uid)
        self._changed(job.key)

    def _remember(self, job: JobObject) -> None:
        """What a job has cost, for one that is made anew under its name and goes on from its checkpoints."""
        try:
            bill = read_known(JobStatus, job.status).bill
        except ValidationError:
            return
        name = (job.namespace, job.name)
        self.earlier.pop(name, None)
        self.earlier[name] = EarlierJob(
            uid=job.uid, priced_cost=bill.priced_cost if bill else None, currency=bill.currency if bill else None
        )
        if len(self.earlier) > EARLIER_KEPT:
            del self.earlier[next(iter(self.earlier))]

    def name_of(self, key: Key) -> str:
        """The name of the job of that key; its uid if it is not known."""
        gangs = self.kinship.of(key[1])
        return self.jobs[key].name if key in self.jobs else gangs[0].job_name if gangs else key[1]

    def _meet(self, child: ChildJob) -> None:
        self.learn_gang(child.gang)

    def learn_gang(self, gang: Gang) -> None:
        """Take note of a batch Job that is, or was, a job's."""
        if self.kinship.learn(gang):
            self.pods.meet(gang)

    def _children_changed(self, key: Key) -> None:
        if key not in self.jobs:
            for gang in self.kinship.of(key[1]):
                self._forget_if_nothing_is_left(gang)
        self._changed(key)

    def _forget_if_nothing_is_left(self, gang: Gang) -> None:
        there = any(child.uid == gang.uid for child in self.child_jobs.of((gang.namespace, gang.job_uid)))
        if not there and not self.pods.any_of(gang):
            self.kinship.forget(gang)

    def learn_book(self, data: Json) -> None:
        """Take note of a price book as it is now, and look again at the jobs that it may price."""
        name = data["metadata"]["name"]
        try:
            parts = {"apiVersion": data["apiVersion"], "kind": data["kind"], "metadata": {"name": name}}
            book = read_known(PriceBook, json.dumps({**parts, "spec": data["spec"]}).encode())
        except ValidationError as error:
            log.warning("price book %s is not understood and passed over: %s", name, error.errors()[0]["msg"])
            self.forget_book(name)
            return
        if self.books.get(name) != book:
            self.books[name] = book
            self._look_at_jobs_of(name)

    def forget_book(self, name: str) -> None:
        """The price book is gone."""
        if self.books.pop(name, None) is not None:
            self._look_at_jobs_of(name)

    def _look_at_jobs_of(self, book: str) -> None:
        mark = f'"priceBookName":"{book}"'.encode()
        for key, job in self.jobs.items():
            if mark in job.document:
                self._changed(key)


def read_books(folder: Path) -> dict[str, PriceBook]:
    """The price books in the YAML files of a folder, by name; a file with a mistake is passed over and logged."""
    books: dict[str, PriceBook] = {}
    for path in sorted(folder.glob("*.y*ml")):
        try:
            documents, mistakes = read_documents(path.read_text(encoding="utf-8"), str(path))
        except (OSError, ValueError, yaml.YAMLError) as error:
            log.warning("price books of %s cannot be read: %s", path, error)
            continue
        for mistake in mistakes:
            log.error("%s", mistake)
        books |= {item.model.metadata.name: item.model for item in documents if isinstance(item.model, PriceBook)}
    return books
