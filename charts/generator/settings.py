"""Reads values.yaml as a tree of settings: key, default, the comment above it, and what `@schema` adds."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

Plain: TypeAlias = Any  # what YAML holds: mappings, lists, text, numbers, booleans

MARK = "@schema "


@dataclass(frozen=True)
class Setting:
    """One key of values.yaml."""

    path: tuple[str, ...]
    default: Plain
    description: str
    """The comment above the key, as one paragraph."""
    schema: dict[str, Plain]
    """What the `@schema` line says; empty without one."""
    children: tuple["Setting", ...]
    """Settings below a mapping. Empty for a setting that is set as a whole."""


def read_settings(text: str) -> tuple[Setting, ...]:
    """All settings of a values.yaml. Raises ValueError for a setting without a comment."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise TypeError("values.yaml must be a mapping")
    return _settings_below(root, (), text.splitlines())


def _settings_below(node: yaml.MappingNode, above: tuple[str, ...], lines: list[str]) -> tuple[Setting, ...]:
    return tuple(_setting(key, value, above, lines) for key, value in node.value)


def _setting(key: yaml.Node, value: yaml.Node, above: tuple[str, ...], lines: list[str]) -> Setting:
    path = (*above, key.value)
    description, schema = _comment(lines, key.start_mark.line)
    default = yaml.safe_load(yaml.serialize(value))
    # A mapping with a comment of its own is set as a whole, like resources; one without only groups what is below it.
    if isinstance(value, yaml.MappingNode) and value.value and not description:
        return Setting(path, default, "", schema, _settings_below(value, path, lines))
    if not description:
        raise ValueError(f"values.yaml:{key.start_mark.line + 1}: {'.'.join(path)} needs a comment above it")
    return Setting(path, default, description, schema, ())


def _comment(lines: list[str], row: int) -> tuple[str, dict[str, Plain]]:
    """The block of comment lines that ends just above `row`, and its `@schema`."""
    first = row
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    block = [line.lstrip().removeprefix("#").strip() for line in lines[first:row]]
    schema: dict[str, Plain] = {}
    for line in block:
        if line.startswith(MARK):
            schema |= yaml.safe_load(line.removeprefix(MARK))
    return " ".join(line for line in block if not line.startswith(MARK)), schema
