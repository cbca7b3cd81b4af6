"""What a job's bill should be, told from the transcript of its life alone: from what the operator was shown, and when.

Of what the operator has written only two things are taken: when a pod's usage was first recorded, for the prices of
that moment are pinned, and what its attempt was counted as, which is the plan's business and not that of the accounts.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from costopt import names
from oracle.cluster import INDEX, SECOND
from oracle.exact_bill import ExactBill, Holding, Meter, Microseconds, exact_bill, microseconds
from oracle.lives import Look
from oracle.quantities import Quantities, held

Json = Mapping[str, Any]


@dataclass
class Facts:
    """What is known of one pod."""

    stage: str
    attempt: int
    index: int
    admission: str
    """Since when its Job has been allowed to have pods."""
    since: Microseconds
    quantities: Quantities
    pod: Json
    product: str | None = None
    capacity_type: str = "OnDemand"
    said: Mapping[str, int] | None = None
    """Its own account of its time, the newest."""
    recorded: Holding | None = None


@dataclass
class Watcher:
    """Follows a life look by look."""

    kind: str
    facts: dict[str, Facts] = field(default_factory=dict)

    def follow(self, look: Look) -> ExactBill:
        """The bill as it should be at this look."""
        for uid, pod in look.pods.items():
            if (since := _time(pod, "PodScheduled")) is not None:
                self._learn(uid, pod, since, look)
        for record in look.written.usage.records if look.written and look.written.usage else []:
            facts = self.facts[record.uid]
            if facts.recorded is None:
                until, estimated = _end(facts.pod, look.now)
                facts.recorded = replace(
                    self._holding(facts, until, record.outcome),
                    estimated=estimated,
                    book=look.book,
                    pinned=look.book is not None,
                )
        return exact_bill(list(self._holdings(look)), look.book)

    def _learn(self, uid: str, pod: Json, since: Microseconds, look: Look) -> None:
        labels = pod["metadata"]["labels"]
        facts = self.facts.setdefault(
            uid,
            Facts(
                stage=labels[names.LABEL_STAGE],
                attempt=int(labels[names.LABEL_ATTEMPT]),
                index=int(labels[INDEX]),
                admission=look.admissions.get(pod["metadata"]["ownerReferences"][0]["uid"], ""),
                since=since,
                quantities=held(pod["spec"]),
                pod=pod,
            ),
        )
        facts.pod = pod
        node = look.nodes[pod["spec"]["nodeName"]]
        facts.product, facts.capacity_type = node.product, node.capacity_type
        facts.said = _message_meter(pod) or look.meters.get(uid) or facts.said

    def _holdings(self, look: Look) -> Iterator[Holding]:
        for uid, facts in self.facts.items():
            if facts.recorded is not None:
                yield facts.recorded
            elif uid in look.pods:
                until = _end(facts.pod, look.now)[0] if _ended(facts.pod) else look.now // SECOND * SECOND
                yield self._holding(facts, until, "Running")

    def _holding(self, facts: Facts, until: Microseconds, outcome: str) -> Holding:
        said = facts.said if facts.said is not None else self._said_in_gang(facts)
        return Holding(
            stage=facts.stage,
            attempt=facts.attempt,
            spans=(((facts.since, max(facts.since, until)), facts.quantities),),
            product=facts.product,
            capacity_type=facts.capacity_type,
            outcome=outcome,
            kind="Variant" if facts.stage != names.TRAIN_STAGE else self.kind,  # type: ignore[arg-type]
            meter=Meter(
                startup=said["startup"] * 1000,
                productive=said["productive"] * 1000,
                since_checkpoint=said["sinceCheckpoint"] * 1000,
                data_wait=said["dataWait"] * 1000,
                checkpoint=said["checkpoint"] * 1000,
            )
            if said is not None
            else None,
        )

    def _said_in_gang(self, facts: Facts) -> Mapping[str, int] | None:
        """A gang goes in step: who has said nothing of its own has spent its time as the first replica that was there
        with it. A queue may have let others in before, under the same attempt: theirs was another time."""
        for each in self.facts.values():
            same = (each.stage, each.attempt, each.index) == (facts.stage, facts.attempt, 0)
            if same and each.admission == facts.admission and each.said is not None:
                return each.said
        return None


def _time(pod: Json, kind: str) -> Microseconds | None:
    for item in pod["status"]["conditions"]:
        if (item["type"], item["status"]) == (kind, "True"):
            return _parsed(item["lastTransitionTime"])
    return None


def _parsed(text: str) -> Microseconds:
    return microseconds(datetime.fromisoformat(text))


def _ended(pod: Json) -> bool:
    metadata = pod["metadata"]
    return pod["status"]["phase"] in ("Succeeded", "Failed") or metadata.get("deletionGracePeriodSeconds") == 0


def _end(pod: Json, now: Microseconds) -> tuple[Microseconds, bool]:
    """When an ended pod let go of what it held, and whether that is an estimate."""
    items = [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]
    ends = [item["state"].get("terminated", {}).get("finishedAt") for item in items]
    if ends and all(ends):
        return max(map(_parsed, ends)), False
    raise NotImplementedError(pod)


def _message_meter(pod: Json) -> Mapping[str, int] | None:
    for item in pod["status"].get("containerStatuses", []):
        message = item["state"].get("terminated", {}).get("message", "")
        if item["name"] == "trainer" and message.startswith("{"):
            progress: Mapping[str, Any] = json.loads(message).get("progress") or {}
            return progress.get("metered")
    return None
