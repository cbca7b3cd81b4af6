"""Lives of jobs, watched from outside, and what is left at their end, in a form that can be compared.

Times and uids differ between lives. So ends are compared without them, and their meaning is checked separately: each
usage record against the pod that it names, the bill against the records.
"""

import asyncio
import contextlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Self

from builders.cluster import Play, play
from builders.proxy import Upstream
from cases.mistakes import plain_job, plain_price_book
from costopt.accounting.bill import bill_of
from costopt.names import MANAGED_BY_SELECTOR, USAGE_FINALIZER
from costopt.schema.prices import PriceBook
from costopt.schema.status import JobStatus

Json = dict[str, Any]

JOB = "life"
GROUP = "/apis/costopt.dev/v1alpha1"
WATCHED = {"costoptjobs": GROUP, "jobs": "/apis/batch/v1", "pods": "/api/v1"}
CHILDREN = {
    "jobs": "/apis/batch/v1",
    "services": "/api/v1",
    "configmaps": "/api/v1",
    "persistentvolumeclaims": "/api/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
}
STEP_SECONDS = 240.0
"""Longest wait for a step of a life, in which the operator may be restarted dozens of times: reached only if it never
comes."""

MEASURED = {"sizeBytes": 100, "parameters": 10, "nonzeroPermille": 1000, "latencyMicroseconds": 10}
REPORT = {
    "name": "int8",
    "measured": {**MEASURED, "validationLoss": "1.5", "engine": "TorchEager"},
    "baseline": {**MEASURED, "validationLoss": "1.5", "engine": "TorchEager"},
    "sizeRatio": "4",
    "speedup": "1.2",
    "validationLossIncrease": "0.01",
    "artifact": "artifacts/int8",
    "reloaded": True,
}
PROGRESS = {"step": 40, "totalSteps": 40, "metered": {"startup": 200, "productive": 300}}
TRAINED = Play(stage="train", run_seconds=0.3, message={"exitCode": 0, "progress": PROGRESS})
COMPRESSED = Play(stage="int8", run_seconds=0.3, message={"exitCode": 0, "variant": REPORT})


