"""YAML -> plain data, and the line of every field.

Reads YAML the way the API server does: duplicate keys are mistakes, dates stay text, `1e-3` is a number. Size, depth
and the number of values are bounded, so that no alias can make a small file fill the memory.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

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

    def line(self, path: FieldPath) -> int:
        """The line of `path`, or of the nearest field around it that is there."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]


class _Loader(yaml.SafeLoader):
    """SafeLoader without timestamps, and with exponents as the API server reads them."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(source: str | bytes) -> list[ParsedDocument]:
    """The non-empty documents of a YAML stream. Raises NotYaml."""
    if len(source) > MAX_BYTES:
        raise NotYaml(1, f"is {len(source):,} bytes; a manifest must be at most {MAX_BYTES:,}")
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

    def read(self, node: yaml.Node) -> ParsedDocument:
        self._lines[()] = node.start_mark.line + 1
        return ParsedDocument(self._plain(node, ()), self._lines, self._mistakes)

    def _plain(self, node: yaml.Node, path: FieldPath) -> Any:
        self._values += 1
        line = node.start_mark.line + 1
        if self._values > MAX_VALUES:
            raise NotYaml(line, f"must hold at most {MAX_VALUES:,} values")
        if len(path) > MAX_DEPTH:
            raise NotYaml(line, f"must be nested at most {MAX_DEPTH} deep")
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._lines[(*path, index)] = item.start_mark.line + 1
            return [self._plain(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return self._loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        own_keys = {id(key) for key, _ in node.value}
        self._loader.flatten_mapping(node)  # merge keys (<<); merged pairs come first, so that own keys win
        data: dict[str, Any] = {}
        own: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            line = key_node.start_mark.line + 1
            if key is None:
                raise NotYaml(line, "must have plain text as keys")
            if id(key_node) in own_keys:
                if key in own:
                    self._mistakes.append(((*path, key), f"is given twice, in lines {own[key]} and {line}; keep one"))
                own[key] = line
            self._lines[(*path, key)] = line
            value = self._plain(value_node, (*path, key))
            if value is not None:  # the API server, too, reads a null as a field left out
                data[key] = value
        return data
