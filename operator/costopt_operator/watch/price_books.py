"""Price books, out of the API server's objects or out of a folder of files."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import ValidationError

from costopt.schema.document import read_documents
from costopt.schema.lenient_parse import read_known
from costopt.schema.prices import PriceBook
from costopt_operator.kube.api import Json

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BookObject:
    """A PriceBook of the API server."""

    name: str
    uid: str
    resource_version: int = field(compare=False)
    book: PriceBook | None
    """None: it is not understood."""
    namespace: str = ""


def parse_book(data: Json) -> BookObject:
    """A PriceBook out of the API server's JSON; one that is not understood is logged."""
    metadata = data["metadata"]
    document = {
        "apiVersion": data["apiVersion"],
        "kind": data["kind"],
        "metadata": {"name": metadata["name"]},
        "spec": data.get("spec"),
    }
    try:
        book = read_known(PriceBook, json.dumps(document).encode())
    except ValidationError as error:
        log.warning("price book %s is not understood and passed over: %s", metadata["name"], error.errors()[0]["msg"])
        book = None
    return BookObject(metadata["name"], metadata["uid"], int(metadata["resourceVersion"]), book)


def read_books(folder: Path) -> dict[str, PriceBook]:
    """The price books in the YAML files of a folder, by name; a file with a mistake is passed over and logged."""
    books: dict[str, PriceBook] = {}
    for path in sorted(folder.glob("*.y*ml")):
        try:
            documents, mistakes = read_documents(path.read_text(encoding="utf-8"), str(path))
        except (OSError, ValueError, yaml.YAMLError) as error:
            log.warning("price books of %s cannot be read: %s", path, error)
            continue
        for mistake in mistakes:
            log.error("%s", mistake)
        books |= {item.model.metadata.name: item.model for item in documents if isinstance(item.model, PriceBook)}
    return books
