"""A small cluster that is played: the API server's objects, and who changes them besides the operator.

Its scheduler, kubelets, Job controller and garbage collector do what those of Kubernetes 1.34 do, each late by a moment
of its own. What an object tells is what a kubelet has reported so far, in whole seconds; that a container has ended may
be told much later. Objects are never changed in place, so what was shown at a look stays as it was shown.
"""

import copy
import heapq
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from costopt import names
from costopt.render.labels import label_value
from oracle.exact_bill import Microseconds, moment

Json = dict[str, Any]
SECOND = 10**6
INDEX = "batch.kubernetes.io/job-completion-index"


def stamp(at: Microseconds) -> str:
    """The API server's text of a moment: whole seconds."""
    return moment(at).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Fate:
    """What a pod will do by itself, in microseconds."""

    placed_after: Microseconds
    starts_after: Microseconds
    runs_for: Microseconds
    exit_code: int
    told_after: Microseconds
    """Until its kubelet has reported an end."""
    tells_progress: bool = False
    """In its termination message."""
    startup: Microseconds = SECOND
    pace: int = 60
    """Hundredths of its time that its meter accounts for; more than 100 when its clock is fast."""
    clock_ahead: Microseconds = 0
    """Of its node."""


@dataclass
class PlayedPod:
    """A pod: what the API server holds, and what only the node knows."""

    data: Json
    stage: str
    attempt: int
    index: int
    fate: Fate
    started: Microseconds | None = None
    ends: Microseconds | None = None
    """When its containers do end, once that is settled."""
    asked: Microseconds | None = None
    """When its deletion was first asked for."""
    told: bool = False
    """Its end stands in its status."""

    @property
    def uid(self) -> str:
        """Of the pod."""
        return str(self.data["metadata"]["uid"])

    def change(self, how: Callable[[Json], None]) -> None:
        """Another state of the object."""
        self.data = copy.deepcopy(self.data)
        how(self.data)

    def meter(self, now: Microseconds) -> dict[str, int] | None:
        """Its account in milliseconds, as it would print it; None before its first step."""
        if self.started is None:
            return None
        lasted = min(now, self.ends or now) - self.started
        if lasted <= self.fate.startup:
            return None
        counted = (lasted - self.fate.startup) * self.fate.pace // 100 // 1000
        return {
            "startup": self.fate.startup // 1000,
            "productive": counted * 6 // 10,
            "sinceCheckpoint": counted // 10,
            "dataWait": counted * 2 // 10,
            "checkpoint": counted // 10,
        }

    def progress(self, now: Microseconds) -> Json | None:
        """Its last report of progress."""
        metered = self.meter(now)
        return None if metered is None else {"step": metered["productive"], "totalSteps": 10**9, "metered": metered}


