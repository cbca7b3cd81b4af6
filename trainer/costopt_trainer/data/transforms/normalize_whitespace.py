"""Line ends, blanks at the end of lines, and blank lines.

White space at the end of a block is held back until it is known what follows, for it may end a line or the document.
"""

import re
from collections.abc import Callable
from typing import Any

from costopt.schema.transforms import NormalizeWhitespace as Settings
from costopt.schema.transforms import Transform
from costopt_trainer.data.transforms.blocks import BLOCK_BYTES, Changer

VERSION = 1

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
"""What other systems, and Unicode, end a line with (Unicode Standard, section 5.8)."""
_BLANKS = re.compile(r"[^\S\n]+")
"""White space that ends no line: tabs and blanks of any width."""
_TRAILING = re.compile(r"(?<![^\S\n])[^\S\n]++(?=\n)")


class NormalizeWhitespace(Changer):
    """Brings white space into one form. A document that has any ends with one line feed, if it ended with one."""

    def __init__(self, settings: Transform) -> None:
        own = settings.normalize_whitespace or Settings()
        self._collapse, self._max_blank_lines = own.blanks == "Collapse", own.max_blank_lines
        self._too_many = re.compile(rf"\n{{{self._max_blank_lines + 2},}}")

    def fingerprint(self) -> dict[str, Any]:
        """The settings."""
        return {
            "type": "NormalizeWhitespace",
            "version": VERSION,
            "collapse": self._collapse,
            "maxBlankLines": self._max_blank_lines,
        }

    def start(self) -> Callable[[str, bool], str]:
        """Holds back white space at the end of a block, up to as much as a block."""
        held, begun = "", False

        def change(block: str, is_last: bool) -> str:
            nonlocal held, begun
            text = held + block
            seen, end = text.rstrip(), ""
            held = _LINE_ENDS.sub("\n", text[len(seen) :]) if is_last else text[len(seen) :]
            if len(held) > BLOCK_BYTES:
                held = self._normalized(held, begun=True)[-BLOCK_BYTES:]
            seen = self._normalized(seen, begun=begun)
            begun = begun or bool(seen)
            if is_last and begun and "\n" in held:
                end = "\n"
            return seen + end

        return change

    def _normalized(self, text: str, *, begun: bool) -> str:
        """`begun`: something of the document stands before it, so that what it begins with may be within a line."""
        text = _TRAILING.sub("", _LINE_ENDS.sub("\n", text))
        if not begun:
            first_sign = len(text) - len(text.lstrip())
            text = text[text.rfind("\n", 0, first_sign) + 1 :]
        if self._collapse:

            def collapsed(found: re.Match[str]) -> str:
                begins = text[found.start() - 1] == "\n" if found.start() else not begun
                return "" if begins else " "

            text = _BLANKS.sub(collapsed, text)
        return self._too_many.sub("\n" * (self._max_blank_lines + 1), text)
