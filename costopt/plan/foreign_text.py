"""Words of others (a kubelet, a registry, a user's program) made fit for a status, an event and a terminal."""

import re
import unicodedata
from collections.abc import Mapping

from costopt.schema.replica import Progress
from costopt.schema.variant_report import VariantStatus

NAME_LIMIT = 256
MESSAGE_LIMIT = 4096

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


def safe_progress(progress: Progress) -> Progress:
    """`progress` with its words made safe: whatever prints such a line to a log may have written it."""
    results = _with_safe_names(progress.results)
    passed_over = progress.checkpoints_passed_over
    words = None if passed_over is None else lines(passed_over, MESSAGE_LIMIT)
    bad = None if progress.bad_samples is None else one_line(progress.bad_samples, NAME_LIMIT) or None
    saved = None if progress.data_saved is None else one_line(progress.data_saved, NAME_LIMIT) or None
    cause = progress.restarted_for
    if cause is not None:
        cause = cause.model_copy(update={"message": lines(cause.message, MESSAGE_LIMIT)})
    safe = {
        "results": results,
        "checkpoints_passed_over": words,
        "bad_samples": bad,
        "data_saved": saved,
        "restarted_for": cause,
    }
    if all(getattr(progress, field) == value for field, value in safe.items()):
        return progress
    return progress.model_copy(update=safe)


def safe_report(report: VariantStatus) -> VariantStatus:
    """`report` with its words made safe, likewise."""
    sides = {"measured": report.measured, "baseline": report.baseline}
    safe = {
        side: measured.model_copy(update={"metrics": _with_safe_names(measured.metrics)})
        for side, measured in sides.items()
    }
    return report.model_copy(update={"artifact": one_line(report.artifact, NAME_LIMIT) or "?", **safe})


def _with_safe_names(figures: Mapping[str, str]) -> dict[str, str]:
    return {name: value for key, value in figures.items() if (name := one_line(key, NAME_LIMIT))}


def _safe(character: str) -> str:
    category = unicodedata.category(character)
    if character in _BREAKS or category == "Zs":
        return " "
    return "" if category in _UNSAFE_CATEGORIES else character


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
