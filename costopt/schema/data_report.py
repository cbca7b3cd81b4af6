"""What `costopt data` shows of a job's data.

TransformReport    one transform, in figures, with examples
DataReport         the whole way from documents to tokens; also report.json beside the tokens
TokensReport       tokens that were made elsewhere
ImagesReport       labelled images
TableReport        labelled rows
report_in          any of them, as its process has written it
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from costopt.schema.base import Count, Strict

MOST_EXAMPLES = 6
"""Of one transform."""
MOST_REASONS = 32
OTHER_REASONS = "other reasons"
"""Stands for all that are more than that."""
_REASONS_IN_A_LINE = 8
SHOWN_CHARACTERS = 80
"""Of a text in an example, before what controls a terminal is written out."""

Shown = Annotated[str, StringConstraints(max_length=10 * SHOWN_CHARACTERS + 2)]
"""A part of a text, on one line, without characters that control a terminal, and with personal data masked."""


class Example(Strict):
    """What a transform did to one document."""

    document: Annotated[str, StringConstraints(max_length=4096)]
    """Its name, such as the path of its file."""
    before: Shown | None = None
    """Its text around the first place that was changed, or its beginning if it was dropped. None: it was personal
    data."""
    after: Shown | None = None
    """The same place after the change. None: it was dropped."""
    why: Annotated[str, StringConstraints(max_length=4096)] | None = None
    """Why it was dropped."""

    def told(self, word: str) -> str:
        """One line for the log; `word` is the transform's."""
        if self.why is not None:
            return f"{word} dropped {self.document} ({self.why}): {self.before}"
        return f"{word} changed {self.document}: {'' if self.before is None else f'{self.before} -> '}{self.after}"


class TransformReport(Strict):
    """What a transform did to the documents of a text."""

    type: Annotated[str, StringConstraints(max_length=64)] = ""
    """The word of `data.transforms[].type`. Empty in caches of earlier versions."""
    documents: Count
    """Documents before it."""
    changed: Count
    """Those whose text is another after it."""
    dropped: Count
    """Those that are not there after it."""
    bytes_before: Count
    """Bytes of their texts before it."""
    bytes_after: Count
    """Bytes of the texts after it."""
    reasons: dict[str, Count] = Field(default_factory=dict, max_length=MOST_REASONS)
    """Why documents were dropped -> how many."""
    examples: list[Example] = Field(default_factory=list, max_length=MOST_EXAMPLES)
    """The first few documents that it changed or dropped."""

    def told(self, word: str = "") -> str:
        """One line for the log; `word` stands for the type where that is not known."""
        reasons = [f"{reason} {count:,}" for reason, count in self.reasons.items()]
        more = len(reasons) - _REASONS_IN_A_LINE
        why = ", ".join(reasons[:_REASONS_IN_A_LINE]) + (f" and {more} other reasons" if more > 0 else "")
        dropped = f", dropped {self.dropped:,}{f' ({why})' if why else ''}" if self.dropped else ""
        return (
            f"{self.type or word} changed {self.changed:,} of {self.documents:,} documents{dropped}: "
            f"{self.bytes_before:,} bytes became {self.bytes_after:,}"
        )


class DataReport(Strict):
    """The way from documents to tokens."""

    source: str
    """The setting that names the text, and its value."""
    documents: Count
    """Documents as read."""
    bytes: Count
    """Of their texts."""
    longest_document: str
    """Name of the largest as read."""
    longest_bytes: Count
    """Its bytes."""
    notes: list[str] = Field(default_factory=list)
    """What was left out or passed over in reading, in words."""
    transforms: list[TransformReport]
    """What each did, in order."""
    documents_left: Count
    """Documents that became tokens."""
    held_out_documents: Count | None = None
    """Of these, held out whole. None: the end of the text is held out, wherever that is in a document."""
    vocabulary_size: Count
    """Tokens that the tokenizer knows."""
    train_tokens: Count
    """Tokens to train on."""
    validation_tokens: Count
    """Tokens held out."""
    context_length: Count | None = None
    """Tokens of a sample of the model. None where samples are not cut from a text, and in the file beside the tokens,
    which serve any model."""
    train_tokens_left_out: Count | None = None
    """Tokens to train on that fill no sample: the last ones."""
    validation_tokens_left_out: Count | None = None
    """Tokens held out, likewise."""
    sampled: bool = False
    """Whether this is of a sample of the documents only."""


