"""`costopt validate FILE...`: every mistake of every file, each with its line and what would be right."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer

from costopt.cli import EXIT_BAD_INPUT
from costopt.schema.document import Document, Mistake, read_documents
from costopt.schema.prices import PriceBook


def read_file(path: Path, today: date) -> tuple[list[Document], list[Mistake]]:
    """The documents of a file and all mistakes in it, among them what only a reader with a clock can find."""
    try:
        source = path.read_bytes()
    except OSError as error:
        return [], [Mistake(str(path), 1, "file", f"cannot be read ({error.strerror}); name a readable YAML file")]
    documents, mistakes = read_documents(source, str(path))
    for document in documents:
        if isinstance(document.model, PriceBook):
            mistakes += _prices_of_the_future(document, document.model, today)
    return documents, mistakes


def _prices_of_the_future(document: Document, book: PriceBook, today: date) -> list[Mistake]:
    return [
        document.mistake(
            ("spec", "prices", index, "effectiveFrom"),
            f"{price.resource} has no price yet: add a row with an effectiveFrom of today ({today}) or before",
        )
        for index, price in enumerate(book.spec.prices)
        if price.resource in book.resources_without_current_price(today)
    ]


def validate(files: Annotated[list[Path], typer.Argument(help="YAML files, each with one or more documents.")]) -> None:
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
