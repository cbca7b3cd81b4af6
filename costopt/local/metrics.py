"""metrics.jsonl of a run folder: one line of progress for each step that was reported."""

from pathlib import Path

from costopt.hostile import Hostile, parse_json, read_file
from costopt.schema.replica import Progress, progress_in_log

MAX_BYTES = 2**26
"""64 MiB: some hundred thousand steps."""
_LONGEST_LINE = 2**16


def read_metrics(path: Path) -> list[Progress]:
    """The progress of each line, in order; lines that are none are passed over. Empty if there is no such file, or it
    is no plain file, or too large."""
    try:
        lines = read_file(path, max_bytes=MAX_BYTES).splitlines()
    except (OSError, Hostile):
        return []
    return [progress for line in lines if (progress := _progress(line)) is not None]


def _progress(line: bytes) -> Progress | None:
    try:
        parse_json(line, max_bytes=_LONGEST_LINE)
        return progress_in_log([line.decode()])
    except ValueError:
        return None
