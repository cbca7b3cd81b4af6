"""Words of others (a kubelet, a registry, a user's program) made fit for a status, an event and a terminal."""

import re
import unicodedata

_BREAKS = frozenset("\n\r\t\v\f\x1c\x1d\x1e\x85\u2028\u2029")
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Control, format (such as reversed writing), surrogate, private and unassigned characters."""
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


def one_line(text: str, limit: int) -> str:
    """`text` as one line of at most `limit` visible characters, cut with a mark where it is longer."""
    # Twice as much is looked at, so that what is dropped does not cost what fits.
    shown = "".join(map(_safe, _ESCAPE_SEQUENCE.sub("", text[: 2 * limit + 200])))
    return _cut(" ".join(shown.split()), limit)


def lines(text: str, limit: int) -> str:
    """`text` with its line breaks kept, and otherwise as in `one_line`."""
    plain = _ESCAPE_SEQUENCE.sub("", text[: 2 * limit + 200]).replace("\r\n", "\n")
    return _cut("".join(character if character == "\n" else _safe(character) for character in plain), limit)


def _safe(character: str) -> str:
    category = unicodedata.category(character)
    if character in _BREAKS or category == "Zs":
        return " "
    return "" if category in _UNSAFE_CATEGORIES else character


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
