"""The known state of the cluster: jobs and price books as kopf reports them, their children as our list-watches do.

kopf's watch can lose a deletion (when its version is too old, it lists again without comparing), so every few minutes
all jobs and price books are listed and compared. Until then a job whose deletion was missed does no harm: a status
write finds no object, and the job is read again before a gang is started.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from costopt.schema.kinds import COST_OPT_JOB, PRICE_BOOK
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
    parse_service,
)
from costopt_operator.kube.api import Api, ApiError, Unreachable
from costopt_operator.watch.children import Children, Pods
from costopt_operator.watch.list_watch import ListWatch
from costopt_operator.watch.own_objects import OwnObjects
from costopt_operator.watch.price_books import BookObject, parse_book, read_books

log = logging.getLogger(__name__)

SWEEP_SECONDS = 300.0
"""Interval between two lists of all jobs and price books."""

EARLIER_KEPT = 1000
"""Number of deleted jobs whose cost is remembered."""


class Changed(Protocol):
    """Called when a job or one of its children has changed; `new`: the job has no status yet."""

    def __call__(self, key: Key, *, new: bool = False) -> None: ...


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
        self.deaf = False
        """A list has shown a change that kopf should have reported long ago."""
        self._swept = time.monotonic()
        self.own_jobs = OwnObjects[JobObject](
            api, COST_OPT_JOB, parse_job, learned=self._job_learned, gone=self._job_gone
        )
        self.own_books = OwnObjects[BookObject](
            api, PRICE_BOOK, parse_book, learned=self._book_learned, gone=self._book_gone
        )
        self.jobs = self.own_jobs.objects
        self.earlier: dict[tuple[str, str], EarlierJob] = {}
        """By namespace and name: the last job of that name whose end was seen."""
        self.books: dict[str, PriceBook] = {}
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

    @property
    def reported(self) -> list[OwnObjects[JobObject] | OwnObjects[BookObject]]:
        """Our kinds that kopf is to watch."""
        return [self.own_jobs, *([self.own_books] if self.reads_books else [])]

    async def run(self) -> None:
        """Keep the state current until cancelled."""
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
                before, self.own_jobs.news = self._swept, False
                await self.list_all()
                self._swept = time.monotonic()
                self.deaf = self.own_jobs.news and self.own_jobs.heard < before
            except Exception as error:  # noqa: BLE001 -- whatever it is, the next sweep is in a few minutes
                log.warning("jobs could not be listed: %s", error)

    async def list_all(self) -> None:
        """List all jobs and price books, and compare them with what is known."""
        if self._books_folder is not None:
            self.books = read_books(self._books_folder)
        else:
            try:
                await self.own_books.list_in(None)
            except ApiError as error:
                if error.status not in (403, 404):
                    raise
                if self.reads_books:
                    log.warning("price books cannot be read (%s); without --price-books hours have no price", error)
                self.reads_books = False
        for namespace in self._namespaces:
            try:
                await self.own_jobs.list_in(namespace)
            except ApiError as error:
                # The kind or the namespace is gone: then there are no jobs, and their pods are released.
                if error.status != 404 and (error.status != 403 or namespace is None):
                    raise
                log.warning("no jobs can be listed in %s: %s", namespace or "any namespace", error)

    def learn_job(self, job: JobObject) -> None:
        """Take note of a job as it is now; older news of it is passed over."""
        self.own_jobs.learn(job)

    def forget_job(self, job: JobObject) -> None:
        """The job is gone."""
        self.own_jobs.forget(job)

    def _job_learned(self, job: JobObject, first: bool) -> None:
        if first:
            about = {"namespace": job.namespace, "job_uid": job.uid, "job_name": job.name}
            for gang in gangs_in(job.status, **about):
                self.learn_gang(gang)
        self._changed(job.key, new=job.is_new)

    def _job_gone(self, job: JobObject, known: bool) -> None:
        if known:
            self._remember(job)
        for gang in self.kinship.of(job.uid):
            self._forget_if_nothing_is_left(gang)
        self.on_job_gone(job.uid)
        self._changed(job.key)

    def _book_learned(self, now: BookObject, _first: bool) -> None:
        if now.book is None:
            self._book_gone(now, True)
        elif self.books.get(now.name) != now.book:
            self.books[now.name] = now.book
            self._look_at_jobs_of(now.name)

    def _book_gone(self, last: BookObject, known: bool) -> None:
        if known and self.books.pop(last.name, None) is not None:
            self._look_at_jobs_of(last.name)

    def _remember(self, job: JobObject) -> None:
        """Remember the cost of a job for a later job of its name, which continues from its checkpoints."""
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

    def _look_at_jobs_of(self, book: str) -> None:
        mark = f'"priceBookName":"{book}"'.encode()
        for key, job in self.jobs.items():
            if mark in job.document:
                self._changed(key)