class Sight:
    """Every object that ever existed, in all namespaces: its last state, by namespace and uid."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._headers = {"Authorization": f"Bearer {upstream.token}", "Accept": "application/json"}
        self._seen: dict[str, defaultdict[str, dict[str, Json]]] = {kind: defaultdict(dict) for kind in WATCHED}
        self._gone: set[str] = set()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.ensure_future(self._watch(kind, await self._version(kind))) for kind in WATCHED]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def request(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Json:
        """The answer to one request; an error is a failure of the test."""
        headers = {**self._headers, "Content-Type": kind}
        data = json.dumps(body) if body is not None else None
        async with self._upstream.session.request(
            method, f"{self._upstream.url}{path}", headers=headers, data=data
        ) as answer:
            content = await answer.read()
            assert answer.status < 400, f"{method} {path}: {content.decode()}"
            found: Json = json.loads(content)
            return found

    async def _version(self, kind: str) -> str:
        return str((await self.request("GET", f"{WATCHED[kind]}/{kind}?limit=1"))["metadata"]["resourceVersion"])

    async def _watch(self, kind: str, version: str) -> None:
        selector = "" if kind == "costoptjobs" else f"&labelSelector={MANAGED_BY_SELECTOR.replace('=', '%3D')}"
        while True:
            # A watch may end at any time, and does soon after a resource is defined; it continues where it was.
            url = f"{self._upstream.url}{WATCHED[kind]}/{kind}?watch=true&resourceVersion={version}{selector}"
            async with self._upstream.session.get(url, headers=self._headers) as answer:
                assert answer.status == 200, await answer.text()
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        event = json.loads(line)
                        item = event["object"]
                        if event["type"] == "DELETED":
                            self._gone.add(item["metadata"]["uid"])
                        version = item["metadata"]["resourceVersion"]
                        self._seen[kind][item["metadata"]["namespace"]][item["metadata"]["uid"]] = item

    def of(self, kind: str, namespace: str) -> list[Json]:
        """The last state of all objects of a kind that ever existed in a namespace."""
        return list(self._seen[kind][namespace].values())

    def status(self, namespace: str) -> JobStatus:
        """The job's status as last seen."""
        status: Json = next((job.get("status", {}) for job in self.of("costoptjobs", namespace)), {})
        return JobStatus.model_validate_json(json.dumps(status))

    async def wait_for(self, holds: Callable[[], bool], what: str) -> None:
        """Return once it holds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STEP_SECONDS):
                while not holds():
                    for task in self._tasks:
                        assert not task.done(), "a watch of the test's own has ended"
                    await asyncio.sleep(0.03)
                return
        raise AssertionError(f"after {STEP_SECONDS:.0f} s still not: {what}")

    async def make(self, namespace: str, job: Json) -> None:
        """Create the job."""
        await self.request("POST", f"{GROUP}/namespaces/{namespace}/costoptjobs", job)

    async def set_suspend(self, namespace: str, suspend: bool) -> None:
        """What `costopt suspend` and `costopt resume` do."""
        path = f"{GROUP}/namespaces/{namespace}/costoptjobs/{JOB}"
        await self.request("PATCH", path, {"spec": {"suspend": suspend}}, "application/merge-patch+json")

    def running(self, namespace: str) -> int:
        """How many pods run."""
        return sum(pod.get("status", {}).get("phase") == "Running" for pod in self.of("pods", namespace))

    def all_run(self, namespace: str) -> bool:
        """Whether the status says so, and two pods run."""
        stage = self.status(namespace).stage("train")
        return stage is not None and stage.state == "Running" and self.running(namespace) == 2

    def is_gone(self, item: Json) -> bool:
        """Whether that object was deleted and is gone."""
        return item["metadata"]["uid"] in self._gone

    async def events(self, namespace: str) -> list[Json]:
        """What was told of the job."""
        page = await self.request("GET", f"/api/v1/namespaces/{namespace}/events")
        return [item for item in page["items"] if item["involvedObject"]["kind"] == "CostOptJob"]

    def is_over(self, namespace: str) -> bool:
        """Whether the job has ended and no longer holds a pod."""
        succeeded = self.status(namespace).condition("Succeeded")
        held = any(USAGE_FINALIZER in self.finalizers(pod) for pod in self.of("pods", namespace))
        return succeeded is not None and succeeded.status != "Unknown" and not held

    def finalizers(self, item: Json) -> list[str]:
        """What keeps an object from being deleted; empty if it is gone."""
        metadata = item["metadata"]
        kept: list[str] = metadata.get("finalizers", [])
        return [] if metadata["uid"] in self._gone else kept


@dataclass(frozen=True)
class Life:
    """A job, and what people do to it."""

    job: Json
    conduct: Callable[[Sight, str], Coroutine[Any, Any, None]]


async def _nothing(sight: Sight, namespace: str) -> None:
    """Nobody does anything."""


async def _suspend_and_resume(sight: Sight, namespace: str) -> None:
    await sight.wait_for(lambda: sight.all_run(namespace), "training runs")
    await sight.set_suspend(namespace, True)

    def suspended() -> bool:
        condition = sight.status(namespace).condition("Suspended")
        return condition is not None and condition.status == "True"

    await sight.wait_for(suspended, "suspended")
    await sight.set_suspend(namespace, False)


def _job(*directions: Play, variants: int) -> Json:
    # One node, so that every record has the same price.
    job: Json = plain_job(pods={"annotations": play(*directions), "nodeSelector": {"kubernetes.io/hostname": "node-0"}})
    job["metadata"]["name"] = JOB
    job["spec"]["compress"] = job["spec"]["compress"][:variants]
    return job


def lives() -> dict[str, Life]:
    """The lives, by what happens in them. No pod ends by chance of time: what is stopped would have run forever."""
    # It reports its own time: on a busy machine the other may never have run, and so cannot report for both.
    failed = {"exitCode": 1, "reason": "ProcessFailed", "progress": PROGRESS}
    fails = Play(stage="train", attempt=0, index=0, exit_code=1, message=failed)
    waits = Play(stage="train", attempt=0, index=1, run_seconds="forever")
    runs = Play(stage="train", execution=1, run_seconds="forever", stop_message={"exitCode": 143})
    return {
        "two replicas and a variant": Life(_job(TRAINED, COMPRESSED, variants=1), _nothing),
        "an attempt that fails": Life(_job(TRAINED, fails, waits, variants=0), _nothing),
        "suspended and resumed": Life(_job(TRAINED, runs, variants=0), _suspend_and_resume),
    }


def life_that_loses_its_first_attempt() -> Life:
    """The first attempt would run forever."""
    return Life(_job(TRAINED, Play(stage="train", attempt=0, run_seconds="forever"), variants=0), _nothing)


@contextlib.asynccontextmanager
async def namespaces(sight: Sight, names: list[str]) -> AsyncIterator[None]:
    """Namespaces during the block; does not wait for their deletion."""
    await asyncio.gather(
        *(sight.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}}) for name in names),
        sight.request(
            "PATCH",
            f"{GROUP}/pricebooks/sample?fieldManager=test&force=true",
            plain_price_book(),
            "application/apply-patch+yaml",
        ),
    )
    try:
        yield
    finally:
        await asyncio.gather(*(sight.request("DELETE", f"/api/v1/namespaces/{name}") for name in names))


async def end_of(sight: Sight, namespace: str) -> Json:
    """What is left of a life, without times and uids; asserts that those are correct."""
    status = sight.status(namespace)
    pods = {pod["metadata"]["uid"]: pod for pod in sight.of("pods", namespace)}
    _check_usage(status, pods)
    _check_made_once(sight.of("jobs", namespace))
    items: Json = {}
    for kind, prefix in CHILDREN.items():
        page = await sight.request("GET", f"{prefix}/namespaces/{namespace}/{kind}")
        items[kind] = [item for item in page["items"] if item["metadata"]["name"] != "kube-root-ca.crt"]
    items["events"] = await sight.events(namespace)
    uids = {item["metadata"]["uid"]: f"<uid of {item['metadata']['name']}>" for item in sight.of("jobs", namespace)}
    uids |= {job["metadata"]["uid"]: "<uid of the job>" for job in sight.of("costoptjobs", namespace)}
    uids |= {uid: f"<uid of {_name(pod)}>" for uid, pod in pods.items()}
    uids[namespace] = "<namespace>"
    left = {
        kind: sorted((_child(item) for item in items[kind]), key=lambda item: str(item["name"])) for kind in CHILDREN
    }
    end = {
        **left,
        "pods": {_name(pod): _pod(pod) for pod in pods.values()},
        "status": _status(status),
        "events": dict(Counter(item["reason"] for item in items["events"])),
    }
    return json.loads(_replaced(json.dumps(end, sort_keys=True), uids))  # type: ignore[no-any-return]


def _check_usage(status: JobStatus, pods: dict[str, Json]) -> None:
    """Every pod that reached a node is recorded once, with its own times, and the bill is that of the records."""
    records = status.usage.records if status.usage else []
    held = {uid for uid, pod in pods.items() if pod["spec"].get("nodeName")}
    assert sorted(record.uid for record in records) == sorted(held), "a pod is missing, or is there twice"
    for record in records:
        conditions = {item["type"]: item for item in pods[record.uid]["status"]["conditions"]}
        ended = pods[record.uid]["status"]["containerStatuses"][0]["state"]["terminated"]
        assert _text(record.held_from) == conditions["PodScheduled"]["lastTransitionTime"]
        assert _text(record.held_until) == ended.get("finishedAt", _text(record.held_until))
    assert status.usage is not None
    assert status.bill == bill_of(status.usage, (), PriceBook.model_validate(plain_price_book()))


def _check_made_once(jobs: list[Json]) -> None:
    made = Counter(job["metadata"]["name"] for job in jobs)
    assert set(made.values()) == {1}, f"made more than once: {made}"


def _text(moment: Any) -> str:
    return str(moment.strftime("%Y-%m-%dT%H:%M:%SZ"))


def _name(pod: Json) -> str:
    """A pod's name without its five random characters."""
    return str(pod["metadata"]["name"]).rpartition("-")[0]


