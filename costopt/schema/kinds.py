"""The kinds of resource that are ours, one row each.

Reading documents, the CRDs, the reference, the paths at an API server and the operator's watches all come from this
table. Rights are written by hand in the chart (templates/rbac); its tests compare them with this table.
"""

import typing
from dataclasses import dataclass
from urllib.parse import quote

from costopt.schema.base import API_GROUP, API_VERSION, Strict
from costopt.schema.job import CostOptJob
from costopt.schema.prices import PriceBook
from costopt.schema.status import JobStatus

VERSION = API_VERSION.removeprefix(API_GROUP + "/")
GROUP_PATH = f"/apis/{API_VERSION}"


@dataclass(frozen=True)
class Column:
    """A column that `kubectl get` prints."""

    name: str
    type: str
    """Of OpenAPI: string, integer, date."""
    path: str
    """JSONPath of its value in the object."""
    description: str = ""


@dataclass(frozen=True)
class Status:
    """What the operator writes on objects of a kind."""

    model: type[Strict]
    description: str


@dataclass(frozen=True)
class Kind:
    """A kind of resource of the group costopt.dev."""

    model: type[Strict]
    """A whole document; its field `kind` is a Literal of the kind's name."""
    noun: str
    """What a sentence calls one of them."""
    plural: str
    """Its name in paths and rights."""
    short_name: str
    """What kubectl takes for it."""
    namespaced: bool
    """Whether its objects belong to a namespace, or to the whole cluster."""
    columns: tuple[Column, ...]
    status: Status | None = None
    """None: it has no status of its own."""

    @property
    def name(self) -> str:
        """As documents write it, such as CostOptJob."""
        (name,) = typing.get_args(self.model.model_fields["kind"].annotation)
        return str(name)

    def path(self, *, namespace: str | None = None, name: str | None = None) -> str:
        """Path at an API server: of one object, else of all of a namespace, else of all.

        Raises ValueError for a path that no API server has.
        """
        if namespace is not None and not self.namespaced:
            raise ValueError(f"a {self.noun} has no namespace")
        if namespace is None and name is not None and self.namespaced:
            raise ValueError(f"a {self.noun} has a namespace")
        where = [] if namespace is None else ["namespaces", namespace]
        parts = [*where, self.plural, *([] if name is None else [name])]
        return "/".join((GROUP_PATH, *(quote(part, safe="") for part in parts)))


COST_OPT_JOB = Kind(
    model=CostOptJob,
    noun="job",
    plural="costoptjobs",
    short_name="coj",
    namespaced=True,
    columns=(
        Column(
            "State",
            "string",
            '.status.conditions[?(@.type=="Succeeded")].reason',
            "Training, Compressing, Completed, ...",
        ),
        Column("Step", "integer", ".status.progress.step", "Finished optimizer steps"),
        Column("Of", "integer", ".status.progress.totalSteps", "Steps in all"),
        Column("Loss", "string", ".status.progress.validationLoss", "Latest loss on the held-out split"),
        Column("Cost", "string", ".status.bill.pricedCost", "Money so far, without unpriced resources"),
        Column("Currency", "string", ".status.bill.currency", "Currency of the cost"),
        Column(
            "Attempt",
            "integer",
            ".status.stages[0].attempt",
            "Current attempt of training, or of the first variant of a model that is given",
        ),
        Column("Age", "date", ".metadata.creationTimestamp"),
    ),
    status=Status(JobStatus, "Written by costopt: where the job stands and what it has cost."),
)
PRICE_BOOK = Kind(
    model=PriceBook,
    noun="price book",
    plural="pricebooks",
    short_name="pb",
    namespaced=False,
    columns=(
        Column("Currency", "string", ".spec.currency", "Currency of all prices"),
        Column("Age", "date", ".metadata.creationTimestamp"),
    ),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in (COST_OPT_JOB, PRICE_BOOK)}
"""By name, in the order of the reference."""
