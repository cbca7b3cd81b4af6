"""YAML text -> validated documents, or every mistake with its line.

    read_documents     the whole way, the one entry point
    lines.py           YAML -> plain data, and the line of every field
    sentences.py       one mistake -> the sentence that says what would be right

All mistakes of a file are found in one go: each document's fields by pydantic, and the rules that relate fields by a
walk of our own over the plain data, because pydantic stops before them as soon as one field is wrong.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError

from costopt.schema.base import API_GROUP, API_VERSION, Rule, Strict, broken_rules, duplicates, field_key, nested_model
from costopt.schema.defaults import with_defaults
from costopt.schema.kinds import KINDS
from costopt.schema.lines import FieldPath, NotYaml, ParsedDocument, field_name, parse_yaml
from costopt.schema.sentences import sentence_of


@dataclass(frozen=True, order=True)
class Mistake:
    """One thing wrong with a file, and what would be right."""

    file: str
    line: int
    field: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: {self.sentence}"


@dataclass(frozen=True)
class Document:
    """One valid document of a file."""

    model: Strict
    """Of one of our kinds."""
    file: str
    parsed: ParsedDocument

    def mistake(self, path: FieldPath, sentence: str) -> Mistake:
        """A mistake at `path` that only the reader's surroundings could show, such as a date in the future."""
        return Mistake(self.file, self.parsed.line(path), field_name(path), sentence)


@dataclass(frozen=True)
class Stream:
    """What a YAML stream holds."""

    documents: list[Document]
    mistakes: list[Mistake]
    left_alone: list[Mistake]
    """A sentence for each object of another kind: it is valid or not, but not ours."""


def read_documents(source: str | bytes, file: str) -> tuple[list[Document], list[Mistake]]:
    """Our documents of a YAML stream and all mistakes in them; `file` is only for the mistakes' texts."""
    stream = read_stream(source, file)
    return stream.documents, stream.mistakes


def read_stream(source: str | bytes, file: str) -> Stream:
    """All of a YAML stream; `file` is only for the sentences."""
    try:
        parsed_documents = parse_yaml(source)
    except NotYaml as error:
        return Stream([], [Mistake(file, error.line, "document", str(error))], [])
    if not parsed_documents:
        return Stream([], [Mistake(file, 1, "document", f"is empty; it must hold {_one_of_ours()}")], [])

    documents: list[Document] = []
    mistakes: list[Mistake] = []
    foreign = [parsed for parsed in parsed_documents if _is_of_another_kind(parsed.data)]
    left_alone = [Mistake(file, parsed.line(()), *_who_is_left_alone(parsed.data)) for parsed in foreign]
    if len(foreign) == len(parsed_documents):
        mistakes.append(Mistake(file, 1, "document", f"must hold {_one_of_ours()}, and holds none of these"))
    for parsed in parsed_documents:
        if parsed in foreign:
            continue
        found = [Mistake(file, parsed.line(path), field_name(path), text) for path, text in _mistakes(parsed)]
        if found:
            mistakes += sorted(set(found))
        else:
            documents.append(Document(_model_of(parsed).model_validate_json(json.dumps(parsed.data)), file, parsed))
    return Stream(documents, mistakes, left_alone)


def _is_of_another_kind(data: Any) -> bool:
    """Whether it is somebody else's object; one that says it is of our group is meant as ours."""
    if not isinstance(data, dict):
        return False
    kind, version = data.get("kind"), data.get("apiVersion")
    if not isinstance(kind, str) or not isinstance(version, str) or kind in KINDS:
        return False
    return version.partition("/")[0] != API_GROUP


def _who_is_left_alone(data: Any) -> tuple[str, str]:
    metadata = data.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    ours = " nor ".join(f"a {one}" for one in KINDS)
    return f"{data['kind']} {name}".strip(), f"is neither {ours}, and is left alone"


def _one_of_ours() -> str:
    *some, last = (f"a {name}" for name in KINDS)
    return f"{', '.join(some)} or {last}"


def _model_of(parsed: ParsedDocument) -> type[Strict]:
    return KINDS[parsed.data["kind"]].model


def _mistakes(parsed: ParsedDocument) -> Iterator[tuple[FieldPath, str]]:
    data = parsed.data
    yield from parsed.mistakes
    if not isinstance(data, dict):
        yield (), "must be a mapping with apiVersion, kind, metadata and spec"
        return
    if not isinstance(data.get("kind"), str) or data["kind"] not in KINDS:
        said = f", not {json.dumps(data['kind'])}" if "kind" in data else "; it is missing"
        yield ("kind",), f"must be {' or '.join(KINDS)}{said}"
        return
    if data.get("apiVersion") != API_VERSION:
        yield ("apiVersion",), f"must be {API_VERSION}"
        data = {**data, "apiVersion": API_VERSION}
    model = KINDS[data["kind"]].model
    try:
        model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        for one in error.errors(include_url=False):
            if one["type"] != "value_error":  # rules, which the walk below reports completely
                path = _path_in(data, one["loc"])
                yield path, sentence_of(one, path, model, parsed.sources.get(path))
    yield from _broken_rules(model, with_defaults(model, _without_fractions(data)), ())


def _without_fractions(data: Any) -> Any:
    """`data` as rules may see it. No field is a fraction or a number beyond 64 bits, which YAML gives as a float: a
    mistake that is told already, and that rules would reckon with, and round. They pass over a text."""
    if isinstance(data, dict):
        return {key: _without_fractions(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_without_fractions(value) for value in data]
    return repr(data) if isinstance(data, float) else data


def _path_in(data: Any, loc: tuple[int | str, ...]) -> FieldPath:
    """`loc` without the union-member tags that pydantic adds, which name no field of the data."""
    path: list[int | str] = []
    for place, key in enumerate(loc):
        if isinstance(data, dict) and key in data:
            data = data[key]
        elif isinstance(data, list) and isinstance(key, int):
            data = data[key] if key < len(data) else None
        elif isinstance(data, dict) and place == len(loc) - 1:
            data = None  # a missing field
        else:
            continue
        path.append(key)
    return tuple(path)


def _broken_rules(
    model: type[Strict], data: Any, path: FieldPath, above: tuple[Callable[[Rule], str], ...] = ()
) -> Iterator[tuple[FieldPath, str]]:
    """Every broken rule and duplicate item of `model` and of the models below it, read off the plain data; each rule
    with the advice of its model and of those `above`."""
    if isinstance(data, dict):
        above = (*above, partial(model.advice, data))
        for rule in broken_rules(model, data):
            yield path, rule.sentence(data) + "".join(advice(rule) for advice in above)
        for duplicate in duplicates(model, data):
            yield (*path, duplicate.field, duplicate.index), duplicate.sentence
        for name, field in model.model_fields.items():
            key = field_key(name, field)
            nested = nested_model(field.annotation)
            if nested is not None and key in data:
                values = data[key]
                if isinstance(values, list):
                    for index, value in enumerate(values):
                        yield from _broken_rules(nested, value, (*path, key, index), above)
                else:
                    yield from _broken_rules(nested, values, (*path, key), above)
