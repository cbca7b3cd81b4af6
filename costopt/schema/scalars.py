"""A plain scalar of YAML -> its value, as kubectl reads it.

kubectl turns YAML into JSON (sigs.k8s.io/yaml over go.yaml.in/yaml/v2), which is neither YAML 1.1 nor 1.2: `y`, `on`
and `no` are truth values, `010`, `0o10` and `0x8` are 8, `1_000` is 1000, but `1:30`, dates and numbers too large for
a double are text. tests/schema holds what is below against that code itself.
"""

import math
import re

Scalar = str | int | float | bool | None

_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}

_INTEGERS = (
    (re.compile(r"[-+]?(?:0|[1-9][0-9]*)"), 10, 0),
    (re.compile(r"[-+]?0[0-7]+"), 8, 1),
    (re.compile(r"[-+]?0[oO][0-7]+"), 8, 2),
    (re.compile(r"[-+]?0[xX][0-9a-fA-F]+"), 16, 2),
    (re.compile(r"[-+]?0[bB][01]+"), 2, 2),
)
"""What a whole number looks like, its base, and the length of its prefix."""
_LEAST, _MOST = -(2**63), 2**64 - 1
_DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BETWEEN_DIGITS = re.compile(r"[^_]*((?<=[0-9])_(?=[0-9])[^_]*)*")
"""Where an underscore may stand in a number that begins with a point; elsewhere they may be anywhere."""
_WHOLE_BELOW = 1e21
"""From here on Go writes a number with an exponent."""


def value_of(text: str) -> Scalar:
    """What `text`, without quotes or a tag, stands for."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if text[0] == "." and _BETWEEN_DIGITS.fullmatch(text) is None:
        return text
    plain = text.replace("_", "")
    for looks, base, prefix in _INTEGERS:
        if looks.fullmatch(plain):
            sign = -1 if plain[0] == "-" else 1
            number = sign * int(plain.lstrip("+-")[prefix:], base)
            if _LEAST <= number <= _MOST and not (plain[0] == "+" and number >= 2**63):
                return number
    found = _decimal(plain)
    return text if isinstance(found, str) else found


def _decimal(text: str) -> Scalar:
    if _DECIMAL.fullmatch(text) is None:
        return text
    number = float(text)
    if math.isinf(number):
        return text  # Go's parser refuses it, and text is what is left
    return int(number) if number.is_integer() and abs(number) < _WHOLE_BELOW else number


def key_of(text: str) -> str | None:
    """What a key without quotes becomes in JSON; None: nothing, a fraction, or a number beyond 64 bits."""
    value = value_of(text)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if _LEAST <= value < 2**63 else None
    return value if isinstance(value, str) else None
