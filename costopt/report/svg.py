"""Elements of SVG as text, and the panel that curves and marks are drawn in.

tag      an element; attributes and text of others are escaped
Panel    a rectangle with two axes: from values to places, and the drawing of frame, grid and ticks
drawing  the whole, with its title for those who do not see it

Lengths are in units of the drawing, which is WIDTH wide; the page shows it as wide as there is room. Colours are
classes of the page's style.
"""

from dataclasses import dataclass

from markupsafe import Markup, escape

from costopt.report.axes import Axis

WIDTH = 360
"""Of each drawing: about as wide as a phone, so that its text is readable there."""


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element. `_` in the name of an attribute stands for `-`; one that is None is left out; `class_` is class."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_written(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(escape(part) for part in content)
    return Markup(f"<{name}{told}>{inner}</{name}>")  # noqa: S704  its parts are escaped above


def _written(value: object) -> object:
    return f"{value:.1f}" if isinstance(value, float) else value


@dataclass(frozen=True)
class Panel:
    """A rectangle in a drawing, with an axis along its lower side (x) and one along its left (y)."""

    left: float
    top: float
    width: float
    height: float
    x: Axis
    y: Axis

    @property
    def right(self) -> float:
        """Its right side."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Its lower side."""
        return self.top + self.height

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a value of both axes lies in the drawing."""
        return self.left + self.x.at(x) * self.width, self.bottom - self.y.at(y) * self.height

    def drawn(self, *content: object, x_title: str | None, y_title: str, x_ticks: bool = True) -> Markup:
        """The panel with `content` in it. `x_title` None, and no `x_ticks`: another below it has the same axis."""
        parts: list[object] = [
            tag("rect", class_="plot", x=self.left, y=self.top, width=self.width, height=self.height)
        ]
        for tick, label in zip(self.y.ticks, self.y.labels, strict=True):
            _, y = self.place(self.x.low, tick)
            parts.append(tag("line", class_="grid", x1=self.left, x2=self.right, y1=y, y2=y))
            parts.append(tag("text", label, class_="tick end", x=self.left - 4, y=y + 3))
        for tick, label in zip(self.x.ticks, self.x.labels, strict=True) if x_ticks else ():
            x, _ = self.place(tick, self.y.low)
            parts.append(tag("line", class_="grid", x1=x, x2=x, y1=self.bottom, y2=self.bottom + 3))
            parts.append(tag("text", label, class_="tick middle", x=x, y=self.bottom + 13))
        parts.append(tag("text", y_title, class_="title", x=self.left, y=self.top - 6))
        if x_title is not None:
            parts.append(tag("text", x_title, class_="title end", x=self.right, y=self.bottom + 27))
        return tag("g", *parts, *content, class_="panel")


def drawing(title: str, height: float, *content: object) -> Markup:
    """The whole drawing. `title` is read aloud in its place."""
    return tag(
        "svg",
        tag("title", title),
        *content,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height:g}",
        role="img",
    )
