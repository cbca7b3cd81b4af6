"""Records of data: files of lines or rows with named fields.

RecordFiles, BadSamples    settings of a source
template_parts    a template -> its plain text and the fields that it names
"""

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from costopt.schema.base import Rule, Strict
from costopt.schema.data_places import SeveralPlaces

_BRACE, _FIELD = "[{]{2}|[}]{2}", "[{][^{}!:]+[}]"
TEMPLATE_PATTERN = f"^([^{{}}]|{_BRACE})*{_FIELD}([^{{}}]|{_BRACE}|{_FIELD})*$"
"""Text, doubled braces and names of fields in braces, at least one of these."""
_PARTS = re.compile(f"[^{{}}]+|{_BRACE}|{_FIELD}")
Template = Annotated[str, StringConstraints(pattern=TEMPLATE_PATTERN, min_length=1, max_length=8192)]
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


def template_parts(template: str) -> Iterator[tuple[str, bool]]:
    """The parts of a template that has its pattern: plain text, or the name of a field, and whether it is one."""
    for part in _PARTS.findall(template):
        if part in ("{{", "}}"):
            yield part[0], False
        elif part[0] == "{":
            yield part[1:-1], True
        else:
            yield part, False


class BadSamples(Strict):
    """What becomes of samples that cannot be used."""

    on_bad_sample: Literal["Fail", "Skip"] = "Fail"
    """Fail: the first bad sample (a broken line, a missing or null field) ends the job with a sentence that says where
    it is. Skip: bad samples are left out, and counted in the log. A file of records that cannot be read to its end, or
    lacks a column, always ends the job, for nobody knows how much is missing."""
    max_bad_percent: Annotated[int, Field(ge=0, le=100)] = 1
    """With Skip, the job ends if more than this percentage of the samples is bad."""


class RecordFiles(SeveralPlaces, BadSamples):
    """Files of records, and the fields that are read."""

    format: Literal["Auto", "JSONLines", "CSV", "TSV", "Parquet", "Arrow"] = "Auto"
    """What the files are. Auto tells each by its name: .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, .feather,
    with .gz or .zst behind it where it is packed. Of a folder those are read that end so (.json only if the format is
    JSONLines). A folder that the library datasets has saved is Arrow. CSV and TSV begin with a line of names."""
    delimiter: Annotated[str, StringConstraints(min_length=1, max_length=1)] | None = None
    """What stands between two columns of CSV. None means a comma."""
    text_field: FieldName | None = None
    """The field that holds the text. None means `text`, where no template is set. What exceeds the context length of
    a model that tells labels is cut off."""
    template: Template | None = None
    """The text, made of several fields: each `{name}` is replaced by that field's value, text, a number, true or false.
    `{{` and `}}` stand for braces."""

    templates: Annotated[list[Template], Field(min_length=2, max_length=16)] | None = None
    """Several such templates. Each record is written in one of them, which its place decides: each is used equally
    often."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *SeveralPlaces.rules,
        Rule(
            cel="!has(self.textField) || !has(self.template) && !has(self.templates)",
            message="textField must not be set beside template or templates, which name the fields themselves",
            holds=lambda data: "textField" not in data or not {"template", "templates"} & data.keys(),
        ),
        Rule(
            cel="!has(self.template) || !has(self.templates)",
            message="template and templates must not both be set",
            holds=lambda data: "template" not in data or "templates" not in data,
        ),
        Rule(
            cel="!has(self.delimiter) || self.format == 'CSV'",
            message="delimiter must not be set unless format is CSV",
            holds=lambda data: "delimiter" not in data or data["format"] == "CSV",
        ),
    )
