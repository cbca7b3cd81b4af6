"""What a job's status carries: conditions, stages, progress, hours and money, variants, the first failure."""

from typing import Annotated, Any, Literal

from pydantic import Field

from costopt.schema.base import (
    DESCRIBED_ELSEWHERE,
    WRITTEN_WHOLE,
    Count,
    Currency,
    Figure,
    LongText,
    Name,
    ShortText,
    Strict,
    Timestamp,
    list_map_keys,
)
from costopt.schema.early_stopping import StoppingMetric
from costopt.schema.prices import PricingUnit
from costopt.schema.replica import FailureReason, Progress, RestartCause
from costopt.schema.usage import CapacityType, Cause, Coarsened, Usage
from costopt.schema.variant_report import VariantStatus

ConditionStatus = Literal["True", "False", "Unknown"]

ConditionType = Literal["Succeeded", "Suspended", "Stalled", "BudgetExceeded", "Priced"]

StageState = Literal["Waiting", "Starting", "Running", "Stopping", "Succeeded", "Failed"]


class Condition(Strict):
    """One observation, as in the Kubernetes API conventions."""

    type: ConditionType
    """What is observed. Succeeded is Unknown while the job is active."""
    status: ConditionStatus
    """True, False, or Unknown."""
    reason: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$", max_length=64)]
    """Why, in one CamelCase word."""
    message: LongText
    """Why, in one sentence."""
    last_transition_time: Timestamp
    """When `status` last changed."""
    observed_generation: Count | None = None
    """Generation of the spec this was observed for."""


class Failure(Strict):
    """The first failure of an attempt, not its echo on other ranks."""

    stage: Name
    """Stage that failed."""
    attempt: Count
    """Attempt that failed."""
    reason: FailureReason
    """Why."""
    message: LongText
    """Why, in words."""
    rank: int | None = None
    """First failing rank."""
    replica_index: int | None = None
    """Its replica (completion index)."""
    exit_code: int | None = None
    """Its exit code; negative: the signal that killed it."""
    log_tail: list[LongText] = Field(default_factory=list, max_length=40)
    """Its last log lines."""


class StageStatus(Strict):
    """Where one stage (training, or one variant) stands."""

    name: Name
    """"train" or the variant's name."""
    state: StageState
    """Waiting: not yet due. Starting: the attempt's replicas are to be created. Running: they have been seen.
    Stopping: they are to end before the stage goes on. Succeeded and Failed are final."""
    attempt: Count = 0
    """Current attempt; the first is 0."""
    failures: Count = 0
    """Attempts that failed for reasons of their own."""
    failures_by_reason: dict[ShortText, Count] = Field(default_factory=dict, max_length=32)
    """The same attempts by the reason of their failure; some reasons are worth one more attempt only (see
    maxFailures)."""
    disruptions: Count = 0
    """Attempts lost to the platform."""
    in_place_restarts: Count = 0
    """How often ranks were started anew in place, in all attempts; these are no failures (see inPlace)."""
    in_place_restarts_before: Count = 0
    """Of those, how many in earlier attempts."""
    restarted_for: RestartCause | None = None
    """Why the last time in the current attempt. None: not in this attempt."""
    start_time: Timestamp | None = None
    """When the first attempt was decided."""
    completion_time: Timestamp | None = None
    """When the stage became Succeeded or Failed."""
    attempt_start_time: Timestamp | None = None
    """When the current attempt was decided, or is to start after a pause (see backoffSeconds)."""
    losses_in_a_row: Count = 0
    """Attempts lost one after the other, each within ten minutes of its start."""
    phase: ShortText | None = None
    """What its first replica is at, or waits for, while no step ends, such as "tokenizing 40 %"; of a variant, too,
    which step it takes; or when the next attempt starts. None while training takes steps, and when nothing is to
    run."""
    failure: Failure | None = None
    """Why the current attempt is broken, while it is stopped and when the stage has Failed."""


