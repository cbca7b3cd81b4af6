"""A second opinion on every bill: what the pages say about hours, money and causes, computed in another way.

Nothing here comes from `costopt.accounting`. Time is a line of whole microseconds since 1970 in UTC; what a replica
held, what it spent its time on and what a day cost are spans of that line, and a cell of the bill is what their
overlaps measure. Numbers are whole, or fractions of whole numbers, so nothing is rounded but hours, once.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Literal

Microseconds = int
Span = tuple[Microseconds, Microseconds]

Kind = Literal["Recipe", "Command", "Variant"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY: Microseconds = 86_400 * 10**6
HOUR: Microseconds = 3_600 * 10**6
GIB = 2**30
UNITS = {
    "cpu": ("vCPU-Hours", 1),
    "memory": ("GiB-Hours", GIB),
    "ephemeral-storage": ("GiB-Hours", GIB),
    "nvidia.com/gpu": ("GPU-Hours", 1),
}
"""Unit of a resource's hours, and how many of its base units make one."""


def microseconds(moment: datetime) -> Microseconds:
    """An aware moment on the line; a zone's jumps do not matter there."""
    return (moment.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)


def moment(at: Microseconds) -> datetime:
    """The reverse, in UTC."""
    return EPOCH + timedelta(microseconds=at)


def number(text: str) -> Fraction:
    """The exact value of a number written as text."""
    return Fraction(text)


def as_told(amount: str) -> str:
    """A price in its shortest words, so that 2 and 2.0 are one."""
    return f"{Decimal(amount).normalize():f}"


@dataclass(frozen=True)
class Rate:
    """What one unit costs, as the bill shows it."""

    amount: str
    since: str
    source: str


@dataclass(frozen=True)
class Row:
    """One row of a price book."""

    resource: str
    product: str
    capacity_type: str
    since: date
    rate: Rate


@dataclass(frozen=True)
class Book:
    """A price book."""

    name: str
    currency: str
    rows: tuple[Row, ...]

    def rate(self, resource: str, product: str | None, capacity_type: str, day: date) -> Rate | None:
        """The rate on a day: of rows that have begun, one that names the product, and of those the latest."""
        begun = [
            row
            for row in self.rows
            if row.resource == resource
            and row.capacity_type == capacity_type
            and row.product in ("", product)
            and row.since <= day
        ]
        own = [row for row in begun if row.product] or begun
        return max(own, key=lambda row: row.since).rate if own else None


@dataclass(frozen=True)
class Meter:
    """A replica's own account of its time, in microseconds."""

    startup: Microseconds = 0
    productive: Microseconds = 0
    since_checkpoint: Microseconds = 0
    data_wait: Microseconds = 0
    checkpoint: Microseconds = 0
    recovery: Microseconds = 0
    lost: Microseconds = 0
    selecting: Microseconds = 0


@dataclass(frozen=True)
class Holding:
    """What one replica held."""

    stage: str
    attempt: int
    spans: tuple[tuple[Span, Mapping[str, Fraction]], ...]
    """One after the other without a gap, each with the quantities held in it."""
    product: str | None = None
    capacity_type: str = "OnDemand"
    outcome: str = "Succeeded"
    """As in a usage record."""
    kind: Kind = "Recipe"
    """What ran: the training of a recipe, which keeps a meter; a user's own program, or the making of a variant."""
    meter: Meter | None = None
    estimated: bool = False
    book: Book | None = None
    """Prices that were pinned; None: those of the bill's book."""
    pinned: bool = False

    @property
    def holds_something(self) -> bool:
        """Some quantity for some time."""
        return any(span[0] < span[1] and any(quantities.values()) for span, quantities in self.spans)

    @property
    def whole(self) -> Span:
        """From the beginning to the end."""
        return self.spans[0][0][0], self.spans[-1][0][1]


