"""What a job's bill should be, told from the transcript of its life alone: from what the operator was shown, and when.

Of what the operator has written only two things are taken: when a pod's usage was first recorded, for the prices of
that moment are pinned, and what its attempt was counted as, which is the plan's business and not that of the accounts.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from costopt import names
from oracle.cluster import INDEX, SECOND
from oracle.exact_bill import ExactBill, Holding, Kind, Meter, Microseconds, exact_bill, microseconds
from oracle.lives import Look
from oracle.quantities import Quantities, held

Json = Mapping[str, Any]

TOLD_WITHIN = 5 * SECOND
"""Pods that run are counted up to so long ago, for nodes tell of an end a while after it."""


@dataclass(frozen=True)
class Facts:
    """What is known of one pod."""

    stage: str
    attempt: int
    index: int
    admission: str
    """Since when its Job has been allowed to have pods."""
    since: Microseconds
    quantities: tuple[tuple[Microseconds, Quantities], ...]
    """What it holds, each from a moment on."""
    pod: Json
    seen: Microseconds
    """When it was last seen."""
    placed: Microseconds
    """On its node, also if what it held at first stands in another record."""
    counted: Microseconds = 0
    """Until when a bill that was written has counted it."""
    product: str | None = None
    capacity_type: str = "OnDemand"
    node_known: bool = False
    said: Mapping[str, int] | None = None
    """Its own account of its time, the newest."""
    recorded: Holding | None = None
    recorded_as: str = ""
    before: tuple[tuple[str, Holding], ...] = ()
    """What it held before it vanished, and came back after that was recorded; with the ids of those records."""

    @property
    def records(self) -> tuple[tuple[str, Holding], ...]:
        """All that is recorded of it, by id."""
        return (*self.before, (self.recorded_as, self.recorded)) if self.recorded is not None else self.before

    @property
    def mark(self) -> str:
        """What is left of its uid when it has vanished."""
        return hashlib.sha256(_uid(self.pod).encode()).hexdigest()[:10]


@dataclass
class Watcher:
    """Follows a life look by look."""

    kind: Kind
    facts: dict[str, Facts] = field(default_factory=dict)
    written: dict[str, Facts] = field(default_factory=dict)
    """What was known when a status was last written: all that a new operator knows of what it does not see."""

    admissions: dict[str, str] = field(default_factory=dict)
    """Since when each Job has been allowed to have pods, also of Jobs that are gone."""
    kept: set[str] = field(default_factory=set)
    """Ids of the records in the status that was last written; the others are in its sums."""

    def follow(self, look: Look) -> ExactBill:
        """The bill as it should be at this look."""
        self.admissions.update({uid: since for uid, since in look.admissions.items() if since})
        for uid, pod in look.pods.items():
            if (since := _time(pod, "PodScheduled")) is not None:
                self.facts[uid] = self._learn(self.facts.get(uid), pod, since, look)
        for record in look.written.usage.records if look.written and look.written.usage else []:
            uid = self._uid_of(record.uid)
            facts = self.facts[uid]
            if record.uid not in self.kept:
                assert facts.recorded is None, f"{record.uid} is recorded again"
                holding = replace(
                    self._holding(facts, *self._end(uid, look), record.outcome),
                    book=look.book,
                    pinned=look.book is not None,
                )
                self.facts[uid] = replace(facts, recorded=holding, recorded_as=record.uid)
        bill = exact_bill(list(self._holdings(look)), look.book)
        if look.written is not None:
            self.facts = {
                uid: replace(each, counted=each.recorded.whole[1] if each.recorded else self._until(uid, each, look))
                for uid, each in self.facts.items()
            }
            self.written = dict(self.facts)
            self.kept = {record.uid for record in look.written.usage.records} if look.written.usage else set()
        if look.forgets:
            self.facts = dict(self.written)
        return bill

    def _uid_of(self, recorded_as: str) -> str:
        """Of a pod that has vanished only a mark was left."""
        kind, _, mark = recorded_as.partition("-")
        if kind != "vanished":
            return recorded_as
        marks = {facts.mark: uid for uid, facts in self.facts.items()}
        return marks[mark.partition("-")[0]]

    def _is_back(self, facts: Facts, pod: Json) -> bool:
        """It was recorded when it had vanished, or its record is in the sums; now it is seen, and was not let go of."""
        vanished = facts.recorded is not None and facts.recorded_as != _uid(pod)
        in_sums = facts.recorded is not None and facts.recorded_as not in self.kept
        return (vanished or in_sums) and (bool(pod["metadata"]["finalizers"]) or not _ended(pod))

    def _counted(self, facts: Facts | None, stage: str, attempt: int) -> Microseconds:
        """Up to when a pod that is new, or is back, stands in records already: up to its own record's end, as long as
        that is kept; else up to where the sums count its attempt."""
        if facts is not None and facts.recorded is not None and facts.recorded_as in self.kept:
            return facts.recorded.whole[1]
        others = self.facts.values()
        folded = [
            holding.whole[1]
            for each in others
            if (each.stage, each.attempt) == (stage, attempt)
            for uid, holding in each.records
            if uid not in self.kept
        ]
        return max(folded, default=0)

    def _learn(self, facts: Facts | None, pod: Json, since: Microseconds, look: Look) -> Facts:
        labels = pod["metadata"]["labels"]
        node = look.nodes[pod["spec"]["nodeName"]]
        holds = held(pod)
        if facts is None or self._is_back(facts, pod):
            placed, before = since, facts
            since = max(since, self._counted(before, labels[names.LABEL_STAGE], int(labels[names.LABEL_ATTEMPT])))
            facts = Facts(
                stage=labels[names.LABEL_STAGE],
                attempt=int(labels[names.LABEL_ATTEMPT]),
                index=int(labels[INDEX]),
                admission=self.admissions.get(pod["metadata"]["ownerReferences"][0]["uid"], ""),
                since=since,
                quantities=((since, holds),),
                pod=pod,
                seen=look.now,
                placed=placed,
                counted=since if since > placed else 0,
                before=before.records if before is not None else (),
            )
        if holds != facts.quantities[-1][1] and not _ended(pod):
            facts = replace(facts, quantities=(*facts.quantities, (look.now, holds)))
        if node.labels or not facts.node_known:
            facts = replace(facts, product=node.product, capacity_type=node.capacity_type, node_known=bool(node.labels))
        return replace(
            facts, pod=pod, seen=look.now, said=_message_meter(pod) or look.meters.get(_uid(pod)) or facts.said
        )

    def _holdings(self, look: Look) -> Iterator[Holding]:
        for uid, facts in self.facts.items():
            yield from (holding for _, holding in facts.before)
            if facts.recorded is not None:
                yield facts.recorded
            else:
                yield self._holding(facts, *self._end(uid, look), "Running")

    def _until(self, uid: str, facts: Facts, look: Look) -> Microseconds:
        return max(facts.since, self._end(uid, look)[0])

    def _end(self, uid: str, look: Look) -> tuple[Microseconds, bool]:
        """Until when it has held what it has, as far as is known, and whether that is an estimate.

        Never later than now, and never before what a bill that was written has counted already.
        """
        facts = self.facts[uid]
        last = (look.now if uid in look.pods else facts.seen) // SECOND * SECOND
        if _ended(facts.pod):
            end, estimated = _end(facts.pod)
        elif uid in look.pods:
            end, estimated = (look.now - TOLD_WITHIN) // SECOND * SECOND, False
        else:
            end, estimated = last, True
        known = max(min(end, last), facts.counted)
        return known, estimated or (known != end and _ended(facts.pod))

    def _holding(self, facts: Facts, until: Microseconds, estimated: bool, outcome: str) -> Holding:
        ended_well = "Succeeded" in (facts.pod["status"]["phase"], outcome)
        said = facts.said if facts.said is not None or ended_well else self._said_in_gang(facts)
        until = max(facts.since, until)
        bounds = [since for since, _ in facts.quantities[1:]] + [until]
        spans = tuple(
            ((min(since, until), min(bound, until)), quantities)
            for (since, quantities), bound in zip(facts.quantities, bounds, strict=True)
        )
        return Holding(
            stage=facts.stage,
            attempt=facts.attempt,
            spans=spans,
            product=facts.product,
            capacity_type=facts.capacity_type,
            outcome=outcome,
            kind="Variant" if facts.stage != names.TRAIN_STAGE else self.kind,
            meter=_meter(said) if said is not None else None,
            estimated=estimated,
        )

    def _said_in_gang(self, facts: Facts) -> Mapping[str, int] | None:
        """A gang goes in step: who has said nothing of its own has spent its time as the first who has, of those that
        were there with it. A queue may have let others in before, under the same attempt: theirs was another time. (One
        that ended well is not asked about: it may be recorded while others have still to speak.)"""
        gang = [
            each
            for each in self.facts.values()
            if (each.stage, each.attempt, each.admission) == (facts.stage, facts.attempt, facts.admission)
            and each.said is not None
        ]
        return min(gang, key=lambda each: (each.index, each.placed, each.mark)).said if gang else None


def _meter(said: Mapping[str, int]) -> Meter:
    return Meter(
        startup=said["startup"] * 1000,
        productive=said["productive"] * 1000,
        since_checkpoint=said["sinceCheckpoint"] * 1000,
        data_wait=said["dataWait"] * 1000,
        checkpoint=said["checkpoint"] * 1000,
    )


def _uid(pod: Json) -> str:
    return str(pod["metadata"]["uid"])


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


def _end(pod: Json) -> tuple[Microseconds, bool]:
    """When an ended pod let go of what it held, by what it shows, and whether that is an estimate.

    The end of its last container; else of its trainer; else the last time at which it is known to have lived, on its
    conditions or when it was asked to end.
    """
    metadata, status = pod["metadata"], pod["status"]
    items = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    ends = {item["name"]: item["state"].get("terminated", {}).get("finishedAt") for item in items}
    if ends and all(ends.values()):
        return max(_parsed(end) for end in ends.values() if end), False
    if trainer := ends.get("trainer"):
        return _parsed(trainer), True
    signs = [_parsed(item["lastTransitionTime"]) for item in status["conditions"] if "lastTransitionTime" in item]
    signs += [_parsed(text) for item in items if (text := item["state"].get("running", {}).get("startedAt"))]
    if "deletionTimestamp" in metadata and status["phase"] not in ("Succeeded", "Failed"):
        signs.append(_parsed(metadata["deletionTimestamp"]) - metadata["deletionGracePeriodSeconds"] * SECOND)
    return max(signs), True


def _message_meter(pod: Json) -> Mapping[str, int] | None:
    for item in pod["status"].get("containerStatuses", []):
        message = item["state"].get("terminated", {}).get("message", "")
        if item["name"] == "trainer" and message.startswith("{"):
            progress: Mapping[str, Any] = json.loads(message).get("progress") or {}
            return progress.get("metered")
    return None
