"""What a transform did to one document, as a person may see it: on one line, short, and without personal data.

changed_example    two texts -> the place where they begin to differ, before and after
dropped_example    a text -> its beginning
shown              a text, fit for a terminal

Personal data is masked in all examples, whatever the transforms are: they are printed in logs and kept in files.
"""

from costopt.schema.data_report import SHOWN_CHARACTERS, Example
from costopt_trainer.data.transforms.personal_data import WORDS, masked
from costopt_trainer.data.transforms.table import Verdict

_AROUND = 400
"""Characters around a place in which personal data is looked for: more than are shown, so that none is cut in two."""
_BEFORE = 20
"""Characters shown before the place of a change."""


def changed_example(name: str, before: str, after: str) -> Example | None:
    """The first difference of two texts; None if there is none."""
    if before == after:
        return None
    place = _equal_beginning(before, after)
    start = max(0, place - _AROUND)
    mask_before, mask_after = (masked(_whole_words(text, start, place + _AROUND)) for text in (before, after))
    differ_at = _equal_beginning(mask_before, mask_after)
    head = len(masked(_whole_words(after, start, place)))
    if differ_at > head + max(map(len, WORDS.values())):
        # What was changed is personal data: it is shown as it is now.
        return Example(document=_name(name), after=shown(mask_after, head - _BEFORE))
    return Example(
        document=_name(name),
        before=shown(mask_before, differ_at - _BEFORE),
        after=shown(mask_after, differ_at - _BEFORE),
    )


def dropped_example(name: str, text: str, verdict: Verdict) -> Example:
    """The beginning of a text that was dropped, and why."""
    why = f"{verdict.reason}: {_name(verdict.like)}" if verdict.like else verdict.reason
    return Example(document=_name(name), before=shown(masked(text[:_AROUND])), why=why)


def shown(text: str, start: int = 0) -> str:
    """SHOWN_CHARACTERS of the text from `start` on; control characters, and others that cannot be printed, written out
    as `\\n`."""
    start = max(0, start)
    part = text[start : start + SHOWN_CHARACTERS]
    written = "".join(character if character.isprintable() else _written_out(character) for character in part)
    return f"{'…' if start else ''}{written}{'…' if start + SHOWN_CHARACTERS < len(text) else ''}"


def _equal_beginning(one: str, other: str) -> int:
    """How many characters are equal before the first that differ."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _name(name: str) -> str:
    return shown(name, len(name) - SHOWN_CHARACTERS)  # of a path the end tells more


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _whole_words(text: str, start: int, stop: int) -> str:
    """text[start:stop] without a word that is cut at its beginning: masking would not know it for what it is."""
    part = text[start:stop]
    if start == 0 or text[start - 1].isspace():
        return part
    return part.partition(" ")[2] or part