class BillLine(Strict):
    """Hours of one resource in one stage for one cause, and their price."""

    stage: Name
    """"train" or the variant's name."""
    resource: ShortText
    """Resource name: cpu, memory, nvidia.com/gpu."""
    cause: Cause
    """What the time was spent on."""
    product: ShortText | None = None
    """Device model of the node's GPUs, if known."""
    capacity_type: CapacityType = "OnDemand"
    """Kind of capacity."""
    consumed_quantity: Figure
    """Resource-hours, exact to the nine decimals shown."""
    consumed_unit: PricingUnit
    """Unit of consumedQuantity."""
    list_unit_price: Figure | None = None
    """Price of one unit. None: the price book has none."""
    list_cost: Figure | None = None
    """consumedQuantity times listUnitPrice, exact. None: unknown, not zero."""
    price_source: ShortText | None = None
    """The price book's source for the unit price."""
    price_effective_from: ShortText | None = None
    """Day (00:00 UTC) since which the unit price holds."""


class Total(Strict):
    """A sum of bill lines."""

    key: ShortText
    """What is summed: a stage, a resource or a cause."""
    list_cost: Figure | None = None
    """Sum of the priced lines. None: none of them has a price."""
    unpriced_lines: Count = 0
    """Lines left out of the sum because they have no price."""


class Bill(Strict):
    """Resource-hours and money, at list prices: an estimate, not an invoice."""

    currency: Currency | None = None
    """Currency of all money here. None: no price book."""
    price_book: ShortText | None = None
    """Name of the price book. None: there is none, or it is gone; what was priced before keeps its prices."""
    lines: Annotated[list[BillLine], Field(max_length=2000)] = Field(default_factory=list)
    """Lines in order of stage, resource, cause."""
    by_stage: Annotated[list[Total], Field(max_length=100)] = Field(default_factory=list)
    """Sums by stage."""
    by_resource: Annotated[list[Total], Field(max_length=100)] = Field(default_factory=list)
    """Sums by resource."""
    by_cause: Annotated[list[Total], Field(max_length=100)] = Field(default_factory=list)
    """Sums by cause."""
    list_cost: Figure | None = None
    """Sum of all lines. None when any line has no price: the total is unknown."""
    priced_cost: Figure | None = None
    """Sum of the lines that have a price. None: no price book."""
    unpriced_resources: Annotated[list[ShortText], Field(max_length=64)] = Field(default_factory=list)
    """Resources without a price."""
    estimated_records: Count = 0
    """Usage records whose end, or a quantity in them, had to be estimated."""
    coarsened: Annotated[list[Coarsened], Field(max_length=16)] = Field(default_factory=list)
    """What was put together so that the status stays small (see usage); hours and totals still are complete."""

    def to_plain(self) -> dict[str, Any]:
        """As any document, but with an explicit null for what is unknown."""
        return self.model_dump(mode="json", by_alias=True)


class SavedHours(Strict):
    """Hours of one resource that were not needed."""

    resource: ShortText
    """Resource name: cpu, memory, nvidia.com/gpu."""
    quantity: Figure
    """Resource-hours, with nine decimals."""
    unit: PricingUnit
    """Unit of quantity."""
    list_cost: Figure | None = None
    """Their cost at the prices of the bill. None: unknown, not zero."""


class EarlyStopped(Strict):
    """A training that ended before its last step, because its evaluations no longer improved, and what that saved: an
    estimate, of the steps left at the pace and the prices of those that were taken."""

    metric: StoppingMetric
    """Figure that no longer improved: nats for ValidationLoss, else per mille."""
    best: Figure
    """Best one."""
    best_step: Count
    """Step of that."""
    model_step: Count | None = None
    """Step of which the trained model is. None: not told."""
    stopped_at_step: Count
    """Step at which training ended."""
    total_steps: Count
    """Steps that were planned."""
    steps_saved: Count
    """Steps that were not taken."""
    hours_saved: Annotated[list[SavedHours], Field(max_length=64)] = Field(default_factory=list)
    """Resource-hours that they would have taken. Empty: no hours of steps are known."""
    list_cost_saved: Figure | None = None
    """Their cost. None: unknown, for a resource has no price, or no hours are known."""
    currency: Currency | None = None
    """Currency of that cost."""

    def to_plain(self) -> dict[str, Any]:
        """As any document, but with an explicit null for what is unknown."""
        return self.model_dump(mode="json", by_alias=True)


class EarlierJob(Strict):
    """A job of the same name that was deleted before this one was created."""

    known: bool = True
    """False: the operator did not see its end, because it was started since, so its cost is not known here."""
    uid: ShortText | None = None
    """Its unique id, if known."""
    priced_cost: Figure | None = None
    """What it had cost when its status was last written, as far as that had a price."""
    currency: Currency | None = None
    """Currency of that cost."""


