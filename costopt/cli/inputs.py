"""Manifests and price books -> one job and its prices, or all mistakes at once."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from costopt.cli import EXIT_BAD_INPUT
from costopt.cli.validate import read_file
from costopt.refused import Refused
from costopt.schema.job import CostOptJob
from costopt.schema.prices import PriceBook

Output = Annotated[Literal["text", "json"], typer.Option(help="text for people, json for programs.")]
JobFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="YAML file with one CostOptJob, or - for standard input; PriceBooks may be beside it."
    ),
]
PriceBookFile = Annotated[Path | None, typer.Option(metavar="FILE", help="YAML file with the job's PriceBook.")]


def read_job(file: Path, price_book_file: Path | None = None) -> tuple[CostOptJob, PriceBook | None]:
    """The one job of `file`, and the price book that it names, from either file.

    Prints all mistakes and exits with 2, or raises Refused, if the files hold anything else.
    """
    job, books = read_one_job(file, price_book_file)
    return job, _book_of(job, books, file, price_book_file)


def read_one_job(file: Path, price_book_file: Path | None = None) -> tuple[CostOptJob, list[PriceBook]]:
    """The one job of `file`, and all price books of either file; fails like `read_job` on anything else.

    Jobs in the price book's file are ignored.
    """
    today = datetime.now(UTC).date()
    documents, mistakes = read_file(file, today)
    beside, wrong = read_file(price_book_file, today) if price_book_file else ([], [])
    mistakes += wrong
    if mistakes:
        for mistake in mistakes:
            typer.echo(str(mistake), err=True)
        raise typer.Exit(EXIT_BAD_INPUT)
    jobs = [document.model for document in documents if isinstance(document.model, CostOptJob)]
    if len(jobs) != 1:
        raise Refused(f"{file} must hold exactly one CostOptJob; there {'are' if jobs else 'is'} {len(jobs) or 'none'}")
    books = [document.model for document in (*documents, *beside) if isinstance(document.model, PriceBook)]
    return jobs[0], books


def _book_of(job: CostOptJob, books: list[PriceBook], file: Path, price_book_file: Path | None) -> PriceBook | None:
    name = job.spec.price_book_name
    names = sorted(book.metadata.name for book in books)
    if name is None:
        if price_book_file is not None:
            raise Refused(f"--price-book is given, but the job names none; set spec.priceBookName to {names[0]}")
        return None
    matching = [book for book in books if book.metadata.name == name]
    where = f"{file} and {price_book_file}" if price_book_file else f"{file}; name its file with --price-book"
    if not matching:
        there = f" ({', '.join(names)} is there)" if names else ""
        raise Refused(f"spec.priceBookName is {name}, and there is no PriceBook of that name{there} in {where}")
    if len(matching) > 1:
        raise Refused(f"there must be just one PriceBook named {name}; there are {len(matching)}")
    return matching[0]
