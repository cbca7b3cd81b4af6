"""What a report tells -> one page of HTML, whole by itself."""

from datetime import datetime
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from costopt.report import charts
from costopt.report.dominance import frontier
from costopt.report.facts import MODEL, Facts, Scatter, hours, money

TEMPLATE = "page.html.j2"


def page(facts: Facts, now: datetime) -> str:
    """The page, as it is at `now`. Whatever is text in `facts` is escaped."""
    curves = facts.curves
    curve = charts.loss_curve(curves.losses, curves.validation, curves.rates) if curves.losses else None
    causes = charts.cause_bars(facts.causes, facts.hours_unit, facts.currency or "cost") if facts.causes else None
    return _template().render(
        facts=facts,
        curve=curve,
        causes=causes,
        scatters=[(scatter, _drawn(scatter, facts)) for scatter in facts.scatters],
        made=f"{now:%Y-%m-%d %H:%M} UTC",
        hours=hours,
        money=money,
    )


def _drawn(scatter: Scatter, facts: Facts) -> Markup | None:
    if not scatter.marks:
        return None
    usable = [mark for mark in scatter.marks if mark.kind != "Rejected" or mark.name == MODEL]
    best = frontier([(mark.x, mark.quality) for mark in usable], high_is_good=facts.high_is_good)
    return charts.scatter(scatter.marks, best, scatter.x_title, facts.quality_title)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("costopt.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)
