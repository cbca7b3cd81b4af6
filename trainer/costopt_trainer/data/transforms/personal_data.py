"""Addresses and numbers of people in a text: where they stand, and the same text without them.

masked      a text -> the same with a word such as [email] for each
Kind        what is looked for

A pattern finds candidates, a check tells them from other numbers: an address must be valid, a card's check digit right
(Luhn, ISO/IEC 7812-1). Patterns take a time that is linear in the text: no part of one can match in two ways.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

Kind = Literal["Email", "Phone", "IP", "Card"]

WORDS: dict[Kind, str] = {"Email": "[email]", "IP": "[ip]", "Card": "[card]", "Phone": "[phone]"}
"""What stands for each."""

ALL_KINDS: tuple[Kind, ...] = tuple(WORDS)
"""In the order in which they are looked for: what is an address is no number."""

_EMAIL = re.compile(r"(?<![\w.+-])[\w.%+-]++@(?:[\w-]++\.){1,10}[^\W\d_]{2,63}(?![\w@])")
_IP = re.compile(
    r"(?<![\w.:])(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])|[0-9A-Fa-f:]{3,39}(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3})?(?![\w:]))"
)
_CARD = re.compile(
    r"(?<![\w.-])(?:[2-6][0-9]{12,18}|[2-6][0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{1,3})?"
    r"|3[0-9]{3}([ -])[0-9]{6}\2[0-9]{5})(?![\w-])"
)
"""In one, or in groups of four as most are printed, or as American Express prints them. The first digit is that of
issuers of cards."""
_PHONE = re.compile(
    r"(?<![\w+])\+[1-9](?:[ ./-]?\(?[0-9]\)?){6,14}(?![0-9])"
    r"|(?<![\w.+-])(?<![0-9] )(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}"
    r"(?![\w-]| [0-9])"
)
"""With a country code, 7 to 15 digits (ITU-T E.164); or as the North American plan writes them, and not in the midst
of other numbers."""


def _is_address(text: str) -> bool:
    if ":" in text and (text.count(":") < 2 or not any(sign.isdigit() for sign in text)):
        return False  # such as a::b, which is C++
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def passes_luhn(number: str) -> bool:
    """Whether the last digit of `number`, whose other signs do not count, is its check digit (ISO/IEC 7812-1, B.2)."""
    digits = [int(sign) for sign in reversed(number) if sign.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


_SEARCHES: dict[Kind, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "Email": (_EMAIL, lambda _: True),
    "IP": (_IP, _is_address),
    "Card": (_CARD, passes_luhn),
    "Phone": (_PHONE, lambda _: True),
}


_CANDIDATE = re.compile(r"@|[0-9][0-9 ().:+/-]{5}|:[0-9A-Fa-f]*:")
"""In each line that has any of these: most lines need not be looked at further."""


def masked(text: str, kinds: Iterable[Kind] = ALL_KINDS) -> str:
    """The text with a word for each that was found; nothing of these kinds is found in it again."""
    kinds = tuple(kinds)
    return "\n".join(_masked(line, kinds) if _CANDIDATE.search(line) else line for line in text.split("\n"))


def _masked(line: str, kinds: Sequence[Kind]) -> str:
    while True:
        before = line
        for kind in kinds:
            pattern, is_one = _SEARCHES[kind]
            line = pattern.sub(partial(_replaced, kind, is_one), line)
        # What was replaced may have hidden what stands beside it.
        if line == before:
            return line


def _replaced(kind: Kind, is_one: Callable[[str], bool], found: re.Match[str]) -> str:
    return WORDS[kind] if is_one(found[0]) else found[0]
