"""Which job an object belongs to. Pure.

Names do not decide it: a name can be taken. Nor do labels: anybody may write them. An object belongs to a job if its
controller reference has the job's uid and it has our managed-by label. Nothing else is ever changed or deleted.
"""

from dataclasses import dataclass
from typing import Any, Literal

from costopt.names import LABEL_JOB, MANAGED_BY
from costopt.render.labels import label_value

Json = dict[str, Any]

Standing = Literal["Ours", "Going", "Earlier", "Foreign"]
"""Going: it is being deleted, whoever owns it. Earlier: its job had the same name and is gone, so the garbage
collector deletes it. Foreign: anything else, also another job's; it stays."""

JOB_KIND = "CostOptJob"


@dataclass(frozen=True, slots=True)
class Controller:
    """The one owner that an object's controller reference names."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    """Empty: the object has no controller."""


def controller_of(metadata: Json) -> Controller:
    """The controller that the object's metadata names. Anything that is not a reference is skipped."""
    for reference in metadata.get("ownerReferences") or ():
        if reference.get("controller") is True:
            return Controller(*(str(reference.get(key) or "") for key in ("kind", "name", "uid")))
    return Controller()


def is_marked(metadata: Json) -> bool:
    """The object has our managed-by label."""
    return MANAGED_BY.items() <= (metadata.get("labels") or {}).items()


def belongs_to(metadata: Json, job_uid: str) -> bool:
    """The object belongs to the job of this uid."""
    return is_marked(metadata) and controller_of(metadata).uid == job_uid


def standing(found: Json, drawn: Json, *, job_uid: str) -> Standing:
    """Who owns the object `found`, which has the name and kind of the rendered child `drawn`.

    A claim that outlives its job is rendered without an owner, and the next job of that name finds it again. It is
    Ours, used but never changed, if it has no owner and was created for a job of the same name.
    """
    metadata, wanted = found["metadata"], drawn["metadata"]
    owner = controller_of(metadata)
    if "deletionTimestamp" in metadata:
        return "Going"
    if belongs_to(metadata, job_uid):
        return "Ours"
    if not is_marked(metadata):
        return "Foreign"
    job = wanted["labels"][LABEL_JOB]
    if owner.kind == JOB_KIND:
        return "Earlier" if label_value(owner.name) == job else "Foreign"
    if not wanted.get("ownerReferences") and not owner.uid:
        return "Ours" if (metadata.get("labels") or {}).get(LABEL_JOB) == job else "Foreign"
    return "Foreign"
