"""What was read, changed and dropped until there were tokens, kept beside them as `<key>.report.json`.

keep        written when the tokens are made
read        the same at every later start
notes_of    in lines for the log
saved_in    the same, and what selection saves, in a few words for the status
longest     the largest document
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from costopt.files import write_atomically
from costopt.hostile import read_json
from costopt.schema.data_report import DataReport
from costopt_trainer.data.documents import Content
from costopt_trainer.data.making import Made
from costopt_trainer.data.marks import TRAIN_FILE, VALIDATION_FILE
from costopt_trainer.data.tokenizing import token_type
from costopt_trainer.data.transformed import Text, Transformed

if TYPE_CHECKING:
    from costopt_trainer.data.token_cache import TokenShards

EXAMPLES_IN_THE_LOG = 2
"""Of each transform; the report has all."""


def keep(folder: Path, text: Text, ready: Transformed, tokens: Path, made: Made) -> None:
    """Write the report of the tokens that will be `folder`, and are made in `tokens`."""
    content, num_bytes = text.content, token_type(made.vocabulary_size).itemsize
    name, longest_bytes = longest(content)
    report = DataReport(
        source=printable(text.source.name),
        documents=len(content.sizes),
        bytes=sum(content.sizes),
        longest_document=name,
        longest_bytes=longest_bytes,
        transforms=list(ready.reports),
        documents_left=ready.num_documents,
        held_out_documents=ready.held_out_documents,
        vocabulary_size=made.vocabulary_size,
        train_tokens=(tokens / TRAIN_FILE).stat().st_size // num_bytes,
        validation_tokens=(tokens / VALIDATION_FILE).stat().st_size // num_bytes,
    )
    write_atomically(_path(folder), (json.dumps(report.to_plain(), indent=2) + "\n").encode())


def read(folder: Path) -> DataReport | None:
    """The report of the tokens in `folder`; None if there is none, as of tokens that an earlier version made."""
    try:
        return DataReport.model_validate(read_json(_path(folder)))
    except (OSError, ValueError):
        return None


def _path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.report.json")


def longest(content: Content) -> tuple[str, int]:
    """Name and bytes of the largest document."""
    return printable(content.longest), max(content.sizes)


def printable(name: str) -> str:
    """A name may hold bytes that are no UTF-8, which a file of JSON may not."""
    return name.encode("utf-8", "backslashreplace").decode()


_DROPPED = re.compile(r"((?:[\w-]+: )?\w+) changed [0-9,]+ of ([0-9,]+) documents, dropped ([0-9,]+)")
_SELECTED = re.compile(r"selection keeps .*: an epoch takes [0-9,]+ steps in place of ([0-9,]+), ([0-9,]+) fewer;")


def saved_in(notes: Iterable[str], limit: int) -> str | None:
    """How many documents transforms have dropped, and how many steps of an epoch selection saves, as the notes of
    the data have it, in at most `limit` characters. None: neither."""
    found = []
    for note in notes:
        if dropped := _DROPPED.match(note):
            found.append(f"{dropped[1]} dropped {dropped[3]} of {dropped[2]} documents")
        elif selected := _SELECTED.match(note):
            found.append(f"selection saves {selected[2]} of {selected[1]} steps of an epoch")
    told = "; ".join(found)
    return (told if len(told) <= limit else f"{told[: limit - 3]}...") or None


def notes_of(shards: "TokenShards") -> tuple[str, ...]:
    """Log lines: what each transform did, how many documents are held out, and the first examples of each transform."""
    lines = [report.told() for report in shards.reports]
    whole = shards.report
    if whole is not None and whole.held_out_documents is not None and any(each.dropped for each in shards.reports):
        share = 100 * whole.validation_tokens / (whole.train_tokens + whole.validation_tokens)
        held_out = f"{whole.held_out_documents:,} of {whole.documents_left:,} documents are held out"
        lines.append(f"{held_out}, {share:.1f} % of the tokens")
    lines += [
        example.told(report.type) for report in shards.reports for example in report.examples[:EXAMPLES_IN_THE_LOG]
    ]
    return tuple(lines)
