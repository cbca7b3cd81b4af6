"""One replica's usage: what it held, from when to when, and what it made of the time."""

from typing import Annotated, Literal

from pydantic import Field

from costopt.accounting.intervals import Held, held_between
from costopt.schema.base import Count, DecimalString, Name, ShortText, Strict, Timestamp
from costopt.schema.replica import MeteredMilliseconds

Outcome = Literal["Running", "Succeeded", "Failed", "Disrupted", "Suspended"]
"""How the replica ended. Running: it has not, and is counted up to now. Suspended: stopped because we asked it to."""

CapacityType = Literal["OnDemand", "Spot", "Reserved"]


class UsageRecord(Strict):
    """What one replica held. Written once, when it ended; made afresh for each bill while it runs."""

    uid: ShortText
    """The replica's unique id: a record counts once per id."""
    stage: Name
    """"train" or the variant's name."""
    attempt: Count
    """Attempt of the stage."""
    index: Count
    """Completion index within the gang."""
    resources: Annotated[dict[ShortText, DecimalString], Field(max_length=16)]
    """Quantities held, by resource name, in base units: vCPU, bytes, devices."""
    product: ShortText | None = None
    """Device model of the node's GPUs, if known."""
    capacity_type: CapacityType = "OnDemand"
    """Kind of capacity."""
    held_from: Timestamp
    """When it was placed (aware)."""
    held_until: Timestamp
    """When its last process ended, or now while it runs (aware)."""
    end_estimated: bool = False
    """True: nobody saw its end; `held_until` is when it was last known to live."""
    outcome: Outcome
    """How it ended."""
    has_meter: bool = True
    """False: a user's own program, which does not report where its time goes."""
    metered: MeteredMilliseconds | None = None
    """Its own account of its time. None: it never reported."""

    @property
    def held(self) -> Held:
        """The time it held its resources."""
        return held_between(self.held_from, self.held_until)
