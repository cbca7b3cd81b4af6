"""A record -> its text and its label.

TextOf       a field, or a template of several, or one of several templates
label_of     the label
BadSample    what is raised of a record that has none
"""

import itertools
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from costopt.schema.records import RecordFiles, template_parts
from costopt_trainer.data.records.table import ClassNames, ClassNumber
from costopt_trainer.data.sampler import sample_indices
from costopt_trainer.errors import quoted

MAX_LABEL_CHARACTERS = 200
_AT_ONCE = 1024

Label = str | int


class BadSample(ValueError):
    """A record that is no sample; the message is what would be right, without where it stands."""


class TextOf:
    """Finds the text of a record."""

    def __init__(self, settings: RecordFiles, setting: str) -> None:
        """`setting` is what the settings stand under."""
        self._setting = setting
        self.setting = "textField"
        """The one that says how the text is made."""
        given = settings.templates or []
        if settings.templates is not None:
            self.setting = "templates"
        elif settings.template is not None:
            self.setting, given = "template", [settings.template]
        self._templates = [list(template_parts(text)) for text in given]
        names = [part for template in self._templates for part, is_field in template if is_field]
        names = names or [settings.text_field or "text"]
        self.fields: tuple[str, ...] = tuple(dict.fromkeys(names))
        """The fields that it is made of: of several templates, those of all."""

    def choices(self) -> Iterator[int]:
        """Which template each record is written in, by its place: of so many in a row as there are templates, each in
        another one. Follows from the place alone, so that tokens are the same at every reading."""
        count = max(len(self._templates), 1)
        for position in itertools.count(0, _AT_ONCE):
            yield from sample_indices(seed=0, position=position, count=_AT_ONCE, num_samples=count).tolist()

    def __call__(self, values: Mapping[str, Any], choice: int = 0) -> bytes:
        """The text, UTF-8, in the template `choice`. Raises BadSample."""
        require(values, self.fields, self.setting, self._setting)
        if not self._templates:
            [field] = self.fields
            text = values[field]
            if not isinstance(text, str):
                raise BadSample(f"must have a text in {field!r}, but it is {quoted(text)}")
        else:
            parts = self._templates[choice]
            text = "".join(_filled_in(part, values[part]) if is_field else part for part, is_field in parts)
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise BadSample("must be UTF-8") from error


def require(values: Mapping[str, Any], fields: tuple[str, ...], why: str, setting: str) -> None:
    """Raise BadSample unless all `fields` are there."""
    missing = [field for field in fields if field not in values]
    if missing:
        raise BadSample(
            f"must have the field{'s' if len(fields) > 1 else ''} {_listed(fields)} ({why} of {setting}), "
            f"but lacks {_listed(missing)}"
        )


def label_of(values: Mapping[str, Any], field: str, labels: frozenset[str] | None = None) -> Label:
    """The label in a field: a word, or a whole number; the name of a class that has a number, where all of `labels` are
    names of classes. Raises BadSample."""
    label = values[field]
    if isinstance(label, ClassNumber):
        is_by_name = labels is not None and label.name is not None and _are_among(labels, label.names)
        label = label.name if is_by_name else int(label)
    is_word = isinstance(label, str) and label.strip() and label.isprintable() and len(label) <= MAX_LABEL_CHARACTERS
    if type(label) is not int and not is_word:
        raise BadSample(
            f"must have a label in {field!r} that is a whole number or a word of at most {MAX_LABEL_CHARACTERS} "
            f"printable characters, not {quoted(label)}"
        )
    return label


@lru_cache(maxsize=16)
def _are_among(labels: frozenset[str], names: ClassNames) -> bool:
    return labels <= set(names.names)


def _filled_in(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise BadSample(f"must have a text or number in {name!r}, which the template names, but it is {quoted(value)}")
    return str(value)


def _listed(fields: tuple[str, ...] | list[str]) -> str:
    return " and ".join(map(quoted, fields))
