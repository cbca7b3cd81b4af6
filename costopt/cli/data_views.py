"""What `costopt data` shows, as tables: one function for each kind of report.

views     a report -> what is printed
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from costopt.cli.tables import table
from costopt.cli.variants import size
from costopt.schema.data_report import (
    Counted,
    DataReport,
    Example,
    ImagesReport,
    SamplesReport,
    TableReport,
    TokensReport,
    TransformReport,
)

EXAMPLES = 4
"""Of each transform."""
ROWS = 20
"""Of files, classes or sizes; --output json has more."""


def views(report: DataReport | SamplesReport) -> Iterator[RenderableType]:
    """The report as tables."""
    return _VIEWS[type(report)](report)


def _of_tokens(report: TokensReport) -> Iterator[RenderableType]:
    rows = [("files", f"{report.num_files:,}"), ("numbers", report.number_type)]
    rows.append(("vocabulary", f"{report.vocabulary_size:,}, highest token {report.highest_token:,}"))
    if report.documents is not None:
        where = f" in the first {report.looked_at:,} tokens" if report.sampled else ""
        rows.append(("ends of documents", f"{report.documents:,}{where} (token {report.end_of_text_token})"))
    rows += _of_splits("tokens", report.train_tokens, report.validation_tokens)
    rows += _left_out(report)
    yield table(_title(report, "of each file its beginning was read"), ("", ""), rows)
    yield from map(Text, report.notes)
    yield from _counted("Files", "tokens", report.files, report.num_files)


def _of_images(report: ImagesReport) -> Iterator[RenderableType]:
    rows = [("images", f"{report.images:,}"), ("classes", f"{report.num_classes:,}")]
    rows.append(("trained as", f"{report.shape} (height x width x channels)"))
    rows += _of_splits("images", report.train_images, report.validation_images)
    yield table(_title(report, "the first images only were decoded"), ("", ""), rows)
    yield from map(Text, report.notes)
    yield from _counted("Classes", "images", report.classes, report.num_classes)
    yield from _counted("Height x width, as they lie", "images", report.sizes, len(report.sizes))


def _of_table(report: TableReport) -> Iterator[RenderableType]:
    rows = [("rows", f"{report.rows:,}"), ("features", f"{report.features:,}"), ("classes", f"{report.num_classes:,}")]
    rows += [("features always the same", f"{report.constant_features:,}"), ("missing values", "none")]
    rows += _of_splits("rows", report.train_rows, report.validation_rows)
    yield table(_title(report, ""), ("", ""), rows)
    yield from map(Text, report.notes)
    yield from _counted("Classes", "rows", report.classes, report.num_classes)


def _title(report: SamplesReport, sampled: str) -> str:
    return f"Data: {report.source}" + (f" (a sample: {sampled})" if report.sampled else "")


def _of_splits(what: str, train: int, validation: int) -> list[tuple[str, str]]:
    return [(f"{what} to train on", f"{train:,}"), (f"{what} held out", f"{validation:,}")]


def _left_out(report: DataReport | TokensReport) -> Iterator[tuple[str, str]]:
    if report.train_tokens_left_out or report.validation_tokens_left_out:
        left_out = f"{report.train_tokens_left_out:,} and {report.validation_tokens_left_out:,}"
        yield "left out of these", f"{left_out} at the end, which fill no context of {report.context_length:,}"


def _counted(title: str, unit: str, counted: list[Counted], of: int) -> Iterator[RenderableType]:
    """A table of the first rows, with names if there are any."""
    if not counted:
        return
    named = any(each.examples for each in counted)
    rows = [(each.name, *((", ".join(each.examples),) if named else ()), f"{each.count:,}") for each in counted[:ROWS]]
    yield table(title, ("", *(("such as",) if named else ()), unit), rows, left=2 if named else 1)
    if of > ROWS:
        yield Text(f"and {of - ROWS:,} more")


def _of_documents(report: DataReport) -> Iterator[RenderableType]:
    """From what was read to what was made."""
    sampled = " (a sample: the first documents only)" if report.sampled else ""
    yield table(f"Data: {report.source}{sampled}", ("", ""), _overview(report))
    yield from map(Text, report.notes)
    if report.transforms:
        yield table(
            "Transforms, in order",
            ("", "documents", "changed", "dropped", "bytes before", "after"),
            [_row(transform) for transform in report.transforms],
        )
    reasons = [
        (transform.type, reason, f"{count:,}")
        for transform in report.transforms
        for reason, count in transform.reasons.items()
    ]
    if reasons:
        yield table("Dropped, and why", ("transform", "reason", "documents"), reasons, left=2)
    for transform in report.transforms:
        if transform.examples:
            examples = (line for example in transform.examples[:EXAMPLES] for line in _example(example))
            yield Group(Text(f"\n{transform.type}, for example", style="bold"), *map(Text, examples))


def _overview(report: DataReport) -> Iterator[tuple[str, str]]:
    yield "documents", f"{report.documents:,}"
    yield "bytes", f"{report.bytes:,}"
    yield "longest document", f"{size(report.longest_bytes)}: {report.longest_document}"
    if report.transforms:
        yield "documents left", f"{report.documents_left:,}"
    duplicates = sum(transform.dropped for transform in report.transforms if transform.type == "RemoveDuplicates")
    if any(transform.type == "RemoveDuplicates" for transform in report.transforms):
        yield "duplicates", f"{duplicates:,}"
    if report.held_out_documents is not None:
        yield "documents held out", f"{report.held_out_documents:,}"
    yield "vocabulary", f"{report.vocabulary_size:,}"
    yield "tokens to train on", f"{report.train_tokens:,}"
    yield "tokens held out", f"{report.validation_tokens:,}"
    yield from _left_out(report)


def _row(transform: TransformReport) -> tuple[str, ...]:
    figures = (transform.documents, transform.changed, transform.dropped, transform.bytes_before, transform.bytes_after)
    return (transform.type, *(f"{figure:,}" for figure in figures))


def _example(example: Example) -> Iterator[str]:
    yield f"  {example.document}{'' if example.why is None else f': {example.why}'}"
    if example.before is not None:
        yield f"    - {example.before}"
    if example.after is not None:
        yield f"    + {example.after}"


_VIEWS: Mapping[type[Any], Callable[[Any], Iterator[RenderableType]]] = {
    DataReport: _of_documents,
    TokensReport: _of_tokens,
    ImagesReport: _of_images,
    TableReport: _of_table,
}
"""A kind of report -> how it is shown."""
