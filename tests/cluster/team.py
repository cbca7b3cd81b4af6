"""A namespace and its jobs, as users of the operator see them.

    job = team.submit(Play(index=1, attempt=0, exit_code=1))
    job.wait_until_ended()
    team.check_usage(job)

A witness watches every pod from its beginning to its end, so that what the operator counted can be compared with what
happened.
"""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import builders.waiting
from builders.cluster import Play, ended_container, play
from cases.mistakes import plain_job, plain_price_book
from cluster.control_plane import ControlPlane
from cluster.rest import APPLY, MERGE, Json, Rest
from costopt import names
from costopt.render.labels import label_value

PATIENCE = 240.0
"""Seconds until a test gives up waiting. What it waits for takes about two, but half a minute where Kubernetes' own
garbage collector must first learn of a kind that was defined a moment ago."""
GROUP = "/apis/costopt.dev/v1alpha1"
ON_DEMAND = {"karpenter.sh/capacity-type": "on-demand"}
"""Nodes for which the usual price book has prices."""
FINISHED_PROGRESS = {"step": 40, "totalSteps": 40, "metered": {"startup": 200, "productive": 500}}
TRAINED = {"exitCode": 0, "progress": FINISHED_PROGRESS}


def variant_report(name: str) -> Json:
    """What the pod of a variant hands back."""
    measured = {
        "sizeBytes": 100, "parameters": 10, "nonzeroPermille": 1000, "latencyMicroseconds": 10,
        "validationLoss": "1.5", "engine": "TorchEager",
    }  # fmt: skip
    report = {
        "name": name, "measured": measured, "baseline": measured, "sizeRatio": "4", "speedup": "1.2",
        "validationLossIncrease": "0.01", "artifact": f"artifacts/{name}", "reloaded": True,
    }  # fmt: skip
    return {"exitCode": 0, "variant": report}


