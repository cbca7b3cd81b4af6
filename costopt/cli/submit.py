"""`costopt submit FILE`: a job and its price book, to a cluster."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, NoReturn

import typer

from costopt.cli import EXIT_BAD_INPUT
from costopt.cli.inputs import JobFile
from costopt.cli.on_cluster import Context, Kubeconfig, Namespace, command
from costopt.cli.validate import read_file
from costopt.cluster.access import Access
from costopt.cluster.api import FIELD_MANAGER, Cluster, Plain
from costopt.cluster.connect import connect
from costopt.cluster.jobs import Change, ClusterJob, Jobs
from costopt.cluster.price_books import apply_price_book, find_price_book
from costopt.cluster.refusals import Conflict, Forbidden, Invalid
from costopt.refused import Refused
from costopt.schema.document import Document
from costopt.schema.job import CostOptJob
from costopt.schema.lines import FieldPath, field_name
from costopt.schema.prices import PriceBook

DONE: dict[Change, str] = {"created": "submitted", "changed": "changed", "unchanged": "is there already, and the same"}
WOULD_BE: dict[Change, str] = {
    "created": "would be submitted",
    "changed": "would be changed",
    "unchanged": "is there already, and the same",
}


def submit(
    file: JobFile,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask the server whether it would take it.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also set fields that were last set by something else.")
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Submit a job to a cluster, or change it there.

    The file is checked here first, and every mistake is named with its line. PriceBooks beside the job are applied
    too, where this user may do that.
    """
    access = Access(kubeconfig, context, namespace)
    documents = _documents(file)
    jobs = [(document, document.model) for document in documents if isinstance(document.model, CostOptJob)]
    books = [(document, document.model) for document in documents if isinstance(document.model, PriceBook)]
    spaces = {_namespace_of(model, access) for _, model in jobs} or {access.namespace}
    cluster = connect(access)
    words = WOULD_BE if dry_run else DONE
    if books and not dry_run:  # prices are shared: do not set them for a job that is then refused
        for document, model in jobs:
            _submit_job(cluster, document, _namespace_of(model, access), dry_run=True, force=force)
    for document, book in books:
        _submit_book(cluster, document, book.metadata.name, dry_run=dry_run, force=force)
    submitted = []
    for document, model in jobs:
        job, change = _submit_job(cluster, document, _namespace_of(model, access), dry_run=dry_run, force=force)
        typer.echo(f"Job {job.name} {words[change]} (namespace {job.namespace} of {cluster}).")
        submitted.append(job)
    in_file = {book.metadata.name for _, book in books}
    for note in dict.fromkeys(note for job in submitted for note in _notes(cluster, job, in_file)):
        typer.echo(f"Note: {note}")
    if submitted and not dry_run:
        (space,) = spaces if len(spaces) == 1 else {None}
        _print_next([job.name for job in submitted], replace(access, namespace=space))


def _documents(file: JobFile) -> list[Document]:
    """All documents of the file; prints all mistakes and exits with 2 if there are any."""
    documents, mistakes = read_file(file, datetime.now(UTC).date())
    for mistake in mistakes:
        typer.echo(str(mistake), err=True)
    if mistakes:
        raise typer.Exit(EXIT_BAD_INPUT)
    return documents


def _namespace_of(job: CostOptJob, access: Access) -> str | None:
    """The job's namespace; None: the context's."""
    said = job.metadata.namespace
    if said is not None and access.namespace not in (None, said):
        raise Refused(
            f"the manifest puts job {job.metadata.name} into namespace {said}, and --namespace says "
            f"{access.namespace}; take one of them away"
        )
    return said or access.namespace


def _submit_job(
    cluster: Cluster, document: Document, namespace: str | None, *, dry_run: bool, force: bool
) -> tuple[ClusterJob, Change]:
    try:
        return Jobs(cluster, namespace).apply(_plain(document), dry_run=dry_run, force=force)
    except Invalid as error:
        _print_mistakes(document, error)
    except Conflict as error:
        raise _conflict(error, document) from None


def _submit_book(cluster: Cluster, document: Document, name: str, *, dry_run: bool, force: bool) -> None:
    words = WOULD_BE if dry_run else DONE
    try:
        change = apply_price_book(cluster, _plain(document), dry_run=dry_run, force=force)
    except Forbidden:
        typer.echo(
            f"PriceBook {name} was left out: you may not set prices on {cluster}. What is in force there counts.",
            err=True,
        )
    except Invalid as error:
        _print_mistakes(document, error)
    except Conflict as error:
        raise _conflict(error, document) from None
    else:
        typer.echo(f"PriceBook {name} {words[change]}.")


def _plain(document: Document) -> Plain:
    """As written, without the model's defaults: the user owns only fields that the user wrote."""
    data: Plain = document.parsed.data
    return {key: value for key, value in data.items() if key != "status"}


def _print_mistakes(document: Document, error: Invalid) -> NoReturn:
    """Print each mistake that only the server found, with its line; then exit with 2."""
    if not error.causes:
        raise error
    for cause in error.causes:
        mistake = document.mistake(_path(cause.field), cause.sentence)
        typer.echo(str(mistake), err=True)
    raise typer.Exit(EXIT_BAD_INPUT)


def _conflict(error: Conflict, document: Document) -> Refused:
    """Which fields others have set, each with its line."""
    fields = []
    for cause in error.causes:
        path = _path(cause.field)
        quoted = re.search('"([^"]*)"', cause.sentence)
        by = "the command line" if quoted is None or quoted[1] == FIELD_MANAGER else quoted[1]
        fields.append(f"{field_name(path)} (line {document.parsed.line(path)}) by {by}")
    if not fields:
        return error
    return Refused(
        f"{document.file} sets what was set otherwise since: {', '.join(fields)}; take it out of the file, or submit "
        "with --force to set it all the same"
    )


def _path(field: str) -> FieldPath:
    """`spec.compress[0].name` -> `("spec", "compress", 0, "name")`."""
    parts = re.findall(r"\[(\d+)\]|\[([^\]]*)\]|([^.\[\]]+)", field)
    return tuple(int(index) if index else key or name for index, key, name in parts)


def _notes(cluster: Cluster, job: ClusterJob, in_file: set[str]) -> list[str]:
    notes = []
    book = job.spec.get("priceBookName")
    if book is not None and book not in in_file and not _may_exist(cluster, book):
        notes.append(f"there is no PriceBook {book} on {cluster}: hours are counted, and cost is unknown without it")
    if job.is_to_be_suspended:
        notes.append(f"job {job.name} is suspended, and does nothing until it is resumed")
    return notes


def _may_exist(cluster: Cluster, book: str) -> bool:
    try:
        return find_price_book(cluster, book) is not None
    except Forbidden:
        return True


def _print_next(names: Sequence[str], access: Access) -> None:
    typer.echo("\nNext:")
    for name in names:
        for verb, option in (("watch", ""), ("logs", " --follow"), ("cost", "")):
            typer.echo(f"  {command(verb, name, access)}{option}")
