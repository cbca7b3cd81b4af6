"""YAML -> plain data, and the line of every field.

Reads YAML the way kubectl does (scalars.py): duplicate keys are mistakes, dates stay text, `on` is true. Size, depth
and the number of values are bounded, so that no alias can make a small file fill the memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from costopt.schema.scalars import key_of, value_of

FieldPath = tuple[str | int, ...]


def field_name(path: FieldPath) -> str:
    """`("spec", "compress", 0, "name")` -> `spec.compress[0].name`; the empty path is the whole document."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".") or "document"


MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_VALUES = 50_000


class NotYaml(Exception):
    """The text is no YAML stream we read; `line` is where it stops being one."""

    def __init__(self, line: int, sentence: str) -> None:
        super().__init__(sentence)
        self.line = line


@dataclass
class ParsedDocument:
    """One document as plain data, with the line (from 1) of each field."""

    data: Any
    lines: dict[FieldPath, int]
    mistakes: list[tuple[FieldPath, str]] = field(default_factory=list)
    sources: dict[FieldPath, str] = field(default_factory=dict)
    """Scalars without quotes as they are written, where that is not what they stand for."""

    def line(self, path: FieldPath) -> int:
        """The line of `path`, or of the nearest field around it that is there."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]


_PLAIN, _MERGE, _TEXT = "plain", "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class _Loader(yaml.SafeLoader):
    """SafeLoader that leaves plain scalars to scalars.py."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """The tag of a node that has none of its own."""
        if kind is yaml.ScalarNode and implicit[0]:
            return _MERGE if value == "<<" else _PLAIN
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]


def parse_yaml(source: str | bytes) -> list[ParsedDocument]:
    """The non-empty documents of a YAML stream. Raises NotYaml."""
    if len(source) > MAX_BYTES:
        raise NotYaml(1, f"must be at most {MAX_BYTES:,} bytes")
    if isinstance(source, bytes):
        try:
            source = source.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise NotYaml(line, f"must be UTF-8 text; byte {error.start} is not") from None
    try:
        loader = _Loader(source)
        nodes = list(_nodes(loader))
        documents = [_Reader(loader).read(node) for node in nodes if node is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotYaml(mark.line + 1 if mark else 1, f"is not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise NotYaml(1, f"is not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise NotYaml(1, f"must be nested at most {MAX_DEPTH} deep") from None
    return [document for document in documents if document.data is not None]


def _nodes(loader: _Loader) -> Iterator[yaml.Node | None]:
    while loader.check_node():
        yield loader.get_node()


class _Reader:
    """Turns one document's node tree into plain data, noting lines and duplicate keys."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self._values = 0
        self._lines: dict[FieldPath, int] = {}
        self._mistakes: list[tuple[FieldPath, str]] = []
        self._sources: dict[FieldPath, str] = {}

    def read(self, node: yaml.Node) -> ParsedDocument:
        self._lines[()] = node.start_mark.line + 1
        return ParsedDocument(self._plain(node, ()), self._lines, self._mistakes, self._sources)

    def _plain(self, node: yaml.Node, path: FieldPath) -> Any:
        self._values += 1
        line = node.start_mark.line + 1
        if self._values > MAX_VALUES:
            raise NotYaml(line, f"must hold at most {MAX_VALUES:,} values")
        if len(path) > MAX_DEPTH:
            raise NotYaml(line, f"must be nested at most {MAX_DEPTH} deep")
        if node.tag not in (_PLAIN, _TEXT, *_COLLECTIONS, _MERGE):
            self._mistakes.append(
                (path, f"must have no tag ({node.tag}); write the value alone, in quotes if it is text")
            )
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._lines[(*path, index)] = item.start_mark.line + 1
            return [self._plain(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return self._scalar(node.value, path) if node.tag == _PLAIN else node.value

    def _scalar(self, source: str, path: FieldPath) -> Any:
        value = value_of(source)
        if isinstance(value, float) and not math.isfinite(value):
            self._mistakes.append(
                (path, f'is no number; if {source} is meant as text, put it in quotes, as "{source}"')
            )
            return source
        if not isinstance(value, str):
            self._sources[path] = source
        return value

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        own_keys = {id(key) for key, _ in node.value}
        self._loader.flatten_mapping(node)  # merge keys (<<); merged pairs come first, so that own keys win
        data: dict[str, Any] = {}
        own: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = _key(key_node)
            line = key_node.start_mark.line + 1
            if key is None:
                raise NotYaml(line, "must have text as keys: put a number, or what is empty, in quotes")
            if id(key_node) in own_keys:
                if key in own:
                    self._mistakes.append(((*path, key), f"is given twice, in lines {own[key]} and {line}; keep one"))
                own[key] = line
            self._lines[(*path, key)] = line
            value = self._plain(value_node, (*path, key))
            if value is not None:  # the API server, too, reads a null as a field left out
                data[key] = value
        return data


def _key(node: yaml.Node) -> str | None:
    if not isinstance(node, yaml.ScalarNode):
        return None
    return key_of(node.value) if node.tag == _PLAIN else str(node.value)