def _pod(pod: Json) -> Json:
    return {"phase": pod["status"]["phase"], "labels": pod["metadata"]["labels"]}


def _child(item: Json) -> Json:
    """What was requested, without random values and counters of the API server."""
    metadata = {key: item["metadata"].get(key) for key in ("name", "labels", "annotations", "ownerReferences")}
    spec = dict(item.get("spec", {}))
    return {**metadata, "spec": spec, "data": item.get("data")}


def _status(status: JobStatus) -> Json:
    plain = status.to_plain()
    plain.pop("bill")
    plain.pop("activeMillisecondsBefore", None)
    plain.pop("batchJobs", None)  # a deleted one is left out at the next write, if there is one
    records = plain["usage"]["records"]
    plain["usage"]["records"] = sorted(
        records, key=lambda record: (record["stage"], record["attempt"], record["index"])
    )
    return plain


def _replaced(text: str, uids: dict[str, str]) -> str:
    for uid, name in uids.items():
        text = text.replace(uid, name)
    return re.sub(r'"\d{4}-\d\d-\d\dT[0-9:.]+(Z|\+00:00)"', '"<time>"', text)


def differing(expected: Json, found: Json) -> list[str]:
    """What differs, in sentences. An event may be lost with the operator, but none is repeated."""
    said = list(_differences("", {**expected, "events": 0}, {**found, "events": 0}))
    for reason, times in found["events"].items():
        if times > expected["events"].get(reason, 0):
            said.append(f"the event {reason} is told {times} times, and not {expected['events'].get(reason, 0)}")
    return said


def _differences(where: str, expected: object, found: object) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            yield from _differences(f"{where}.{key}", expected.get(key), found.get(key))
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _differences(f"{where}[{index}]", one, other)
    elif expected != found:
        yield f"{where} should be {expected!r} and not {found!r}"