def job_manifest(
    name: str,
    *directions: Play,
    nodes: int = 2,
    variants: tuple[str, ...] = (),
    labels: Mapping[str, str] | None = None,
    pods: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Json:
    """A job whose pods end well after a second, unless directed otherwise."""
    usual = [
        Play(stage="train", message=TRAINED),
        *(Play(stage=each, message=variant_report(each)) for each in variants),
    ]
    step = {"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}}
    plain = plain_job(
        pods={"nodeSelector": ON_DEMAND, **(pods or {}), "annotations": play(*usual, *directions)},
        compress=[{"name": each, "steps": [step]} for each in variants],
        **spec,
    )
    plain["metadata"] = {"name": name, **({"labels": dict(labels)} if labels else {})}
    train = plain["spec"]["train"]
    if "train" not in spec:
        train["numNodes"] = nodes
        train["recipe"]["batch"]["globalBatchSize"] = 2 * nodes
    return plain


class Team:
    """One namespace on a control plane."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self.control_plane = control_plane
        self.namespace = namespace
        self.rest = Rest(control_plane.kubeconfig)
        self._seen: dict[str, Json] = {}
        self._gone: set[str] = set()
        self._witness = threading.Thread(target=self._watch_pods, daemon=True)
        self._over = False
        self._witness.start()

    def close(self) -> None:
        """The witness goes home."""
        self._over = True

    def submit(self, *directions: Play, name: str = "tiny", **changes: Any) -> "LiveJob":
        """Create a job; see `job_manifest`."""
        return self.create(job_manifest(name, *directions, **changes))

    def create(self, manifest: Json) -> "LiveJob":
        """Create a job of this manifest."""
        created = self.rest.must("POST", f"{GROUP}/namespaces/{self.namespace}/costoptjobs", manifest)
        return LiveJob(self, created["metadata"]["name"], created["metadata"]["uid"])

    def apply_book(self, name: str, **spec: Any) -> None:
        """Create or change a price book; they have no namespace, so its name should have the team's."""
        manifest = {**plain_price_book(**spec), "metadata": {"name": name}}
        self.rest.must("PATCH", f"{GROUP}/pricebooks/{name}?fieldManager=test&force=true", manifest, APPLY)

    def path(self, plural: str, name: str = "") -> str:
        """Path of objects in the namespace: pods, configmaps, services, events; jobs, networkpolicies with a group."""
        groups = {"jobs": "/apis/batch/v1", "networkpolicies": "/apis/networking.k8s.io/v1", "costoptjobs": GROUP}
        path = f"{groups.get(plural, '/api/v1')}/namespaces/{self.namespace}/{plural}"
        return f"{path}/{name}" if name else path

    def objects(self, plural: str, **labels: str) -> list[Json]:
        """Objects in the namespace that costopt made, with these labels besides: stage="train", attempt="0"."""
        wanted = [names.MANAGED_BY_SELECTOR, *(f"costopt.dev/{key}={value}" for key, value in labels.items())]
        return self.rest.items(f"{self.path(plural)}?labelSelector={','.join(wanted)}")

    def leftovers(self) -> list[str]:
        """Everything of ours that there is in the namespace, but for claims."""
        kinds = ("pods", "jobs", "configmaps", "services", "networkpolicies")
        return [f"{kind}/{found['metadata']['name']}" for kind in kinds for found in self.objects(kind)]

    def wait_for(self, read: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        """The first answer of `read` that is true."""
        return builders.waiting.wait_for(read, what, seconds)

    def pods_ever(self, job: "LiveJob") -> list[Json]:
        """Every pod that the job has ever had, as it was when last seen."""
        found = [pod for pod in list(self._seen.values()) if _uid_of(pod) == job.uid]
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def holds_back(self, pod: Json) -> bool:
        """Whether the pod is there, and cannot go before its usage is recorded."""
        finalizers = pod["metadata"].get("finalizers", [])
        return pod["metadata"]["uid"] not in self._gone and names.USAGE_FINALIZER in finalizers

    def _watch_pods(self) -> None:
        while not self._over:
            for event in self.rest.watch(self.path("pods"), seconds=60):
                if self._over or event["type"] == "ERROR":
                    break
                uid = event["object"]["metadata"]["uid"]
                self._seen[uid] = event["object"]
                if event["type"] == "DELETED":
                    self._gone.add(uid)
            time.sleep(0.1)

    def check_usage(self, job: "LiveJob", *, estimated: int | None = 0, blind: float = 0) -> list[Json]:
        """Every pod that reached a node is recorded once, as long as its kubelet says; and the bill is made of that.

        Returns the records. `estimated`: how many ends nobody saw; None: that is chance. `blind`: for how many seconds
        the operator may have heard of no end. It bills what it believes to run, and a bill does not go down.
        """
        self.wait_for(job.all_recorded, f"the usage of every pod recorded in {job.name}")
        records = job.status.get("usage", {}).get("records", [])
        held = [pod for pod in self.pods_ever(job) if scheduled_at(pod)]
        assert sorted(record["uid"] for record in records) == sorted(pod["metadata"]["uid"] for pod in held)
        by_uid = {record["uid"]: record for record in records}
        unseen = []
        for pod in held:
            record = by_uid[pod["metadata"]["uid"]]
            assert moment(record["heldFrom"]) == scheduled_at(pod)
            if not record.get("endEstimated"):
                assert moment(record["heldUntil"]) == moment(ended_container(pod)["finishedAt"])
            elif not blind or not 0 < _seconds_late(record, pod) <= blind:
                unseen.append(record)
            assert record["node"] == pod["spec"]["nodeName"]
        if estimated is not None:
            assert len(unseen) == estimated, unseen
        self._check_bill(job.status["bill"], records)
        return list(records)

    @staticmethod
    def _check_bill(bill: Json, records: list[Json]) -> None:
        for resource, unit in (("cpu", Decimal(1)), ("memory", Decimal(2**30))):
            hours = sum(
                (Decimal(record["resources"][resource]) / unit * Decimal(held_seconds(record)) / 3600)
                for record in records
            )
            lines = [Decimal(line["consumedQuantity"]) for line in bill["lines"] if line["resource"] == resource]
            assert abs(sum(lines) - hours) < Decimal("1e-8"), (resource, lines, hours)
        costs = [line.get("listCost") for line in bill["lines"]]
        if None not in costs:
            assert Decimal(bill["listCost"]) == sum(map(Decimal, costs))


class LiveJob:
    """One job on the API server."""

    def __init__(self, team: Team, name: str, uid: str) -> None:
        self.team = team
        self.name = name
        self.uid = uid
        self._path = team.path("costoptjobs", name)

    @property
    def document(self) -> Json | None:
        """The job as it is now; None if it is gone, or another of its name."""
        found = self.team.rest.get(self._path)
        return found if found is not None and found["metadata"]["uid"] == self.uid else None

    @property
    def status(self) -> Json:
        """Its status; empty before the first, or if it is gone."""
        found: Json = (self.document or {}).get("status") or {}
        return found

    def condition(self, kind: str = "Succeeded") -> Json:
        """The condition of that type; empty while there is none."""
        return condition_of(self.status, kind)

    def stage(self, name: str = "train") -> Json:
        """That stage's status; empty while there is none."""
        return next((stage for stage in self.status.get("stages", []) if stage["name"] == name), {})

    def pods(self, **labels: str) -> list[Json]:
        """Its pods that are there now, in order of name."""
        found = self.team.objects("pods", job=label_value(self.name), **labels)
        return sorted((pod for pod in found if _uid_of(pod) == self.uid), key=lambda pod: str(pod["metadata"]["name"]))

    def batch_jobs(self) -> list[Json]:
        """Its batch Jobs, in order of name."""
        found = self.team.objects("jobs", job=label_value(self.name))
        mine = [each for each in found if _uid_of(each) == self.uid]
        return sorted(mine, key=lambda each: str(each["metadata"]["name"]))

    def events(self) -> list[Json]:
        """Events about it, in the order in which they were told."""
        found = self.team.rest.items(self.team.path("events"))
        mine = [event for event in found if event["involvedObject"].get("uid") == self.uid]
        return sorted(mine, key=lambda event: int(event["metadata"]["resourceVersion"]))

    def wait_until_told(self, *reasons: str) -> None:
        """Wait until its Events are these, and no others. An Event follows the status that it tells of."""
        told = f"told {', '.join(reasons)}"
        self.team.wait_for(lambda: [event["reason"] for event in self.events()] == list(reasons), told)

    def event(self, reason: str) -> Json:
        """Its one Event of that reason, which is waited for."""
        (found,) = self.team.wait_for(
            lambda: [event for event in self.events() if event["reason"] == reason], f"told {reason}"
        )
        return dict(found)

    def all_recorded(self) -> bool:
        """Each pod that it ever had has ended, and no pod has our finalizer any more."""
        pods = self.team.pods_ever(self)
        recorded = {record["uid"] for record in self.status.get("usage", {}).get("records", [])}
        missing = {pod["metadata"]["uid"] for pod in pods if scheduled_at(pod)} - recorded
        return not missing and not any(map(self.team.holds_back, pods))

    def change(self, **spec: Any) -> None:
        """Change fields of its spec, as `kubectl patch` does."""
        self.team.rest.must("PATCH", self._path, {"spec": spec}, MERGE)

    def delete(self, cascade: str = "Background") -> None:
        """As `kubectl delete --cascade=...` does."""
        self.team.rest.must("DELETE", self._path, {"propagationPolicy": cascade})

    def keep(self, *finalizers: str) -> None:
        """Somebody's finalizers keep it from going; none: nobody's do any more."""
        self.team.rest.must("PATCH", self._path, {"metadata": {"finalizers": list(finalizers)}}, MERGE)

    def is_gone(self) -> bool:
        """There is no such job any more."""
        return self.document is None

    def wait_until(self, holds: Callable[[Json], Any], what: str, seconds: float = PATIENCE) -> Json:
        """The first status of which that holds."""
        deadline = time.monotonic() + seconds
        while not holds(status := self.status):
            assert time.monotonic() < deadline, f"{self.name} is still not {what} after {seconds:.0f} s: {status}"
            time.sleep(0.1)
        return status

    def wait_until_running(self, pods: int = 2, seconds: float = PATIENCE, **labels: str) -> list[Json]:
        """Its pods, once so many run and the status says that training does."""

        def running() -> list[Json] | None:
            found = [pod for pod in self.pods(**labels) if pod["status"].get("phase") == "Running"]
            found = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
            return found if len(found) == pods else None

        found: list[Json] = self.team.wait_for(running, f"{pods} running pods of {self.name}", seconds)
        return found

    def wait_until_ended(self, reason: str = "Completed", seconds: float = PATIENCE) -> Json:
        """Its status at its end, which must be for this reason."""
        status = self.wait_until(
            lambda status: condition_of(status, "Succeeded").get("status") in ("True", "False"), "at its end", seconds
        )
        ending = condition_of(status, "Succeeded")
        assert ending["reason"] == reason, ending
        return status

    def wait_until_suspended(self, reason: str = "SuspendRequested") -> Json:
        """Its status once it is suspended for this reason."""
        status = self.wait_until(lambda status: condition_of(status, "Suspended").get("status") == "True", "suspended")
        assert condition_of(status, "Suspended")["reason"] == reason
        return status

    def wait_until_gone(self, seconds: float = PATIENCE) -> None:
        """Neither it nor anything of it is left."""
        self.team.wait_for(self.is_gone, f"{self.name} gone", seconds)
        self.team.wait_for(lambda: not self.pods() and not self.batch_jobs(), f"nothing left of {self.name}", seconds)


def _uid_of(child: Json) -> str:
    return str(child["metadata"]["labels"].get(names.LABEL_JOB_UID, ""))


def condition_of(status: Json, kind: str) -> Json:
    """The condition of that type; empty while there is none."""
    return next((each for each in status.get("conditions", []) if each["type"] == kind), {})


def moment(text: str) -> datetime:
    """A time of the API server's."""
    return datetime.fromisoformat(text)


def scheduled_at(pod: Json) -> datetime | None:
    """When a node was found for it."""
    found = condition_of(pod["status"], "PodScheduled")
    return moment(found["lastTransitionTime"]) if found.get("status") == "True" else None


def _seconds_late(record: Json, pod: Json) -> float:
    """How long after its pod's end the record ends."""
    return (moment(record["heldUntil"]) - moment(ended_container(pod)["finishedAt"])).total_seconds()


def held_seconds(record: Json) -> Decimal:
    """How long a usage record says that its pod held its node."""
    held = moment(record["heldUntil"]) - moment(record["heldFrom"])
    return Decimal(held.days * 86400 + held.seconds) + Decimal(held.microseconds) / 10**6