def causes(holding: Holding) -> Iterator[tuple[str, Span]]:
    """What a replica's time was spent on, as spans that follow one another and fill what it held."""
    first, last = holding.whole
    begin = "Startup" if holding.attempt == 0 else "Recovery"
    unsaved = "Productive" if holding.outcome in ("Running", "Succeeded") else "LostProgress"
    meter = holding.meter
    if meter is None and holding.kind == "Recipe" and holding.outcome != "Succeeded":
        yield begin, (first, last)  # it has not come to its first report
        return
    may_have_saved = holding.kind == "Command" and holding.outcome == "Suspended"
    as_a_whole = "Productive" if may_have_saved else unsaved
    if meter is None:
        yield as_a_whole, (first, last)
        return
    # Of a program without a meter only its launcher speaks: of what was lost before it was started anew in place.
    is_its_own = replace(meter, recovery=0, lost=0) != Meter()
    # A variant's meter is of the trainings in it alone: the rest was its work.
    rest = as_a_whole if holding.kind == "Variant" or (holding.kind == "Command" and not is_its_own) else "Other"
    parts = (
        (begin, meter.startup),
        ("Selecting", meter.selecting),
        ("Recovery", meter.recovery),
        ("Productive", meter.productive),
        ("DataWait", meter.data_wait),
        ("Checkpoint", meter.checkpoint),
        ("LostProgress", meter.lost),
        (unsaved, meter.since_checkpoint),
        (rest, last - first),
    )
    here = first
    for cause, length in parts:
        there = min(last, here + length)
        yield cause, (here, there)
        here = there


def overlap(one: Span, other: Span) -> Span | None:
    """What two spans have in common, if anything."""
    first, last = max(one[0], other[0]), min(one[1], other[1])
    return (first, last) if first < last else None


def days(span: Span) -> Iterator[tuple[date, Span]]:
    """The days (UTC) that a span touches, each with its part."""
    here = span[0]
    while here < span[1]:
        there = min(span[1], (here // DAY + 1) * DAY)
        yield (EPOCH + timedelta(days=here // DAY)).date(), (here, there)
        here = there


@dataclass(frozen=True, order=True)
class Cell:
    """What the bill tells apart."""

    stage: str
    resource: str
    cause: str
    product: str
    capacity_type: str
    amount: str
    since: str
    source: str


@dataclass
class ExactBill:
    """The bill as it should be: hours in billionths, money as fractions."""

    currency: str | None = None
    price_book: str | None = None
    hours: dict[Cell, int] = field(default_factory=dict)
    estimated: int = 0

    def money(self, cell: Cell) -> Fraction | None:
        """Hours times price; None without a price."""
        return Fraction(self.hours[cell], 10**9) * number(cell.amount) if cell.amount else None

    @property
    def priced(self) -> Fraction:
        """Sum of what has a price."""
        return sum((cost for cell in self.hours if (cost := self.money(cell)) is not None), Fraction())

    @property
    def unpriced(self) -> set[str]:
        """Resources of lines without a price."""
        return {cell.resource for cell in self.hours if not cell.amount}


def exact_bill(holdings: Sequence[Holding], book: Book | None) -> ExactBill:
    """The bill of these holdings, those not pinned at the prices of `book`."""
    currencies = {each.book.currency for each in holdings if each.pinned and each.book and each.holds_something}
    currency = book.currency if book else min(currencies, default=None)
    sums: dict[Cell, Fraction] = defaultdict(Fraction)
    for holding in holdings:
        for cell, amount in _cells(holding, book, currency):
            sums[cell] += amount
    hours = {
        cell: round(amount / HOUR / UNITS.get(cell.resource, ("", 1))[1] * 10**9)
        for cell, amount in sums.items()
        if amount
    }
    return ExactBill(currency, book.name if book else None, hours, sum(each.estimated for each in holdings))


def _cells(holding: Holding, book: Book | None, currency: str | None) -> Iterator[tuple[Cell, Fraction]]:
    prices = holding.book if holding.pinned else book
    if prices is not None and prices.currency != currency:
        prices = None  # money in two currencies cannot be added
    for cause, spent in causes(holding):
        for held, quantities in holding.spans:
            if (part := overlap(spent, held)) is None:
                continue
            for day, piece in days(part):
                for resource, quantity in quantities.items():
                    rate = prices and prices.rate(resource, holding.product, holding.capacity_type, day)
                    told = (as_told(rate.amount), rate.since, rate.source) if rate else ("", "", "")
                    cell = Cell(holding.stage, resource, cause, holding.product or "", holding.capacity_type, *told)
                    yield cell, quantity * (piece[1] - piece[0])
