"""rich's console as a way out: text is made safe as in outlet.py; rich's own escape sequences stay as they are."""

from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from costopt.cli.outlet import Outlet, safe


class SafeConsole(Console):
    """rich's console, which makes text safe and leaves its own escape sequences as they are."""

    def __init__(self, *, file: TextIO, **options: Any) -> None:
        super().__init__(file=file.inner if isinstance(file, Outlet) else file, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich does, but words are never split and lines never cropped: a figure is there as a whole, or not."""
        super().print(*objects, **{"overflow": "ignore", "crop": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces of what is printed."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(safe(segment.text, self.encoding), segment.style)
