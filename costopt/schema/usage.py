"""What replicas held: records of single ones, and sums of records that are no longer kept singly.

A cluster forgets its pods, so the status remembers what they held. A record is made of each pod at its end, with the
prices that applied; once the pod is gone, and its record cannot be asked for again, it may be folded into sums.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from costopt.schema.base import (
    Count,
    Currency,
    DecimalString,
    Money,
    Name,
    ShortText,
    Strict,
    Timestamp,
    decimal,
    list_map_keys,
    plain,
)
from costopt.schema.prices import Date
from costopt.schema.replica import MeteredMilliseconds

Outcome = Literal["Running", "Succeeded", "Failed", "Stalled", "Disrupted", "Suspended", "Stopped"]
"""See `UsageRecord.outcome`."""

CapacityType = Literal["OnDemand", "Spot", "Reserved"]

Cause = Literal["Startup", "Selecting", "Productive", "DataWait", "Checkpoint", "LostProgress", "Recovery", "Other"]
"""What held time was spent on. Recovery is the start-up of an attempt after the first."""

ExactDecimal = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?$", max_length=400)]
"""A sum of products with every digit, without an exponent."""

MAX_RECORDS = 256
"""Records kept singly. About 500 bytes each, in an object that may have 1.5 MB."""
MAX_FOLDED = 2000
"""Sums that a status may hold; fewer are made, see `costopt.accounting.fold`."""
MAX_RESOURCES = 16
"""Resources told apart in one set of quantities; see `costopt.accounting.quantities`."""
MAX_RESIZES = 8
"""Changes of quantity kept in one record."""
MAX_PRICES = 32
"""Prices kept in one record."""

Quantities = Annotated[dict[ShortText, DecimalString], Field(max_length=MAX_RESOURCES)]
"""By resource name, in base units."""

MAX_HELD = 256
"""Groups of pods that hold something."""
MAX_METERS = 256
"""Accounts of replicas."""
MAX_FOLDED_UNTIL = 256
"""Attempts of which it is told up to when they stand in the sums."""
MAX_RUNS = 4096
"""Runs of such pods in one group; a gang has at most as many."""

Coarsened = Literal["Days", "Causes", "Prices", "Products", "Resources", "Currencies", "Stages"]
"""What was put together so that a status stays small. Days: usage without a price is dated to its month or year.
Causes: to Other. Prices: to their mean. Products, Resources, Stages: no longer told apart. Currencies: money in another
currency than the price book's is no longer told."""


Price = Annotated[Money, AfterValidator(lambda amount: plain(decimal(amount)))]
"""An amount without zeros that say nothing, so that "2" and "2.0" are one price, also in a status that has both."""


class PinnedPrice(Strict):
    """The price of one resource, as it was in the price book when the replica's usage was recorded."""

    resource: ShortText
    """Resource name: cpu, memory, nvidia.com/gpu."""
    list_unit_price: Price | None = None
    """Price of one unit. None: the book had none that day, so the usage stays without a price."""
    product: Annotated[str, StringConstraints(max_length=256)] = ""
    """Device model of the price book's row. Empty: a row for any model."""
    effective_from: Date | None = None
    """Day (UTC) since which the price held. None without a price."""
    source: ShortText | None = None
    """The price book's source for the price. None without a price."""


class Resize(Strict):
    """Other quantities from a moment on: a running pod was resized in place."""

    since: Timestamp
    """When that was seen (aware)."""
    resources: Quantities
    """Quantities held from then on, by resource name, in base units; what is not named was given up."""


class UsageRecord(Strict):
    """What one replica held. Written once, when its attempt has ended; made afresh for each bill before that."""

    uid: ShortText
    """The replica's unique id: a record counts once per id."""
    stage: Name
    """"train" or the variant's name."""
    attempt: Count
    """Attempt of the stage."""
    index: Count
    """Completion index within the gang."""
    resources: Quantities
    """Quantities held, by resource name, in base units: vCPU, bytes, devices."""
    resizes: Annotated[list[Resize], Field(max_length=MAX_RESIZES)] = Field(default_factory=list)
    """Changes of those quantities, the earliest first."""
    resources_estimated: bool = False
    """True: a quantity could not be read, so what the job asks for was counted; or there were more resizes, or more
    resources, than are kept."""
    product: ShortText | None = None
    """Device model of the node's GPUs, if known."""
    capacity_type: CapacityType = "OnDemand"
    """Kind of capacity."""
    node: ShortText | None = None
    """Node it ran on. None on one machine, or if it is not known."""
    node_labels: Annotated[dict[ShortText, Annotated[str, StringConstraints(max_length=256)]], Field(max_length=16)] = (
        Field(default_factory=dict)
    )
    """Labels of that node that tell what it costs: instance type, zone, device model, capacity."""
    held_from: Timestamp
    """When it was placed (aware)."""
    held_until: Timestamp
    """When its last process ended, or now while it runs (aware)."""
    end_estimated: bool = False
    """True: nobody saw its end, so `held_until` is when it was last known to live; or clocks disagree about it; or
    `held_from` is when others of its attempt had ended whose records are in the sums, for its own may be among them."""
    outcome: Outcome
    """How it ended. Running: it has not, and is counted up to now. Succeeded: with exit code 0. Otherwise what its
    attempt was counted as, whichever replica was the cause: a failure (Failed, Stalled), a disruption (Disrupted), or
    neither: suspended by the job or its queue (Suspended), or not wanted any more (Stopped)."""
    has_meter: bool = True
    """False: a user's own program, which need not report where its time goes; if it does, `metered` counts."""
    metered: MeteredMilliseconds | None = None
    """Its own account of its time. None: it never reported."""
    currency: Currency | None = None
    """Currency of `prices`. None while they are not pinned."""
    prices: Annotated[list[PinnedPrice], Field(max_length=MAX_PRICES)] | None = None
    """Prices that apply whatever becomes of the price book. There may be several of one resource: the first holds from
    the beginning, each other from 00:00 UTC of its effectiveFrom. None: not pinned, so each bill's book applies."""


