"""Text that was decoded in the wrong encoding becomes what it was, by the package ftfy.

ftfy mends only what is surely wrong: sequences of characters that make sense in UTF-8 and none as they stand. It is
given each line by itself, so that what becomes of a line does not depend on others; lines of ASCII have nothing to be
mended.
"""

from typing import Any

import ftfy

from costopt.schema.transforms import FixMojibake as Settings
from costopt.schema.transforms import Transform
from costopt_trainer.data.transforms.blocks import Changer


class FixMojibake(Changer):
    """Mends mojibake, and nothing else of what ftfy can do: other transforms do that, and count it."""

    def __init__(self, settings: Transform) -> None:
        own = settings.fix_mojibake or Settings()
        self._unescape_html = own.unescape_html
        self._config = ftfy.TextFixerConfig(
            unescape_html="auto" if own.unescape_html else False,
            remove_terminal_escapes=False,
            fix_encoding=True,
            fix_latin_ligatures=False,
            fix_character_width=False,
            uncurl_quotes=False,
            fix_line_breaks=False,
            fix_surrogates=False,
            remove_control_chars=False,
            normalization=None,
            explain=False,
        )

    def fingerprint(self) -> dict[str, Any]:
        """The settings, and the version of ftfy."""
        return {"type": "FixMojibake", "ftfy": ftfy.__version__, "unescapeHtml": self._unescape_html}

    def change(self, block: str) -> str:
        """The block, line by line."""
        return "\n".join(map(self._mended, block.split("\n")))

    def _mended(self, line: str) -> str:
        """The line, until nothing more is to be mended: it may have been spoiled twice."""
        while not line.isascii() or (self._unescape_html and "&" in line):
            before, line = line, ftfy.fix_text(line, self._config)
            if line == before:
                break
        return line
