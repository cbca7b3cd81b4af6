"""spec.storage: where checkpoints and artifacts live on a cluster."""

from typing import Literal

from costopt.schema.base import ObjectName, Rule, Strict
from costopt.schema.resources import QUANTITY_SENTENCE, Quantity, cel_quantity, is_quantity, parse_quantity
from costopt.schema.unions import one_of


class ClaimTemplate(Strict):
    """A PersistentVolumeClaim for the job to create."""

    size: Quantity
    """Space asked for, as a quantity: 100Gi."""
    storage_class_name: ObjectName | None = None
    """StorageClass that provides it. None means the cluster's default."""
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = "ReadWriteMany"
    """ReadWriteMany: pods on several nodes. ReadWriteOnce: only where all pods of the job run on one node."""
    keep_after_deletion: bool = True
    """True keeps the claim, with checkpoints and artifacts, when the job is deleted; false deletes it too."""

    rules = (
        Rule(
            cel=cel_quantity("self.size"),
            message=QUANTITY_SENTENCE,
            holds=lambda data: is_quantity(data["size"]),
        ),
        Rule(
            cel="!isQuantity(string(self.size)) || quantity(string(self.size)).compareTo(quantity('0')) != 0",
            message="size must be more than 0",
            holds=lambda data: parse_quantity(data["size"]) != 0,
        ),
    )


@one_of(claim_name="a claim that is there", create="one to be made")
class Storage(Strict):
    """Where checkpoints and artifacts live on a cluster: exactly one of these."""

    claim_name: ObjectName | None = None
    """A PersistentVolumeClaim that is there already, mounted into every pod of the job; ReadWriteMany if its pods run
    on more than one node."""
    create: ClaimTemplate | None = None
    """A claim to create, named after the job with `-storage` behind it."""
