"""What kopf is told to watch, what it passes on, and that it writes nothing; on a server that plays Kubernetes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import kmock
import pytest
from kubernetes.aio.client import Configuration

from builders.toys import TOY, TOY_DOCUMENT, KeptToy
from cases.mistakes import plain_job, plain_price_book
from costopt.schema.kinds import KINDS
from costopt_operator.decide.keys import Key
from costopt_operator.kube.api import Api
from costopt_operator.watch import own_kinds
from costopt_operator.watch.object_cache import Cluster
from costopt_operator.watch.own_objects import OwnObjects

Json = dict[str, Any]

GROUP = "/apis/costopt.dev/v1alpha1"
JOBS = f"{GROUP}/namespaces/team/costoptjobs"
BOOKS = f"{GROUP}/pricebooks"
OFFERED = {
    # Resource -> whether it is namespaced. kopf begins once it has seen these of Kubernetes' own.
    "costopt.dev/v1alpha1/costoptjobs": True,
    "costopt.dev/v1alpha1/pricebooks": False,
    "costopt.dev/v1alpha1/toys": True,
    "v1/namespaces": False,
    "v1/events": True,
    "apiextensions.k8s.io/v1/customresourcedefinitions": False,
    "v1/pods": True,
    "v1/services": True,
    "batch/v1/jobs": True,
}
KIND_OF = {kind.plural: kind.name for kind in (*KINDS.values(), TOY)}
KEY = ("team", "job-1")


def a_job(version: int, **spec: Any) -> Json:
    job = plain_job(**spec)
    made = {"uid": "job-1", "resourceVersion": str(version), "generation": 1}
    return {**job, "metadata": {**job["metadata"], "namespace": "team", **made}}


def a_book(version: int, **spec: Any) -> Json:
    book = plain_price_book(**spec)
    return {**book, "metadata": {**book["metadata"], "uid": "book-1", "resourceVersion": str(version)}}


@dataclass
class Place:
    """A server, and the cluster that kopf reports to."""

    api: kmock.KubernetesEmulator
    server: kmock.Server
    configuration: Configuration
    cluster: Cluster
    changed: list[Key] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    async def write(self, method: str, path: str, body: Json | None = None) -> None:
        """As if somebody else did."""
        async with self.server.client.request(method, path, json=body) as answer:
            assert answer.status == 200, await answer.text()

    def asked(self) -> list[str]:
        """What was asked for by others than this test, such as "GET /api"; watches as WATCH."""
        found = []
        for request in list(self.api):
            if not request.headers.get("User-Agent", "").startswith("kmock"):
                method = "WATCH" if request.params.get("watch") else request.method.value
                found.append(f"{method} {request.url.path}")
        return found

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(240):
            while not holds():
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def a_place(*namespaces: str) -> AsyncIterator[Place]:
    async with kmock.KubernetesEmulator() as api, kmock.Server(api) as server:
        for name, namespaced in OFFERED.items():
            kind = KIND_OF.get(name.rsplit("/", 1)[1], "Any")
            api.resources[name] = {"kind": kind, "namespaced": namespaced, "verbs": {"get", "list", "watch", "patch"}}
        configuration = Configuration()
        configuration.host = str(server.url).rstrip("/")
        configuration.api_key = {"BearerToken": "Bearer secret"}
        client = Api(configuration)
        changed: list[Key] = []

        def note(key: Key, *, new: bool = False) -> None:
            changed.append(key)

        place = Place(api, server, configuration, Cluster(client, namespaces, None, note), changed)
        place.cluster.on_job_gone = place.gone.append
        try:
            yield place
        finally:
            await client.close()


@contextlib.asynccontextmanager
async def kopf_watching(place: Place, *namespaces: str, books: bool = True) -> AsyncIterator[None]:
    """kopf runs, and its watches have begun."""
    place.cluster.reads_books = books
    watch = own_kinds.watch(place.cluster.reported, place.configuration, namespaces)
    task = asyncio.ensure_future(watch)
    expected = max(1, len(namespaces)) + books
    await place.until(lambda: task.done() or sum(asked.startswith("WATCH") for asked in place.asked()) == expected)
    try:
        yield
    finally:
        assert not task.done(), "kopf has ended by itself"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def play(act: Callable[[Place], Coroutine[Any, Any, None]], *namespaces: str) -> None:
    async def go() -> None:
        async with a_place(*namespaces) as place:
            await act(place)

    asyncio.run(asyncio.wait_for(go(), 240))


def test_a_job_that_is_made_changed_and_deleted_reaches_the_cluster() -> None:
    async def act(place: Place) -> None:
        cluster = place.cluster
        async with kopf_watching(place):
            await place.write("POST", JOBS, a_job(5))
            await place.until(lambda: KEY in cluster.jobs)
            await place.write(
                "PATCH", f"{JOBS}/tiny", {"metadata": {"resourceVersion": "6"}, "spec": {"suspend": True}}
            )
            await place.until(lambda: cluster.jobs[KEY].resource_version == 6)
            assert b'"suspend":true' in cluster.jobs[KEY].document
            await place.write("DELETE", f"{JOBS}/tiny")
            await place.until(lambda: KEY not in cluster.jobs)
        assert place.changed == [KEY, KEY, KEY]
        assert place.gone == ["job-1"]

    play(act)


def test_jobs_and_price_books_that_were_there_before_are_learned() -> None:
    async def act(place: Place) -> None:
        await place.write("POST", BOOKS, a_book(3))
        await place.write("POST", JOBS, a_job(5))
        async with kopf_watching(place):
            await place.until(lambda: KEY in place.cluster.jobs and "sample" in place.cluster.books)

    play(act)


def test_a_price_book_that_changes_has_the_jobs_looked_at_that_it_prices() -> None:
    async def act(place: Place) -> None:
        cluster = place.cluster
        async with kopf_watching(place):
            await place.write("POST", JOBS, a_job(5))
            await place.until(lambda: place.changed == [KEY])
            await place.write("POST", BOOKS, a_book(6))
            await place.until(lambda: place.changed == [KEY] * 2)
            await place.write("PATCH", f"{BOOKS}/sample", {"metadata": {"resourceVersion": "7"}})
            other = {"metadata": {"resourceVersion": "8"}, "spec": {"currency": "EUR"}}
            await place.write("PATCH", f"{BOOKS}/sample", other)
            await place.until(lambda: cluster.books["sample"].spec.currency == "EUR")
            await place.write("DELETE", f"{BOOKS}/sample")
            await place.until(lambda: "sample" not in cluster.books)
        assert place.changed == [KEY] * 4  # a change of nothing but its version is none

    play(act)


def test_kopf_writes_nothing_whatever_happens() -> None:
    async def act(place: Place) -> None:
        async with kopf_watching(place):
            await place.write("POST", BOOKS, a_book(3))
            await place.write("POST", JOBS, a_job(5))
            held = {"metadata": {"resourceVersion": "6", "finalizers": ["example.org/hold"]}}
            await place.write("PATCH", f"{JOBS}/tiny", held)
            deleted = {"metadata": {"resourceVersion": "7", "deletionTimestamp": "2026-03-01T12:00:00Z"}}
            await place.write("PATCH", f"{JOBS}/tiny", deleted)
            await place.until(lambda: KEY in place.cluster.jobs and place.cluster.jobs[KEY].deleting)
            await place.write("PATCH", f"{JOBS}/tiny", {"metadata": {"resourceVersion": "9", "finalizers": []}})
            await place.until(lambda: KEY not in place.cluster.jobs)
            await asyncio.sleep(0.3)
        assert {asked.split()[0] for asked in place.asked()} == {"GET", "WATCH"}

    play(act)


@pytest.mark.parametrize(
    ("namespaces", "books", "watched"),
    [
        ((), True, {f"{GROUP}/costoptjobs", BOOKS}),
        (("team", "lab"), True, {JOBS, f"{GROUP}/namespaces/lab/costoptjobs", BOOKS}),
        (("team",), False, {JOBS}),
    ],
    ids=["all namespaces", "two namespaces", "price books out of files"],
)
def test_kopf_watches_our_two_kinds_and_nothing_else(
    namespaces: tuple[str, ...], books: bool, watched: set[str]
) -> None:
    async def act(place: Place) -> None:
        async with kopf_watching(place, *namespaces, books=books):
            pass
        asked = place.asked()
        assert {path.removeprefix("WATCH ") for path in asked if path.startswith("WATCH")} == watched
        # The rest is finding out what the server offers, and the first lists. It needs no right to namespaces or CRDs.
        known = {"/api", "/apis", "/api/v1", GROUP, "/apis/apiextensions.k8s.io/v1"} | watched
        assert {path.split()[1] for path in asked} <= known

    play(act)


def test_a_new_kind_is_listed_watched_and_kept_as_the_others() -> None:
    happened: list[tuple[str, str, bool]] = []

    async def act(place: Place) -> None:
        toys = OwnObjects(
            Api(place.configuration),
            TOY,
            KeptToy.parse,
            learned=lambda toy, first: happened.append(("learned", toy.uid, first)),
            gone=lambda toy, known: happened.append(("gone", toy.uid, known)),
        )
        path = f"{GROUP}/namespaces/team/toys"

        def a_toy(uid: str, version: int) -> Json:
            metadata = {"name": "bear", "namespace": "team", "uid": uid, "resourceVersion": str(version)}
            return {**TOY_DOCUMENT, "metadata": metadata}

        await place.write("POST", path, a_toy("first", 3))
        task = asyncio.ensure_future(own_kinds.watch([toys], place.configuration, ("team",)))
        await place.until(lambda: happened == [("learned", "first", True)])
        await place.until(lambda: any(asked.startswith("WATCH") for asked in place.asked()))
        await place.write("PATCH", f"{path}/bear", {"metadata": {"resourceVersion": "5"}})
        await place.until(lambda: happened[1:] == [("learned", "first", False)])
        toys.learn(KeptToy("team", "bear", "first", 4))  # older news
        toys.learn(KeptToy("team", "bear", "second", 8))  # another of the same name: the first is gone
        assert happened[2:] == [("gone", "first", True), ("learned", "second", True)]
        toys.learn(KeptToy("team", "bear", "first", 5))
        await place.write("DELETE", f"{path}/bear")  # of the first, which is gone already
        await place.until(lambda: happened[4:] == [("gone", "first", False)])
        assert set(toys.objects) == {("team", "second")}
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    play(act)


def test_kopf_identifies_itself_as_we_do() -> None:
    async def act(place: Place) -> None:
        async with kopf_watching(place):
            pass
        authorized = {request.headers.get("Authorization") for request in list(place.api)}
        assert authorized == {"Bearer secret"}

    play(act)


@pytest.mark.parametrize("namespaces", [(), ("team",)], ids=["all namespaces", "one namespace"])
def test_jobs_pods_and_services_are_asked_for_by_the_label_of_ours_alone(namespaces: tuple[str, ...]) -> None:
    async def act(place: Place) -> None:
        task = asyncio.ensure_future(place.cluster.run())
        await place.until(lambda: sum(asked.startswith("WATCH") for asked in place.asked()) == 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        where = "namespaces/team/" if namespaces else ""
        paths = {f"/apis/batch/v1/{where}jobs", f"/api/v1/{where}pods", f"/api/v1/{where}services"}
        assert {request.url.path for request in list(place.api)} == paths
        selectors = {request.params.get("labelSelector") for request in list(place.api)}
        assert selectors == {"app.kubernetes.io/managed-by=costopt"}

    play(act, *namespaces)
