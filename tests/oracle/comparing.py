"""In what a bill differs from the one it should be, in sentences."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

from costopt.schema.status import Bill, BillLine, Total
from oracle.exact_bill import UNITS, Cell, ExactBill, number

CAUSES = ["Startup", "Selecting", "Productive", "DataWait", "Checkpoint", "LostProgress", "Recovery", "Other"]


def differences(expected: ExactBill, found: Bill) -> Iterator[str]:
    """Nothing, if the bill is right to the last digit."""
    cells: dict[Cell, BillLine] = {}
    for line in found.lines:
        cell = _cell(line)
        if cell in cells:
            yield f"two lines of {cell}"
        cells[cell] = line
    for cell in sorted(expected.hours.keys() | cells.keys()):
        yield from _line_differences(cell, expected, cells.get(cell))
    heads = [
        ("currency", expected.currency, found.currency),
        ("price book", expected.price_book, found.price_book),
        ("unpriced resources", sorted(expected.unpriced), found.unpriced_resources),
        ("what was put together", [], found.coarsened),
        ("estimated records", expected.estimated, found.estimated_records),
        ("priced cost", expected.priced if expected.currency else None, _money(found.priced_cost)),
        (
            "cost",
            expected.priced if expected.currency and not expected.unpriced else None,
            _money(found.list_cost),
        ),
    ]
    yield from (f"{name} should be {right!s} and is {there!s}" for name, right, there in heads if right != there)
    yield from _total_differences("stage", expected, found.by_stage, lambda cell: cell.stage)
    yield from _total_differences("resource", expected, found.by_resource, lambda cell: cell.resource)
    yield from _total_differences("cause", expected, found.by_cause, lambda cell: cell.cause)


def _cell(line: BillLine) -> Cell:
    return Cell(
        line.stage,
        line.resource,
        line.cause,
        line.product or "",
        line.capacity_type,
        line.list_unit_price or "",
        line.price_effective_from or "",
        line.price_source or "",
    )


def _line_differences(cell: Cell, expected: ExactBill, line: BillLine | None) -> Iterator[str]:
    if line is None:
        yield f"{cell} is missing: {expected.hours[cell]} billionths of an hour"
        return
    if cell not in expected.hours:
        yield f"{cell} should not be there: {line.consumed_quantity} hours"
        return
    right = Fraction(expected.hours[cell], 10**9)
    if number(line.consumed_quantity) != right or len(line.consumed_quantity.partition(".")[2]) != 9:
        yield f"{cell} should have {float(right):.9f} hours and has {line.consumed_quantity}"
    if _money(line.list_cost) != expected.money(cell):
        yield f"{cell} should cost {expected.money(cell)} and costs {line.list_cost}"
    unit = UNITS.get(cell.resource, ("Unit-Hours", 1))[0]
    if line.consumed_unit != unit:
        yield f"{cell} should be in {unit} and is in {line.consumed_unit}"


def _total_differences(
    name: str, expected: ExactBill, found: Sequence[Total], key_of: Callable[[Cell], str]
) -> Iterator[str]:
    if expected.currency is None and not found:
        return
    sums: dict[str, tuple[Fraction | None, int]] = defaultdict(lambda: (None, 0))
    for cell in expected.hours:
        cost, unpriced = sums[key_of(cell)]
        own = expected.money(cell)
        sums[key_of(cell)] = (cost, unpriced + 1) if own is None else ((cost or Fraction()) + own, unpriced)
    totals = {total.key: (_money(total.list_cost), total.unpriced_lines) for total in found}
    if totals != dict(sums) or len(totals) != len(found):
        yield f"sums by {name} should be {dict(sums)} and are {totals}"


def _money(text: str | None) -> Fraction | None:
    return None if text is None else number(text)
