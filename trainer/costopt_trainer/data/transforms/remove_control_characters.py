"""Characters that nobody sees are removed.

What is removed is Unicode's category Cc but tab, line feed, carriage return and form feed; the escape sequences of
terminals (ECMA-48, section 5.4), of which else the visible part would stay; and from category Cf byte-order marks,
zero-width spaces, soft hyphens, invisible operators, and marks of direction. Joiners stay: Persian and emoji need them.
"""

import re
from typing import Any

from costopt.schema.transforms import RemoveControlCharacters as Settings
from costopt.schema.transforms import Transform
from costopt_trainer.data.transforms.blocks import Changer

VERSION = 1
"""Raise it if other characters are removed."""

_ESCAPES = r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[@-Z\\^_]"
_CONTROLS = "\x00-\x08\x0b\x0e-\x1f\x7f-\x9f"
_INVISIBLE = "\u00ad\u200b\u2060-\u2064\ufeff\ufff9-\ufffb"
_DIRECTION = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"


class RemoveControlCharacters(Changer):
    """Removes what is not seen."""

    def __init__(self, settings: Transform) -> None:
        self._keep_direction = (settings.remove_control_characters or Settings()).keep_direction
        removed = _CONTROLS + _INVISIBLE + ("" if self._keep_direction else _DIRECTION)
        self._removed = re.compile(f"{_ESCAPES}|[{removed}]")

    def fingerprint(self) -> dict[str, Any]:
        """What is removed."""
        return {"type": "RemoveControlCharacters", "version": VERSION, "keepDirection": self._keep_direction}

    def change(self, block: str) -> str:
        """The block without them."""
        return self._removed.sub("", block)
