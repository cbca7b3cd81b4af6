"""Templates are those of Python's formatter that name fields alone, and are cut into parts as it cuts them."""

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from costopt.schema.records import template_parts
from costopt.schema.text_sources import RecordsData


def cut_by_python(template: str) -> list[tuple[str, str]] | None:
    """Plain text and the field behind it; None if it is no template."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return None
    if any(name == "" or form or conversion for _, name, form, conversion in parts):
        return None
    named = [(plain, name or "") for plain, name, _, _ in parts]
    return named if any(name for _, name in named) else None


def is_taken(template: str) -> bool:
    try:
        RecordsData.model_validate({"path": "a", "template": template})
    except ValidationError:
        return False
    return True


@settings(max_examples=500)
@given(st.lists(st.sampled_from(["{", "}", "{{", "}}", "{a}", "{b c}", "x", "!r", ":9", "\n", "ä"]), min_size=1))
@example(["{a}", "\n"])
@example(["{{", "{a}", "}}"])
@example(["{a}", "}}", "}}"])
def test_what_is_taken_and_how_it_is_cut_is_as_pythons_formatter_has_it(pieces: list[str]) -> None:
    template = "".join(pieces)
    expected = cut_by_python(template)
    assert is_taken(template) == (expected is not None)
    if expected is not None:
        filled = "".join(f"<{part}>" if is_field else part for part, is_field in template_parts(template))
        assert filled == "".join(plain + (f"<{name}>" if name else "") for plain, name in expected)


@pytest.mark.parametrize("name", ["a.b", "0", "a[0]", " a ", "Frage 1"])
def test_a_name_in_braces_is_taken_as_it_is_with_its_dots_digits_and_blanks(name: str) -> None:
    assert is_taken(f"{{{name}}}")
    assert list(template_parts(f"x{{{name}}}")) == [("x", False), (name, True)]
