"""What is submitted: our job, or, to see what the control plane can bear without us, the plain objects it comes to.

Both mean four pods that meet through a Service, and one more pod; with the operator it comes after the others.
"""

from typing import Any

from builders.cluster import Play, play
from builders.documents import plain_job, plain_price_book
from builders.lives import PROGRESS, REPORT
from costopt.render.manifests import manifests
from costopt.schema.job import CostOptJob

Json = dict[str, Any]

GANG = 4
"""Pods that train."""
PODS = GANG + 1
"""Pods of a job, its variant's included."""
NAMESPACES = tuple(f"team-{number}" for number in range(20))
"""Where the jobs are. In one namespace the controllers' own work would grow with the square of the pods."""

RUN_SECONDS = 5
"""How long each pod runs: longer than the operator waits for signs of life to be written together, as any real one."""


def job(name: str) -> Json:
    """A job of four training pods and one variant, whose pods report as the trainer's do; its name ends in a number."""
    directions = play(
        Play(run_seconds=RUN_SECONDS),
        Play(stage="train", message={"exitCode": 0, "progress": PROGRESS}),
        Play(stage="int8", message={"exitCode": 0, "variant": REPORT}),
    )
    document = plain_job(pods={"annotations": directions})
    number = int(name.rpartition("-")[2])
    document["metadata"] = {"name": name, "namespace": NAMESPACES[number % len(NAMESPACES)]}
    spec = document["spec"]
    spec["compress"] = spec["compress"][:1]
    spec["train"]["numNodes"] = GANG
    spec["train"]["recipe"]["batch"]["globalBatchSize"] = 2 * GANG
    return document


def namespaces() -> list[Json]:
    """The teams' namespaces."""
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in NAMESPACES]


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
