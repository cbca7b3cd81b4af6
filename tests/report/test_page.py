"""The page is whole by itself, and text of others is text in it."""

from html.parser import HTMLParser

from builders.accounting import MIDNIGHT
from builders.artifacts import variant_report
from builders.report import ATTACK, LATER, points, spec, status
from costopt.report.facts import facts_of
from costopt.report.page import page
from costopt.schema.status import Failure, JobStatus
from costopt.schema.variant_report import VariantFault


class Seen(HTMLParser):
    """Elements, what they would fetch, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.fetched.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(found: JobStatus, name: str = "tiny") -> Seen:
    return Seen(page(facts_of(name, found, spec(), points(), LATER), LATER))


def test_the_page_tells_of_all_parts() -> None:
    seen = page_of(status())
    assert seen.tags.count("svg") == 5
    for told in ("Training", "Where time and money went", "Variants", "What was wasted", "int8", "it is 0.5x as fast"):
        assert told in seen.text


def test_nothing_is_fetched_and_no_script_is_there() -> None:
    seen = page_of(status())
    assert "script" not in seen.tags
    assert seen.fetched == ["data:,"]
    assert seen.handlers == []
    assert "url(" not in page(facts_of("tiny", status(), spec(), points(), LATER), LATER)


def test_text_of_others_is_shown_and_never_obeyed() -> None:
    plain = page_of(status())
    fault = VariantFault(reason="Slower", message="</td><script>x</script>")
    report = variant_report(faults=(fault,))
    failure = Failure(stage="train", attempt=0, reason="ProcessFailed", message=ATTACK)
    seen = page_of(status(variants=[report, *status().variants[1:]], failure=failure), name=ATTACK)
    assert ATTACK in seen.text
    assert fault.message in seen.text
    assert sorted(set(seen.tags)) == sorted(set(plain.tags))
    assert (seen.fetched, seen.handlers) == (plain.fetched, [])


def test_a_job_of_which_nothing_is_known_has_a_page_too() -> None:
    seen = Seen(page(facts_of("tiny", JobStatus(), None, [], MIDNIGHT), MIDNIGHT))
    assert "svg" not in seen.tags
    assert "Nothing has been counted yet." in seen.text
    assert "No losses by step are known here" in seen.text
