"""Which job an object belongs to. Pure.

A name does not say it, for names can be taken; nor does a label, for anybody may write one. An object is a job's if its
controller reference holds the job's uid and it has our managed-by label. Nothing else is ever changed or deleted.
"""

from dataclasses import dataclass
from typing import Any, Literal

from costopt.names import LABEL_JOB, MANAGED_BY
from costopt.render.labels import label_value

Json = dict[str, Any]

Standing = Literal["Ours", "Going", "Earlier", "Foreign"]
"""Going: it is being deleted, whoever's it is. Earlier: of a job of the same name that is gone, so the garbage
collector deletes it. Foreign: anything else, another job's too; it will not go by itself."""

JOB_KIND = "CostOptJob"


@dataclass(frozen=True, slots=True)
class Controller:
    """The one owner that an object's controller reference names."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    """Empty: the object has no controller."""


def controller_of(metadata: Json) -> Controller:
    """The controller that the object's metadata names. What is no reference at all is passed over."""
    for reference in metadata.get("ownerReferences") or ():
        if reference.get("controller") is True:
            return Controller(*(str(reference.get(key) or "") for key in ("kind", "name", "uid")))
    return Controller()


def is_marked(metadata: Json) -> bool:
    """The object has the label of everything that is made here."""
    return MANAGED_BY.items() <= (metadata.get("labels") or {}).items()


def belongs_to(metadata: Json, job_uid: str) -> bool:
    """The object is of the job of this uid."""
    return is_marked(metadata) and controller_of(metadata).uid == job_uid


def standing(found: Json, drawn: Json, *, job_uid: str) -> Standing:
    """Whose the object `found` is, of the name and kind of the child `drawn`.

    A claim that outlives its job is drawn without an owner, and is found again by the next job of that name: it counts
    as that job's, to be used and never changed, if it has no owner and was made for a job of the same name.
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
