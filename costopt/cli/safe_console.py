"""rich's console as an outlet: text is made safe as in outlet.py; rich's own escape sequences stay."""

from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from costopt.cli.outlet import Outlet, safe


class SafeConsole(Console):
    """rich's console; makes text safe and keeps its own escape sequences."""

    def __init__(self, *, file: TextIO, **options: Any) -> None:
        super().__init__(file=file.inner if isinstance(file, Outlet) else file, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """As in rich, but words are never split and lines never cropped: a figure appears whole or not at all."""
        super().print(*objects, **{"overflow": "ignore", "crop": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments to print, made safe."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(safe(segment.text, self.encoding), segment.style)
