"""Reads an API server's answer defensively: values of the wrong type count as absent.

An API server validates the objects that it stores, but the answer may come from another program or an older version.
"""

from datetime import datetime
from typing import Any

Plain = dict[str, Any]


def mapping(value: object) -> Plain:
    """The mapping; else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[Plain]:
    """The mappings in a list; none if it is no list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def text(value: object) -> str | None:
    """The text, if it is one and not empty."""
    return value if isinstance(value, str) and value else None


def moment(value: object) -> datetime | None:
    """The time with its zone, if it is one."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None
