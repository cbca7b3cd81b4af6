"""What a reader of records is, and the table of them.

Record          named values, and where they stand
ClassNumber     a value that is the number of a class; ClassNames: the names of all classes
Bad             what stands in the place of a record that cannot be read
format_of       a file's name -> the word of its format
rows_of         a file -> its records
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from costopt_trainer.data.files.found import DataFile
from costopt_trainer.tables import row


@dataclass(frozen=True)
class Record:
    """A record of a file."""

    where: str
    """Where it stands, such as `a.jsonl, line 7,`: the beginning of a sentence."""
    values: Mapping[str, Any]
    """By the name of the field; of a file of columns only those that were asked for."""


@dataclass(frozen=True, eq=False)
class ClassNames:
    """The names of the classes of a column, by number. One object for all of its values."""

    names: tuple[str, ...]


class ClassNumber(int):
    """The number of a class, which knows the names of all."""

    names: ClassNames

    def __new__(cls, number: int, names: ClassNames) -> Self:
        """The number `number`, which may be beyond the names: -1 stands for no class."""
        made = super().__new__(cls, number)
        made.names = names
        return made

    @property
    def name(self) -> str | None:
        """Its name, if it has one."""
        return self.names.names[self] if 0 <= self < len(self.names.names) else None


@dataclass(frozen=True)
class Bad:
    """What stands where a record should."""

    sentence: str
    """Where it is, and what would be right there."""


class Reader(Protocol):
    """A callable that reads the records of one file, in order. One record, or a few of a file of columns, is in memory.

    Raises NotRetryable("InvalidData") for a file that cannot be read to its end, or lacks a field as a whole.
    """

    def __call__(self, file: DataFile, fields: Sequence[str], delimiter: str | None) -> Iterator[Record | Bad]:
        """`fields` are those that will be asked for; `delimiter` stands between two columns of CSV."""


READERS: dict[str, str] = {
    "JSONLines": "costopt_trainer.data.records.lines:json_lines",
    "CSV": "costopt_trainer.data.records.lines:comma_separated",
    "TSV": "costopt_trainer.data.records.lines:tab_separated",
    "Parquet": "costopt_trainer.data.records.columns:parquet",
    "Arrow": "costopt_trainer.data.records.columns:arrow",
}
"""`format` -> a Reader."""

ENDINGS: dict[str, tuple[str, ...]] = {
    "JSONLines": (".jsonl", ".ndjson", ".json"),
    "CSV": (".csv",),
    "TSV": (".tsv",),
    "Parquet": (".parquet",),
    "Arrow": (".arrow", ".feather"),
}
"""`format` -> how the names of its files end."""


def format_of(base: str) -> str | None:
    """The format of a file of that name, without what says that it is packed; None if the name does not tell."""
    return next((word for word, ends in ENDINGS.items() if base.lower().endswith(ends)), None)


def rows_of(file: DataFile, word: str, fields: Sequence[str], delimiter: str | None) -> Iterator[Record | Bad]:
    """The records of a file of that format."""
    reader: Reader = row(READERS, word)
    return reader(file, fields, delimiter)