class FoldedUsage(Strict):
    """Time held, added up over records that differ in nothing that the bill tells apart."""

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
    day: Date | None = None
    """Day (UTC) on which it was held, and whose price applies, as none was pinned. None: pinned, or the job names no
    price book."""
    currency: Currency | None = None
    """Currency of the pinned price. None: not pinned."""
    price: PinnedPrice | None = None
    """The pinned price. None: not pinned, or pinned when the book had none."""
    quantity_microseconds: ExactDecimal
    """Sum of quantity (in base units, see `UsageRecord.resources`) times microseconds held, exact."""


class HeldPods(Strict):
    """Pods that hold something, or have held it, of which no record has been made yet: alike in what they hold."""

    stage: Name
    """"train" or the variant's name."""
    attempt: Count
    """Attempt of the stage."""
    resources: Quantities
    """Quantities each holds, by resource name, in base units."""
    resizes: Annotated[list[Resize], Field(max_length=MAX_RESIZES)] = Field(default_factory=list)
    """Changes of those quantities, the earliest first."""
    resources_estimated: bool = False
    """As in a record."""
    product: ShortText | None = None
    """Device model of their nodes' GPUs, if known."""
    capacity_type: CapacityType = "OnDemand"
    """Kind of capacity."""
    node_labels: Annotated[dict[ShortText, Annotated[str, StringConstraints(max_length=256)]], Field(max_length=16)] = (
        Field(default_factory=dict)
    )
    """Labels of their nodes that tell what they cost."""
    admitted: Timestamp | None = None
    """Since when their batch Job might have pods when they were first seen. A queue may take it back, and admit it
    again later. None: that was not known."""
    since: Timestamp
    """When the first of them was placed."""
    pods: Annotated[list[Annotated[str, StringConstraints(max_length=131_072)]], Field(max_length=MAX_RUNS)]
    """Pods of the same times, four words a run: their completion indexes ("0-3,7"); the seconds from `since` to their
    placement; those to their end, or "-" while they run ("~" behind either: estimated; "+": they ended well); and of
    each one's uid, in the same order, the first ten hexadecimal digits of its SHA-256."""


class ReplicaMeter(Strict):
    """A replica's own account of its time. Those of its gang that have given none are taken to have spent theirs as the
    first that has: they go in step."""

    stage: Name
    """"train" or the variant's name."""
    attempt: Count
    """Attempt of the stage."""
    admitted: Timestamp | None = None
    """As in `HeldPods`."""
    index: Count
    """Completion index within the gang."""
    mark: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{10}$", max_length=10)] = "0000000000"
    """Of its uid: the first ten hexadecimal digits of its SHA-256. Zeros: an earlier version did not tell, and the
    account is its gang's alone."""
    placed: Timestamp = Field(default_factory=lambda: datetime(1970, 1, 1, tzinfo=UTC))
    """When it was placed."""
    metered: MeteredMilliseconds
    """Its latest account."""


class FoldedUntil(Strict):
    """Up to when an attempt's pods stand in the sums: one of them that is seen again holds nothing before that."""

    stage: Name
    """"train" or the variant's name."""
    attempt: Count
    """Attempt of the stage."""
    until: Timestamp
    """The latest end of its folded records."""


class Usage(Strict):
    """What all ended replicas of the job held, and what is held now."""

    records: Annotated[list[UsageRecord], Field(max_length=MAX_RECORDS)] = Field(
        default_factory=list,
        json_schema_extra=list_map_keys("uid"),
    )
    """Ended replicas, each once."""
    folded: Annotated[list[FoldedUsage], Field(max_length=MAX_FOLDED)] = Field(default_factory=list)
    """Sums of older records, in a fixed order."""
    folded_records: Count = 0
    """Records in those sums."""
    folded_estimated: Count = 0
    """How many of them had an end, or a quantity, that had to be estimated."""
    coarsened: Annotated[list[Coarsened], Field(max_length=16)] = Field(default_factory=list)
    """What was put together in the sums because they had become too many. Hours stay exact. Days: the price of the
    first day of the month, or year, applies. Prices: their mean applies."""
    held: Annotated[list[HeldPods], Field(max_length=MAX_HELD)] = Field(default_factory=list)
    """Pods that stand in no record yet: should one vanish, it is recorded from this."""
    seen: Timestamp | None = None
    """When those of them without an end were last seen. None: there are none."""
    meters: Annotated[list[ReplicaMeter], Field(max_length=MAX_METERS)] = Field(default_factory=list)
    """Accounts of pods that stand in no record yet; and of each gang of which not all is recorded, that of the first
    which has given one."""
    folded_until: Annotated[list[FoldedUntil], Field(max_length=MAX_FOLDED_UNTIL)] = Field(default_factory=list)
    """Of the last attempts of each stage of which records were folded; the first of eight stands for all before it."""

    def to_plain(self) -> dict[str, Any]:
        """As any document, but without what is at its default: there may be hundreds of records."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