@dataclass
class Cluster:
    """All of it."""

    random: Random
    job: Json
    now: Microseconds
    template: Json
    """Spec of the pods."""
    fate: Callable[[str, int, int], Fate]
    """Of a pod, by stage, attempt and index."""
    grace: int = 30
    """Seconds that a pod is given to end."""
    jobs: dict[str, Json] = field(default_factory=dict)
    pods: dict[str, PlayedPod] = field(default_factory=dict)
    nodes: dict[str, Mapping[str, str]] = field(default_factory=dict)
    _due: list[tuple[Microseconds, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def passes(self, time: Microseconds) -> None:
        """Let time pass, and all happen that comes due."""
        until = self.now + time
        self._controllers()
        while self._due and self._due[0][0] <= until:
            self.now, _, happens = heapq.heappop(self._due)
            happens()
            self._controllers()
        self.now = until

    def later(self, after: Microseconds, happens: Callable[[], None]) -> None:
        """Something that comes due."""
        heapq.heappush(self._due, (self.now + max(0, after), next(self._numbers), happens))

    # What the operator asks for.

    def start(self, stage: str, attempt: int, size: int) -> None:
        """The Job of an attempt; a queue's is created suspended."""
        name = names.child_name(self.job["metadata"]["name"], stage, attempt)
        if name in self.jobs:
            return
        queued = names.QUEUE_NAME_LABEL in self.job["metadata"]["labels"]
        uid = f"job-{next(self._numbers)}"
        owner = {"apiVersion": "costopt.dev/v1alpha1", "kind": "CostOptJob", "controller": True}
        owner |= {"name": self.job["metadata"]["name"], "uid": self.job["metadata"]["uid"]}
        self.jobs[name] = {
            "metadata": {
                "name": name,
                "namespace": "team",
                "uid": uid,
                "resourceVersion": "1",
                "creationTimestamp": stamp(self.now),
                "labels": self._labels(stage, attempt),
                "ownerReferences": [owner],
            },
            "spec": {"completions": size, "suspend": queued},
            "status": {} if queued else {"startTime": stamp(self.now)},
        }
        if queued:
            self.later(self.random.randrange(1, 60 * SECOND), lambda: self.admit(uid))

    def admit(self, uid: str) -> None:
        """A queue lets the Job begin."""
        for job in self.jobs.values():
            if job["metadata"]["uid"] == uid and job["spec"]["suspend"]:
                job["spec"] = {**job["spec"], "suspend": False}
                job["status"] = {**job["status"], "startTime": stamp(self.now)}

    def take_back(self, job: Json) -> None:
        """A queue suspends a Job, which ends its pods."""
        if job["spec"]["suspend"] or self._conditions(job):
            return
        job["spec"] = {**job["spec"], "suspend": True}
        job["status"] = {key: value for key, value in job["status"].items() if key != "startTime"}
        for pod in self._pods_of(job):
            if not pod.told:
                self.delete_pod(pod.uid)
        self.later(self.random.randrange(60 * SECOND, 200 * SECOND), lambda: self.admit(job["metadata"]["uid"]))

    def delete_job(self, uid: str) -> None:
        """Delete a Job; its pods follow."""
        for name, job in list(self.jobs.items()):
            if job["metadata"]["uid"] == uid:
                del self.jobs[name]
                for pod in self._pods_of(job):
                    self.later(self.random.randrange(2 * SECOND), lambda uid=pod.uid: self.delete_pod(uid))  # type: ignore[misc]

    def delete_pod(self, uid: str, grace: int | None = None) -> None:
        """Ask for a pod's deletion; a shorter grace than before counts, a longer one does not."""
        pod = self.pods.get(uid)
        if pod is None:
            return
        metadata = pod.data["metadata"]
        seconds = self.grace if grace is None else grace
        if "nodeName" not in pod.data["spec"] or pod.told:
            seconds = 0
        before = metadata.get("deletionGracePeriodSeconds")
        if before is not None and seconds >= before:
            return
        asked = self.now if pod.asked is None else pod.asked

        def marked(data: Json) -> None:
            data["metadata"]["deletionTimestamp"] = stamp(asked + seconds * SECOND)
            data["metadata"]["deletionGracePeriodSeconds"] = seconds

        pod.change(marked)
        pod.asked = asked
        node = pod.data["spec"].get("nodeName")
        if seconds and node in self.nodes and pod.ends is None:
            end = self.now + self.random.randrange(min(seconds, 60) * SECOND)
            self.later(end - self.now, lambda: self._ends(pod, self.random.choice([143, 143, 143, 137])))
        self._sweep(pod)

    def release(self, uid: str, finalizer: str = names.USAGE_FINALIZER) -> None:
        """Remove a finalizer."""
        if pod := self.pods.get(uid):
            pod.change(lambda data: data["metadata"]["finalizers"].remove(finalizer))
            self._sweep(pod)

    # What befalls pods.

    def lose_node(self, name: str) -> None:
        """A node is gone with all that ran there; its pods are collected some minutes later."""
        del self.nodes[name]
        for pod in self.pods.values():
            if pod.data["spec"].get("nodeName") == name and not pod.told:
                pod.ends = pod.ends or self.now
                self.later(self.random.randrange(SECOND, 300 * SECOND), lambda pod=pod: self._collect(pod))  # type: ignore[misc]

    def _collect(self, pod: PlayedPod) -> None:
        def collected(data: Json) -> None:
            data["status"]["phase"] = "Failed"
            told = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}
            data["status"]["conditions"].append({**told, "lastTransitionTime": stamp(self.now)})

        if pod.uid in self.pods and not pod.told:
            pod.change(collected)
            pod.told = True
            self.later(self.random.randrange(5 * SECOND), lambda: self.delete_pod(pod.uid, 0))

    def vanish(self, uid: str) -> None:
        """Somebody removes the finalizer and deletes the pod by force: nothing is left to look at."""
        pod = self.pods.pop(uid)
        pod.ends = pod.ends or self.now

    def resize(self, pod: PlayedPod, requests: Mapping[str, str]) -> None:
        """Somebody patches the requests of its first container; its node follows later, or cannot."""

        def asked(data: Json) -> None:
            first = data["spec"]["containers"][0]
            told = next(item for item in data["status"]["containerStatuses"] if item["name"] == first["name"])
            told.setdefault("resources", copy.deepcopy(first["resources"]))
            first["resources"] = {
                **first["resources"],
                "requests": {**first["resources"]["requests"], **requests},
            }
            conditions = [item for item in data["status"]["conditions"] if item["type"] != "PodResizePending"]
            data["status"]["conditions"] = conditions
            if in_vain:
                pending = {"type": "PodResizePending", "status": "True", "reason": "Infeasible"}
                conditions.append({**pending, "lastTransitionTime": stamp(self.now)})

        def followed(data: Json) -> None:
            first = data["spec"]["containers"][0]
            for item in data["status"]["containerStatuses"]:
                if item["name"] == first["name"]:
                    item["resources"] = copy.deepcopy(first["resources"])

        in_vain = self.random.random() < 0.2
        pod.change(asked)
        if not in_vain:
            self.later(self.random.randrange(60 * SECOND), lambda: None if pod.told else pod.change(followed))

    # Who else changes things.

    def _controllers(self) -> None:
        for job in list(self.jobs.values()):
            self._job_controller(job)

    def _pods_of(self, job: Json) -> list[PlayedPod]:
        uid = job["metadata"]["uid"]
        return [pod for pod in self.pods.values() if pod.data["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _conditions(self, job: Json) -> set[str]:
        return {item["type"] for item in job["status"].get("conditions", [])}

    def _job_controller(self, job: Json) -> None:
        """Make pods, notice that they have ended; a pod that fails fails all, unless a queue took the Job back."""
        if job["spec"]["suspend"] or self._conditions(job):
            return
        pods = self._pods_of(job)
        since = job["status"]["startTime"]
        counted = [pod for pod in pods if pod.data["metadata"]["creationTimestamp"] >= since]
        phases = {pod.index: pod.data["status"]["phase"] for pod in counted}
        done = {int(number) for number in filter(None, job["status"].get("completedIndexes", "").split(","))}
        done |= {index for index, phase in phases.items() if phase == "Succeeded"}
        job["status"] = {**job["status"], "completedIndexes": ",".join(map(str, sorted(done)))}
        by_force = any(
            pod.data["metadata"].get("deletionGracePeriodSeconds") == 0 and "nodeName" in pod.data["spec"]
            for pod in counted
            if not pod.told
        )
        if by_force or "Failed" in phases.values():
            job["status"] = {**job["status"], "conditions": [{"type": "FailureTarget", "status": "True"}]}
            for pod in counted:
                if not pod.told:
                    self.later(self.random.randrange(2 * SECOND), lambda uid=pod.uid: self.delete_pod(uid))  # type: ignore[misc]
            return
        if len(done) == job["spec"]["completions"]:
            job["status"] = {**job["status"], "conditions": [{"type": "Complete", "status": "True"}]}
            return
        there = {pod.index for pod in pods if not self._never_was(pod)}
        for index in range(job["spec"]["completions"]):
            if index not in done and index not in there:
                self._make_pod(job, index)

    @staticmethod
    def _never_was(pod: PlayedPod) -> bool:
        return ("deletionTimestamp" in pod.data["metadata"] and "nodeName" not in pod.data["spec"]) or pod.told

    def _make_pod(self, job: Json, index: int) -> None:
        labels = job["metadata"]["labels"]
        stage, attempt = labels[names.LABEL_STAGE], int(labels[names.LABEL_ATTEMPT])
        uid = f"pod-{next(self._numbers)}"
        owner = {"apiVersion": "batch/v1", "kind": "Job", "controller": True, "name": job["metadata"]["name"]}
        data: Json = {
            "metadata": {
                "name": f"{job['metadata']['name']}-{index}-{uid[-5:]}",
                "namespace": "team",
                "uid": uid,
                "resourceVersion": "1",
                "creationTimestamp": stamp(self.now),
                "labels": {**labels, INDEX: str(index), "batch.kubernetes.io/job-name": job["metadata"]["name"]},
                "finalizers": [names.USAGE_FINALIZER],
                "ownerReferences": [{**owner, "uid": job["metadata"]["uid"]}],
            },
            "spec": copy.deepcopy(self.template),
            "status": {"phase": "Pending", "conditions": []},
        }
        pod = PlayedPod(data, stage, attempt, index, self.fate(stage, attempt, index))
        self.pods[uid] = pod
        self.later(pod.fate.placed_after, lambda: self._placed(pod))

    def _placed(self, pod: PlayedPod) -> None:
        if "deletionTimestamp" in pod.data["metadata"] or not self.nodes:
            return
        node = self.random.choice(sorted(self.nodes))

        def placed(data: Json) -> None:
            data["spec"]["nodeName"] = node
            scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(self.now)}
            data["status"]["conditions"] = [scheduled]
            waiting = {"waiting": {"reason": "ContainerCreating"}}
            data["status"]["containerStatuses"] = [
                {"name": item["name"], "state": waiting} for item in data["spec"]["containers"]
            ]

        pod.change(placed)
        self.later(pod.fate.starts_after, lambda: self._runs(pod))

    def _runs(self, pod: PlayedPod) -> None:
        if "deletionTimestamp" in pod.data["metadata"] or pod.ends is not None or not self._alive(pod):
            return
        pod.started = self.now

        def runs(data: Json) -> None:
            data["status"]["phase"] = "Running"
            for item in data["status"]["containerStatuses"]:
                item["state"] = {"running": {"startedAt": stamp(self.now + pod.fate.clock_ahead)}}

        pod.change(runs)
        self.later(pod.fate.runs_for, lambda: self._ends(pod, pod.fate.exit_code))

    def _alive(self, pod: PlayedPod) -> bool:
        return pod.uid in self.pods and pod.data["spec"].get("nodeName") in self.nodes

    def _ends(self, pod: PlayedPod, code: int) -> None:
        """Its containers end; its kubelet tells so later."""
        if pod.ends is not None or not self._alive(pod):
            return
        pod.ends = self.now
        self.later(pod.fate.told_after, lambda: self._tell_end(pod, code))

    def _tell_end(self, pod: PlayedPod, code: int) -> None:
        if not self._alive(pod) or pod.ends is None:
            return
        end = pod.ends
        said: Json = {"exitCode": code}
        if pod.fate.tells_progress and (progress := pod.progress(end)):
            said["progress"] = progress
        if pod.stage != names.TRAIN_STAGE and code == 0:
            said["variant"] = {**REPORT, "name": pod.stage}
        terminated: Json = {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}
        terminated |= {"finishedAt": stamp(end + pod.fate.clock_ahead), "message": json.dumps(said)}
        if pod.started is None:  # nothing of it had begun
            terminated = {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": "could not be located"}
        else:
            terminated["startedAt"] = stamp(pod.started + pod.fate.clock_ahead)

        def ended(data: Json) -> None:
            data["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
            for item in data["status"]["containerStatuses"]:
                item["state"] = {"terminated": terminated}

        pod.change(ended)
        pod.told = True
        if "deletionTimestamp" in pod.data["metadata"]:
            self.delete_pod(pod.uid, 0)

    def _sweep(self, pod: PlayedPod) -> None:
        """What is deleted and held by nobody goes."""
        metadata = pod.data["metadata"]
        if metadata.get("deletionGracePeriodSeconds") == 0 and not metadata["finalizers"]:
            self.pods.pop(pod.uid, None)

    def _labels(self, stage: str, attempt: int) -> dict[str, str]:
        return {
            **names.MANAGED_BY,
            names.LABEL_JOB: label_value(self.job["metadata"]["name"]),
            names.LABEL_JOB_UID: self.job["metadata"]["uid"],
            names.LABEL_STAGE: stage,
            names.LABEL_ATTEMPT: str(attempt),
        }


_MEASURED = {
    "sizeBytes": 100,
    "parameters": 10,
    "nonzeroPermille": 1000,
    "latencyMicroseconds": 10,
    "validationLoss": "1.5",
    "engine": "TorchEager",
}
REPORT = {
    "measured": _MEASURED,
    "baseline": _MEASURED,
    "sizeRatio": "4",
    "speedup": "1.2",
    "validationLossIncrease": "0.01",
    "artifact": "artifacts/int8",
    "reloaded": True,
}