class BatchJob(Strict):
    """A batch Job of an attempt."""

    uid: ShortText
    """Its uid."""
    stage: Name
    """"train" or the variant's name."""
    attempt: Count
    """Attempt of the stage."""


MAX_BATCH_JOBS = 64


class JobStatus(Strict):
    """Where the job stands and what it has cost."""

    observed_generation: Count | None = None
    """Generation of the spec this status is about."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        json_schema_extra=list_map_keys("type"),
    )
    """Observations: Succeeded, Suspended, Stalled, BudgetExceeded, Priced."""
    start_time: Timestamp | None = None
    """When the job was first acted on."""
    completion_time: Timestamp | None = None
    """When the job became final."""
    execution: Count = 0
    """How often the job was set going: 1 at first, one more for each resume."""
    active_since: Timestamp | None = None
    """When the current execution began. None while suspended or finished."""
    active_milliseconds_before: Count = 0
    """Active time of the executions before, in milliseconds."""
    stages: Annotated[list[StageStatus], Field(max_length=32)] = Field(
        default_factory=list,
        json_schema_extra=list_map_keys("name"),
    )
    """Training first, then the variants in order."""
    progress: Progress | None = Field(default=None, json_schema_extra=WRITTEN_WHOLE)
    """How far training is."""
    continues_from_step: Count | None = None
    """Step of the checkpoint from which the job's first training went on, as it says itself: of an earlier job whose
    storage was kept. Bill and budget begin at 0 all the same. None: it began at the beginning, or has not said."""
    earlier_job: EarlierJob | None = Field(default=None, json_schema_extra=WRITTEN_WHOLE)
    """The job whose checkpoint that is. None: training began at the beginning, or has not said."""
    early_stopped: EarlyStopped | None = Field(default=None, json_schema_extra=WRITTEN_WHOLE)
    """Set once training has ended before its last step, because it no longer improved. None: it has not."""
    bill: Bill | None = Field(default=None, json_schema_extra=WRITTEN_WHOLE)
    """Resource-hours and money so far."""
    usage: Usage | None = Field(default=None, json_schema_extra={**WRITTEN_WHOLE, **DESCRIBED_ELSEWHERE})
    """What ended replicas held, of which the bill is made; on one machine in the ledger's file: see docs/reference.md.
    """
    batch_jobs: Annotated[list[BatchJob], Field(max_length=MAX_BATCH_JOBS)] | None = Field(default=None)
    """Batch Jobs that run, or whose pods are not all recorded: by their uids pods are known to be the job's, also when
    their batch Job is gone. None on one machine."""
    variants: Annotated[list[VariantStatus], Field(max_length=16)] = Field(
        default_factory=list,
        json_schema_extra=list_map_keys("name"),
    )
    """Finished variants."""
    failure: Failure | None = Field(default=None, json_schema_extra=WRITTEN_WHOLE)
    """The latest failure of any stage. Kept after a successful restart, so that it can be looked into."""

    def to_plain(self) -> dict[str, Any]:
        """As any document; what is unknown in the bill is an explicit null, and usage is as short as it can be."""
        parts = {"bill": self.bill, "usage": self.usage, "earlyStopped": self.early_stopped}
        return {**super().to_plain(), **{name: part.to_plain() for name, part in parts.items() if part is not None}}

    def condition(self, type: ConditionType) -> Condition | None:
        """The condition of that type, if it has been observed."""
        return next((condition for condition in self.conditions if condition.type == type), None)

    @property
    def state(self) -> str:
        """In a word or two, for people."""
        succeeded, suspended = self.condition("Succeeded"), self.condition("Suspended")
        if succeeded is not None and succeeded.status != "Unknown":
            return "Succeeded" if succeeded.status == "True" else f"Failed ({succeeded.reason})"
        if suspended is not None and suspended.status == "True":
            return f"Suspended ({suspended.reason})"
        return "Active" if self.start_time else "New"

    def stage(self, name: str) -> StageStatus | None:
        """The stage of that name, if it has been decided on."""
        return next((stage for stage in self.stages if stage.name == name), None)
