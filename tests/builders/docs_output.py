"""Whether a program prints what a page shows, up to names and numbers.

A page was written on one day on one machine. So figures, times, ages, hashes, column widths and names that the cluster
chooses are ignored; words, their order, the number of lines and digits within a name (`int8`, `train-a0-1`) or a
version (`0.1.0`) must match. A line `...` stands for any lines, or none; ` ...` at the end of a line for the rest of
it. Empty lines and lines with only table rules are layout. What the client library of kubectl and helm logs for its
developers (`I1201 12:00:00.000000 ...`) is not theirs: a watch may end with an error or without.
"""

import difflib
import re

ELLIPSIS = "..."

_NORMALISED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4}"), "<time>"),  # helm's
    (re.compile(r"\d{4}-\d\d-\d\d"), "<date>"),
    (re.compile(r"\bsha256:[0-9a-f]{64}\b"), "<hash>"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<hash>"),
    (re.compile(r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,64}\b"), "<hash>"),
    (re.compile(r"/tmp/[^\s'\",;:)]+"), "<folder>"),
    (re.compile(r"(-a\d+-\d+)-[a-z0-9]{5}\b"), r"\1-<pod>"),
    (re.compile(r"(deployment|replicaset|pod)/([a-z-]+)-[a-f0-9]{8,10}(-[a-z0-9]{5})?\b"), r"\1/\2-<pod>"),
    (re.compile(r"(?<![\w.:-])\d{1,3}(\.\d{1,3}){3}(:\d+)?(?![\w.])"), "<address>"),
    # Ages as kubectl and costopt write them, before plain figures.
    (re.compile(r"(?<![\w.-])(\d+[dhms]){1,3}(?![\w.])"), "#"),
    (re.compile(r"(?<![\w.-])\d+(:\d\d){1,2}(?![\w.])"), "#"),
    (re.compile(r"(?<![\w.,-])[+-]?\d+(,\d{3})*(\.\d+)? (B|KiB|MiB|GiB)(?!\w)"), "# bytes"),
    # A figure is not part of a name or version; a percent sign or the x of a ratio must match.
    (re.compile(r"(?<![\w.-])(?<!\w:)[+-]?\d+(,\d{3})*(\.\d+)?([eE][+-]?\d+)?(?=x?(?![\w]|\.\d|-\w))"), "#"),
)

_RULE = re.compile(r"[─━-]{3,}")
_LOGGED = re.compile(r"I\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+\.go:\d+\] ")


def normalised(line: str) -> str:
    """A line without the parts that differ between runs."""
    line = _RULE.sub("─", line)
    for pattern, instead in _NORMALISED:
        line = pattern.sub(instead, line)
    return " ".join(line.split())


def _lines(text: str) -> list[str]:
    lines = (normalised(line) for line in text.splitlines() if not _LOGGED.match(line))
    return [line for line in lines if line]


def _alike(shown: str, printed: str) -> bool:
    if shown.endswith(f" {ELLIPSIS}"):
        return printed.startswith(shown.removesuffix(ELLIPSIS).rstrip())
    return shown == printed


def matches(shown: str, printed: str) -> bool:
    """Whether the output equals the shown one, up to names and numbers."""
    want, have = _lines(shown), _lines(printed)
    reached = {0}  # numbers of printed lines that the shown lines so far can match
    for line in want:
        if line == ELLIPSIS:
            reached = set(range(min(reached), len(have) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(have) and _alike(line, have[at])}
        if not reached:
            return False
    return len(have) in reached


def difference(shown: str, printed: str) -> str:
    """Empty if they match, else what differs, for the message of a failing test."""
    if matches(shown, printed):
        return ""
    lines = difflib.unified_diff(_lines(shown), _lines(printed), "shown in the page", "printed", lineterm="", n=2)
    return "\n".join(lines)
