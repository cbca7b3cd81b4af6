"""`costopt validate FILE...`: every mistake of every file, each with its line and what would be right."""

import errno
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer

from costopt.cli import EXIT_BAD_INPUT
from costopt.schema.document import Document, Mistake, read_stream
from costopt.schema.lines import MAX_BYTES
from costopt.schema.prices import PriceBook

STANDARD_INPUT = Path("-")


def read_file(path: Path, today: date) -> tuple[list[Document], list[Mistake]]:
    """The documents of a file and all mistakes in it, also those that depend on today's date.

    `-` is standard input. Objects of other kinds are ignored, each with a line on standard error.
    """
    name = "standard input" if path == STANDARD_INPUT else str(path)
    try:
        source = _bytes_of(path)
    except OSError as error:
        return [], [Mistake(name, 1, "file", f"cannot be read ({error.strerror}); name a readable YAML file")]
    stream = read_stream(source, name)
    documents, mistakes = stream.documents, stream.mistakes
    for note in stream.left_alone:
        typer.echo(str(note), err=True)
    for document in documents:
        if isinstance(document.model, PriceBook):
            mistakes += _prices_of_the_future(document, document.model, today)
    return documents, mistakes


def _bytes_of(path: Path) -> bytes:
    """The file's content; if it is too large for a manifest, only enough to say so."""
    if path == STANDARD_INPUT:
        if sys.stdin is None:
            raise OSError(errno.EBADF, "it is closed")
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    with path.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _prices_of_the_future(document: Document, book: PriceBook, today: date) -> list[Mistake]:
    return [
        document.mistake(
            ("spec", "prices", index, "effectiveFrom"),
            f"{price.resource} has no price yet: add a row with an effectiveFrom of today ({today}) or before",
        )
        for index, price in enumerate(book.spec.prices)
        if price.resource in book.resources_without_current_price(today)
    ]


def validate(
    files: Annotated[
        list[Path], typer.Argument(help="YAML files, each with one or more documents; - reads standard input.")
    ],
) -> None:
    """Check manifests; answer each mistake as `file:line: field: what would be right`."""
    today = datetime.now(UTC).date()
    mistakes: list[Mistake] = []
    num_documents = 0
    for file in files:
        documents, found = read_file(file, today)
        mistakes += found
        num_documents += len(documents)
    for mistake in mistakes:
        typer.echo(str(mistake), err=True)
    if mistakes:
        raise typer.Exit(EXIT_BAD_INPUT)
    typer.echo(f"{num_documents} document{'s' if num_documents != 1 else ''} valid")
