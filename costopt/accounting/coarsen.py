"""Merges cells until they are few enough: a status has limited room, and recording must never stop for it.

Hours stay exact to the microsecond. Distinctions between cells are dropped in the order of `_RUNGS`, each only if
those before it were not enough.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal

from costopt.accounting.cells import Cell, Cells
from costopt.accounting.exact import total
from costopt.accounting.price_book import mean_of
from costopt.names import TRAIN_STAGE
from costopt.schema.prices import UNIT_OF_RESOURCE
from costopt.schema.usage import Coarsened, PinnedPrice

OTHER = "other"
"""The resource, or stage, that stands for all merged ones."""
MOST_NAMES = 60
"""Resources kept apart; also stages."""


def coarsen(cells: Cells, most: int) -> tuple[Cells, tuple[Coarsened, ...]]:
    """At most `most` cells, and which distinctions were dropped for that.

    `most` must be at least 600: all stages, known resources and capacity types may leave that many.
    """
    done: list[Coarsened] = []
    for what, rung in _RUNGS:
        if what in _NAMES and len({getattr(cell, _NAMES[what]) for cell in cells}) > MOST_NAMES:
            cells = rung(cells)
            done.append(what)
    for what, rung in _RUNGS:
        coarser = rung(cells) if len(cells) > most else cells
        if len(coarser) < len(cells):
            cells = coarser
            done.append(what)
    return cells, tuple(dict.fromkeys(done))


_NAMES: Mapping[Coarsened, str] = {"Resources": "resource", "Stages": "stage"}


def _each(change: Callable[[Cell], Cell]) -> Callable[[Cells], Cells]:
    def rung(cells: Cells) -> Cells:
        coarser: defaultdict[Cell, Decimal] = defaultdict(Decimal)
        for cell, quantity in cells.items():
            changed = change(cell)
            coarser[changed] = total((coarser[changed], quantity))
        return coarser

    return rung


def _first_day(length: int, rest: str) -> Callable[[Cell], Cell]:
    return lambda cell: cell._replace(day=cell.day[:length] + rest) if cell.day else cell


def _means(cells: Cells) -> Cells:
    groups: defaultdict[Cell, list[tuple[PinnedPrice, Decimal]]] = defaultdict(list)
    coarser: defaultdict[Cell, Decimal] = defaultdict(Decimal)
    for cell, quantity in cells.items():
        if cell.price is None:
            coarser[cell] = total((coarser[cell], quantity))
        else:
            groups[cell._replace(price=None)].append((cell.price, quantity))
    for cell, weighed in groups.items():
        coarser[cell._replace(price=mean_of(weighed))] = total(quantity for _, quantity in weighed)
    return coarser


def _known(cell: Cell) -> Cell:
    if cell.resource in UNIT_OF_RESOURCE:
        return cell
    price = cell.price.model_copy(update={"resource": OTHER}) if cell.price else None
    return cell._replace(resource=OTHER, price=price)


_RUNGS: Collection[tuple[Coarsened, Callable[[Cells], Cells]]] = (
    ("Days", _each(_first_day(7, "-01"))),
    ("Days", _each(_first_day(4, "-01-01"))),
    ("Causes", _each(lambda cell: cell._replace(cause="Other"))),
    ("Prices", _means),
    ("Products", lambda cells: _means(_each(lambda cell: cell._replace(product=None))(cells))),
    ("Resources", lambda cells: _means(_each(_known)(cells))),
    ("Currencies", _each(lambda cell: cell._replace(day=None, currency=None, price=None))),
    ("Stages", _each(lambda cell: cell if cell.stage == TRAIN_STAGE else cell._replace(stage=OTHER))),
)