MOST_SHOWN = 1000
"""Files, sizes or classes that are told one by one."""


class Counted(Strict):
    """So many of a kind."""

    name: Annotated[str, StringConstraints(max_length=4096)]
    """Which: a file, a class, a size."""
    count: Count
    """How many."""
    examples: list[Annotated[str, StringConstraints(max_length=4096)]] = Field(default_factory=list, max_length=3)
    """Names of the first few."""


class SamplesReport(Strict):
    """What all sources of ready-made samples have in common."""

    source: str
    """The setting that names the data, and its value."""
    notes: list[str] = Field(default_factory=list)
    """What was left out or passed over in reading, in words."""
    sampled: bool = False
    """Whether only the beginning was looked at."""


class TokensReport(SamplesReport):
    """Tokens that were made elsewhere."""

    kind: Literal["Tokens"] = "Tokens"
    """Which report this is."""
    num_files: Count
    """Files, with those that are held out."""
    files: list[Counted] = Field(max_length=MOST_SHOWN)
    """The first of them, with their tokens."""
    number_type: str
    """What a token number is in the files."""
    vocabulary_size: Count
    """As the settings have it."""
    looked_at: Count
    """Tokens that were read; all, unless only the beginning of each file was."""
    highest_token: Count
    """Of these."""
    end_of_text_token: Count | None = None
    """The token behind each document. None: the settings name none."""
    documents: Count | None = None
    """How often it stands in what was read. None: the settings name none."""
    train_tokens: Count
    """Tokens to train on."""
    validation_tokens: Count
    """Tokens held out."""
    context_length: Count | None = None
    """Tokens of a sample of the model. None where samples are not cut from a text."""
    train_tokens_left_out: Count | None = None
    """Tokens to train on that fill no sample: the last ones."""
    validation_tokens_left_out: Count | None = None
    """Tokens held out, likewise."""


class ImagesReport(SamplesReport):
    """Labelled images."""

    kind: Literal["Images"] = "Images"
    """Which report this is."""
    images: Count
    """Images there are; but for a sample, that can be used."""
    num_classes: Count
    """Classes."""
    classes: list[Counted] = Field(max_length=MOST_SHOWN)
    """The first of them, with their images and a few names."""
    sizes: list[Counted] = Field(max_length=MOST_SHOWN)
    """Height x width of the images as they lie, the most frequent first."""
    shape: str
    """Height x width x channels as they are trained on."""
    train_images: Count
    """Images to train on."""
    validation_images: Count
    """Images held out."""


class TableReport(SamplesReport):
    """Labelled rows."""

    kind: Literal["Table"] = "Table"
    """Which report this is."""
    rows: Count
    """Rows."""
    features: Count
    """Numbers of a row."""
    constant_features: Count
    """Of these, those that are the same in all rows to train on."""
    num_classes: Count
    """Classes."""
    classes: list[Counted] = Field(max_length=MOST_SHOWN)
    """The first of them, with their rows."""
    train_rows: Count
    """Rows to train on."""
    validation_rows: Count
    """Rows held out."""


_REPORTS: Mapping[str, type[SamplesReport]] = {"Tokens": TokensReport, "Images": ImagesReport, "Table": TableReport}


def report_in(plain: Mapping[str, Any]) -> DataReport | SamplesReport:
    """The report in plain data. Raises ValueError."""
    return _REPORTS.get(str(plain.get("kind")), DataReport).model_validate(plain)
