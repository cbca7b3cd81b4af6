"""What is submitted: our job, or, to see what the control plane can bear without us, the plain objects it comes to.

Both mean four pods that meet through a Service, then one more pod. kwok runs each pod for a second.
"""

import json
from typing import Any

from builders_cluster import Play, play
from builders_documents import plain_job, plain_price_book
from costopt.render.manifests import manifests
from costopt.schema.job import CostOptJob

Json = dict[str, Any]

GANG = 4
"""Pods that train."""
PODS = GANG + 1
"""Pods of a job, its variant's included."""
NAMESPACE = "load"

_MEASURED = {
    "sizeBytes": 100,
    "parameters": 10,
    "nonzeroPermille": 1000,
    "latencyMicroseconds": 10,
    "validationLoss": "1.5",
    "compiled": False,
}
_VARIANT = {
    "name": "int8",
    "measured": _MEASURED,
    "baseline": _MEASURED,
    "sizeRatio": "4",
    "speedup": "1.2",
    "validationLossIncrease": "0.01",
    "artifact": "artifacts/int8",
    "reloaded": True,
}
_PROGRESS = {"step": 40, "totalSteps": 40, "metered": {"startup": 200, "productive": 500}}


def job(name: str) -> Json:
    """A job of four training pods and one variant, whose pods report as the trainer's do."""
    directions = play(
        Play(stage="train", message=json.dumps({"exitCode": 0, "progress": _PROGRESS})),
        Play(stage="int8", message=json.dumps({"exitCode": 0, "variant": _VARIANT})),
    )
    document = plain_job(pods={"annotations": directions})
    document["metadata"] = {"name": name, "namespace": NAMESPACE}
    spec = document["spec"]
    spec["compress"] = spec["compress"][:1]
    spec["train"]["numNodes"] = GANG
    spec["train"]["recipe"]["batch"]["globalBatchSize"] = 2 * GANG
    return document


def price_book() -> Json:
    """Prices of all that these jobs use, on spot machines too: every fourth node is one."""
    document = plain_price_book()
    rows = document["spec"]["prices"]
    document["spec"]["prices"] = [*rows, *({**row, "capacityType": "Spot"} for row in rows)]
    return document


def plain_objects(name: str) -> list[Json]:
    """The children of such a job as anyone could apply them: nobody owns them, and no pod has a finalizer of ours."""
    given = job(name)
    model = CostOptJob.model_validate({**given, "metadata": {**given["metadata"], "uid": name, "generation": 1}})
    drawn: list[Json] = []
    for stage in ("train", "int8"):
        drawn += manifests(model, stage, 0, execution=1, train_attempt=0, default_image="trainer:1")
    for each in drawn:
        each["metadata"].pop("ownerReferences", None)
        if each["kind"] == "Job":
            each["spec"]["template"]["metadata"].pop("finalizers", None)
    unique = {(each["kind"], each["metadata"]["name"]): each for each in drawn}
    return list(unique.values())
