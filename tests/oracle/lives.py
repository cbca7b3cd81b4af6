"""A job's whole life under the operator's decisions, at random, and a transcript of all that the operator was shown."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from builders.documents import plain_job
from costopt.names import QUEUE_NAME_LABEL, TRAIN_STAGE
from costopt.schema.job import CostOptJob
from costopt.schema.replica import Progress
from costopt.schema.status import JobStatus
from costopt_operator.decide.node_pricing import UNKNOWN_NODE, NodeClass, classify
from costopt_operator.decide.objects import parse_child_job, parse_pod
from costopt_operator.decide.observe import JobSnapshot, LogSight
from costopt_operator.decide.reconcile import Decision, WriteHistory, reconcile
from oracle.cluster import SECOND, Cluster, Fate, PlayedPod
from oracle.exact_bill import Book, Kind, Microseconds, moment
from oracle.random_records import BEGINNINGS, price_book, random_book

Json = dict[str, Any]
HOUR = 3600 * SECOND

NODE_LABELS: list[dict[str, str]] = [
    {},
    {"nvidia.com/gpu.product": "H100"},
    {"nvidia.com/gpu.product": "NVIDIA A100-SXM4-80GB", "karpenter.sh/capacity-type": "spot"},
    {"cloud.google.com/gke-spot": "true"},
    {"eks.amazonaws.com/capacityType": "CAPACITY_BLOCK"},
]
QUANTITIES = [
    "1",
    "500m",
    "1.5",
    "0.001",
    "2k",
    "3",
    "1e1",
    "5E-1",
    "250000u",
    "123456789n",
    ".5",
    "5.",
    "+2",
    "0",
    "1e-10",
]
SIZES = ["1Gi", "1500M", "123456789", "0.5Gi", "128Mi", "1Ti"]


@dataclass(frozen=True)
class Look:
    """What the operator was shown, and what it has written."""

    now: Microseconds
    pods: Mapping[str, Json]
    meters: Mapping[str, Mapping[str, int]]
    """Meters in logs, by uid."""
    nodes: Mapping[str, NodeClass]
    admissions: Mapping[str, str]
    """Since when each Job has been allowed to have pods, by uid."""
    book: Book | None
    written: JobStatus | None
    forgets: bool
    """The operator dies after that: what it has not written is lost."""


@dataclass
class Life:
    """One job, and the operator that looks at it."""

    seed: int
    transcript: list[Look] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)
    """For a reader of a difference."""

    def __post_init__(self) -> None:
        self.random = random = Random(self.seed)
        begin = random.choice(BEGINNINGS)
        self.book: Book | None = random.choice([None, *[random_book(random, "sample", "USD", begin)] * 4])
        self.kind: Kind = random.choice(["Recipe", "Recipe", "Command"])
        self.memory = WriteHistory()
        self.known_nodes: dict[str, NodeClass] = {}
        self.lag = random.choice([0, SECOND, 90 * SECOND])
        """Longest time from an end to its report."""
        self.endings = random.choice([[0], [0, 0, 0, 1], [0, 1, 137, 143, 78], [1]])
        self.cluster = Cluster(random, self._job(), begin + random.randrange(60 * SECOND), self._template(), self._fate)
        self.cluster.grace = random.choice([30, 30, 86_400])
        for number in range(random.randint(1, 3)):
            self.cluster.nodes[f"node-{number}"] = random.choice(NODE_LABELS)
        self.status = "{}"
        self.hidden: set[str] = set()
        """Pods whose labels somebody has taken away, so that the operator is not told of them."""

    def _job(self) -> Json:
        random = self.random
        variants = [{"name": "int8", "steps": [{"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}}]}]
        limits = {"maxFailures": random.choice([0, 3, 100]), "maxDisruptions": 100, "stallTimeoutSeconds": 604800}
        compress = variants if self.kind == "Recipe" and random.random() < 0.5 else []
        plain = plain_job(compress=compress, restarts=limits)
        train = plain["spec"]["train"]
        train["numNodes"] = random.choice([1, 2, 4])
        if self.kind == "Command":
            del train["recipe"]
            train["command"] = ["python", "own.py"]
        queued = random.random() < 0.25
        labels = {QUEUE_NAME_LABEL: "team"} if queued else {}
        plain["metadata"] = {"name": "life", "namespace": "team", "uid": "job", "generation": 1, "labels": labels}
        return plain

    def _template(self) -> Json:
        random = self.random
        resources: Json = {"requests": {"cpu": random.choice(QUANTITIES), "memory": random.choice(SIZES)}}
        if random.random() < 0.5:
            resources["limits"] = {"nvidia.com/gpu": str(random.randint(1, 8)), "memory": "2Ti"}
            resources["requests"] = {**resources["limits"], **resources["requests"]}  # as the API server fills them in
        spec: Json = {"containers": [{"name": "trainer", "resources": resources}]}
        if random.random() < 0.2:
            spec["containers"].append(
                {"name": "injected", "resources": {"requests": {"cpu": random.choice(QUANTITIES)}}}
            )
        if random.random() < 0.2:
            spec["initContainers"] = [
                {"name": "first", "resources": {"requests": {"cpu": random.choice(QUANTITIES), "memory": "64Mi"}}},
                {
                    "name": "beside",
                    "restartPolicy": "Always",
                    "resources": {"requests": {"cpu": random.choice(QUANTITIES)}},
                },
            ][: random.randint(1, 2)]
        if random.random() < 0.2:
            spec["overhead"] = {"cpu": "250m", "memory": "120Mi"}
        if random.random() < 0.2:
            spec["resources"] = {"requests": {"cpu": random.choice(QUANTITIES)}, "limits": {"memory": "3Gi"}}
        return spec

    def _fate(self, stage: str, attempt: int, index: int) -> Fate:
        random = self.random
        return Fate(
            placed_after=random.randrange(random.choice([SECOND, 20 * SECOND, 300 * SECOND])),
            starts_after=random.randrange(random.choice([SECOND, 20 * SECOND, 100 * SECOND])),
            runs_for=random.randrange(SECOND, random.choice([60 * SECOND, HOUR, 30 * HOUR])),
            exit_code=random.choice(self.endings),
            told_after=random.randint(0, self.lag),
            tells_progress=stage == TRAIN_STAGE and self.kind == "Recipe" and random.random() < 0.5,
            startup=random.randrange(1000, 60 * SECOND) // 1000 * 1000,
            pace=random.choice([60, 100, 100, 130]),
            clock_ahead=random.choice([0, 0, 0, HOUR]),
        )

    # The operator.

    def look(self, dies: str = "") -> None:
        """One look; it may die before it writes, or before it acts."""
        cluster, now = self.cluster, self.cluster.now
        seen = {uid: pod for uid, pod in cluster.pods.items() if uid not in self.hidden}
        pods = {uid: pod.data for uid, pod in seen.items()}
        logs = {
            uid: progress
            for uid, pod in seen.items()
            if pod.index == 0 and pod.stage == TRAIN_STAGE and self.kind == "Recipe" and (progress := pod.progress(now))
        }
        for name, labels in cluster.nodes.items():
            if any(data["spec"].get("nodeName") == name for data in pods.values()):
                self.known_nodes[name] = classify(labels)
        wanted = {data["spec"]["nodeName"] for data in pods.values() if "nodeName" in data["spec"]}
        nodes = {name: self.known_nodes.get(name, UNKNOWN_NODE) for name in wanted}
        world = JobSnapshot(
            job=CostOptJob.model_validate_json(json.dumps(cluster.job)),
            status=JobStatus.model_validate_json(self.status),
            generation=cluster.job["metadata"]["generation"],
            child_jobs=tuple(map(parse_child_job, cluster.jobs.values())),
            pods=tuple(map(parse_pod, self.random.sample(list(pods.values()), k=len(pods)))),
            book=self.book and price_book(self.book),
            nodes=nodes,
            logs={uid: LogSight(progress=Progress.model_validate_json(json.dumps(said))) for uid, said in logs.items()},
        )
        todo = reconcile(world, self.memory, moment(now))
        written = None
        if todo.status is not None and dies != "before it writes":
            self.status = json.dumps(todo.status.to_plain())
            written = JobStatus.model_validate_json(self.status)
        admissions = {
            str(job["metadata"]["uid"]): str(job["status"].get("startTime", "")) for job in cluster.jobs.values()
        }
        meters = {uid: said["metered"] for uid, said in logs.items()}
        self.transcript.append(Look(now, pods, meters, nodes, admissions, self.book, written, bool(dies)))
        if dies:
            self.memory, self.known_nodes = WriteHistory(), {}
            return
        wrote = moment(now) if written else self.memory.last_written
        self.memory = WriteHistory(wrote, todo.noticed, todo.remembered)
        self._carry_out(todo, world)

    def _carry_out(self, todo: Decision, world: JobSnapshot) -> None:
        for pod in todo.releases:
            self.cluster.release(pod.uid)
        for pod, grace in todo.delete_pods:
            self.cluster.delete_pod(pod.uid, grace)
        for child in todo.delete_jobs:
            self.cluster.delete_job(child.uid)
        for gang in todo.start:
            self.cluster.start(gang.stage, gang.attempt, world.job.spec.num_replicas(gang.stage))

    def status_written(self) -> JobStatus:
        """The status as it stands."""
        return JobStatus.model_validate_json(self.status)

    # What happens.

    def step(self) -> None:
        """Something happens, or nothing; then time passes, and the operator looks."""
        random, cluster = self.random, self.cluster
        chance = random.random()
        pods = [pod for pod in cluster.pods.values() if "deletionTimestamp" not in pod.data["metadata"]]
        if chance < 0.03:
            self._suspend(not cluster.job["spec"].get("suspend", False))
        elif chance < 0.08 and cluster.job["spec"].get("suspend", False):
            self._suspend(suspend=False)
        elif chance < 0.11 and pods:
            pod = random.choice(pods)
            self._note(f"{pod.uid} is deleted")
            cluster.delete_pod(pod.uid)
        elif chance < 0.14 and pods:
            self._evict(random.choice(pods).uid)
        elif chance < 0.18 and cluster.jobs and QUEUE_NAME_LABEL in cluster.job["metadata"]["labels"]:
            job = random.choice(list(cluster.jobs.values()))
            self._note(f"{job['metadata']['name']} is taken back by its queue")
            cluster.take_back(job)
        elif chance < 0.21:
            self._is_lost(random, pods)
        elif chance < 0.24:
            self._resize(random)
        elif chance < 0.25:
            self._note("its price book is another")
            name, currency = random.choice([("sample", "USD"), ("sample", "USD"), ("other", "EUR")])
            self.book = random.choice([None, *[random_book(random, name, currency, cluster.now)] * 4])
        elif chance < 0.29:
            self._hide(random)
        cluster.passes(random.randrange(1, random.choice([SECOND, 5 * SECOND, 5 * SECOND, 40 * SECOND, 2 * HOUR])))
        if random.random() < 0.9:
            self.look(random.choice(["", "", "", "", "", "before it writes", "before it acts"]))

    def ends(self) -> None:
        """It is suspended, nothing else happens any more, and all that runs is stopped and written down."""
        self.hidden.difference_update(self._may_return())
        self._suspend(suspend=True)
        for _ in range(40):
            self.cluster.passes(10 * SECOND)
            self.look()

    def _note(self, what: str) -> None:
        self.happened.append(f"{moment(self.cluster.now):%d %H:%M:%S.%f} {what}")

    def _is_lost(self, random: Random, pods: list[PlayedPod]) -> None:
        what = random.choice(["node", "force", "vanish"])
        if what == "node" and len(self.cluster.nodes) > 1:
            name = random.choice(sorted(self.cluster.nodes))
            self._note(f"{name} is lost")
            self.cluster.lose_node(name)
            self.cluster.nodes[f"{name}-again"] = random.choice(NODE_LABELS)
        elif what == "force" and pods:
            pod = random.choice(pods)
            self._note(f"{pod.uid} is deleted by force")
            self.cluster.delete_pod(pod.uid, 0)
        elif what == "vanish" and pods:
            pod = random.choice(pods)
            self._note(f"{pod.uid} vanishes")
            self.cluster.vanish(pod.uid)

    def _hide(self, random: Random) -> None:
        """A pod that has been written down loses its labels, or gets them back."""
        for uid in self._may_return():
            if random.random() < 0.5:
                self._note(f"{uid} is seen again")
                self.hidden.remove(uid)
        last = self.transcript[-1] if self.transcript else None
        written = last.pods if last is not None and last.written is not None else {}
        there = [uid for uid in written if uid in self.cluster.pods and "nodeName" in written[uid]["spec"]]
        if there and random.random() < 0.9:
            uid = random.choice(there)
            self._note(f"{uid} is not seen any more")
            self.hidden.add(uid)

    def _may_return(self) -> list[str]:
        """A pod whose batch Job is gone is taken for a stranger when it has been away."""
        jobs = {job["metadata"]["uid"] for job in self.cluster.jobs.values()}
        pods = [self.cluster.pods[uid] for uid in sorted(self.hidden & self.cluster.pods.keys())]
        return [pod.uid for pod in pods if pod.data["metadata"]["ownerReferences"][0]["uid"] in jobs]

    def _resize(self, random: Random) -> None:
        running = [pod for pod in self.cluster.pods.values() if pod.started is not None and not pod.told]
        if running:
            pod = random.choice(running)
            requests = {"cpu": random.choice(QUANTITIES), "memory": random.choice(SIZES)}
            self._note(f"{pod.uid} is resized to {requests}")
            self.cluster.resize(pod, requests)

    def _suspend(self, suspend: bool) -> None:
        self._note("it is suspended" if suspend else "it is resumed")
        self.cluster.job = {**self.cluster.job, "spec": {**self.cluster.job["spec"], "suspend": suspend}}

    def _evict(self, uid: str) -> None:
        self._note(f"{uid} is evicted")
        told = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
        self.cluster.pods[uid].change(lambda data: data["status"]["conditions"].append(told))
        self.cluster.delete_pod(uid)
