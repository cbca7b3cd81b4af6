"""Tables that never crop a figure: if the terminal is too narrow, rows become lines of "name: value"."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from costopt.cli.outlet import safe


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> Group:
    """A plain table below its title; the first `left` columns are text, the others figures."""
    # rich would wrap a table's title at the table's width
    return Group(Text(title, style="bold"), Rows(columns, [tuple(row) for row in rows], left))


class Rows:
    """Rows of cells, side by side if every word and every figure fits, else below each other."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
        self._columns, self._rows, self._left = columns, rows, left

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = [_shown(name, console) for name in self._columns]
        rows = [[_shown(cell, console) for cell in row] for row in self._rows]
        whole = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
        least = [
            max(map(_longest_word, cells)) if place < self._left else whole[place]
            for place, cells in enumerate(zip(columns, *rows, strict=True))
        ]
        drawn = _drawn(columns, rows, whole, self._left)
        frame = Measurement.get(console, options.update(max_width=1 << 20), drawn).maximum - sum(whole)
        room = options.max_width - frame
        if sum(least) > room:
            yield from _stacked(columns, rows)
        else:
            yield _drawn(columns, rows, _narrowed(whole, least, room), self._left)


def _shown(text: str, console: Console) -> str:
    """As printed: an escape is longer than the character it stands for."""
    return safe(text, console.encoding).replace("\n", " ").replace("\t", " ")


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _narrowed(whole: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths that fit into `room`, reduced step by step in the column that can shrink most."""
    widths = list(whole)
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda place: widths[place] - least[place])
        widths[widest] -= 1
    return widths


def _drawn(columns: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], left: int) -> Table:
    drawn = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 0, 0, 1))
    for place, (name, width) in enumerate(zip(columns, widths, strict=True)):
        if place < left:
            drawn.add_column(Text(name), width=width, overflow="fold")
        else:
            drawn.add_column(Text(name), width=width, justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn


def _stacked(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[Text]:
    yield Text()
    for row in rows:
        for name, cell in zip(columns, row, strict=True):
            if cell:
                yield Text(f"{name}: {cell}" if name else cell, overflow="ignore")
        yield Text()


def metric_figure(figure: str) -> str:
    """A figure of any size, in few digits: four behind the point, or four in all where these would tell nothing."""
    value = float(figure)
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.4g}"
