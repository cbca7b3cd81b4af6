"""PriceBook: what one hour of each resource costs, since when, and who says so."""

import re
from collections import defaultdict
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from costopt.schema.base import (
    Currency,
    Money,
    Rule,
    ShortText,
    Strict,
    immutable,
    list_map_keys,
)
from costopt.schema.job import Metadata
from costopt.schema.resources import GPU_RESOURCE, ResourceName

DATE_PATTERN = r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"
Date = Annotated[str, StringConstraints(pattern=DATE_PATTERN, max_length=10)]

PricingUnit = Literal["vCPU-Hours", "GiB-Hours", "GPU-Hours", "Unit-Hours"]

UNIT_OF_RESOURCE: dict[str, PricingUnit] = {
    "cpu": "vCPU-Hours",
    "memory": "GiB-Hours",
    "ephemeral-storage": "GiB-Hours",
    GPU_RESOURCE: "GPU-Hours",
}


def pricing_unit(resource: str) -> PricingUnit:
    """The unit in which hours of `resource` are counted and priced."""
    return UNIT_OF_RESOURCE.get(resource, "Unit-Hours")


class Price(Strict):
    """One unit price."""

    resource: ResourceName
    """Resource name as in a pod's requests: cpu, memory, nvidia.com/gpu."""
    unit: PricingUnit
    """What the price is for: cpu in vCPU-Hours, memory and ephemeral-storage in GiB-Hours, nvidia.com/gpu in
    GPU-Hours, anything else in Unit-Hours. Required, so that a price per month is not read as one per hour."""
    list_unit_price: Money
    """Price of one unit in the book's currency."""
    product: Annotated[str, StringConstraints(max_length=256)] = ""
    """Device model the price holds for, as in the node label nvidia.com/gpu.product. Empty means any."""
    capacity_type: Literal["OnDemand", "Spot", "Reserved"] = "OnDemand"
    """Kind of capacity the price holds for."""
    effective_from: Date
    """First day (from 00:00 UTC) on which the price holds, until a later row takes over. What is held over that moment
    is billed at the old price before it, and at the new one after it."""
    source: ShortText
    """Where the figure comes from, so that a reader of the bill can check it."""

    rules = (
        Rule(
            cel="self.unit == {'cpu': 'vCPU-Hours', 'memory': 'GiB-Hours', 'ephemeral-storage': 'GiB-Hours', "
            "'nvidia.com/gpu': 'GPU-Hours'}[?self.resource].orValue('Unit-Hours')",
            message="unit must be the resource's own: vCPU-Hours for cpu, GiB-Hours for memory and ephemeral-storage, "
            "GPU-Hours for nvidia.com/gpu, Unit-Hours for anything else",
            holds=lambda data: data["unit"] == pricing_unit(data["resource"]),
        ),
        Rule(
            # The pattern already bounds the parts; this refuses 2026-02-30. timestamp() would too, in words of its own.
            cel=f"!self.effectiveFrom.matches('{DATE_PATTERN}') || "
            "int(self.effectiveFrom.substring(8)) <= (self.effectiveFrom.substring(5, 7) in ['04', '06', '09', '11'] "
            "? 30 : self.effectiveFrom.substring(5, 7) != '02' ? 31 : int(self.effectiveFrom.substring(0, 4)) % 4 == 0 "
            "&& (int(self.effectiveFrom.substring(0, 4)) % 100 != 0 || "
            "int(self.effectiveFrom.substring(0, 4)) % 400 == 0) ? 29 : 28)",
            message="effectiveFrom must be a day of the calendar, as YYYY-MM-DD",
            holds=lambda data: (
                not re.match(DATE_PATTERN, data["effectiveFrom"]) or _is_calendar_day(data["effectiveFrom"])
            ),
        ),
    )

    @property
    def effective_date(self) -> date:
        """`effective_from` as a date."""
        return date.fromisoformat(self.effective_from)


def _is_calendar_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


class PriceBookSpec(Strict):
    """Prices in one currency."""

    currency: Currency
    """ISO 4217 code of the one currency of all prices and of budgets: USD, EUR."""
    prices: Annotated[list[Price], Field(min_length=1, max_length=1000)] = Field(
        json_schema_extra=list_map_keys("resource", "product", "capacityType", "effectiveFrom")
    )
    """Unit prices. The row with the latest effectiveFrom that is not after the usage applies; a row that names the
    product goes before one that does not."""

    rules = (immutable("currency", "create another price book"),)


class PriceBook(Strict):
    """What one hour of each resource costs, since when, and who says so."""

    api_version: Literal["costopt.dev/v1alpha1"]
    """The version of this language."""
    kind: Literal["PriceBook"]
    """The kind of document."""
    metadata: Metadata
    """Name; a job refers to it as priceBookName."""
    spec: PriceBookSpec
    """Currency and prices."""

    def resources_without_current_price(self, today: date) -> list[str]:
        """Resources whose every price lies in the future: rows that cannot price anything yet."""
        first: dict[str, date] = defaultdict(lambda: date.max)
        for price in self.spec.prices:
            first[price.resource] = min(first[price.resource], price.effective_date)
        return sorted(resource for resource, day in first.items() if day > today)
