"""Records in files of lines: JSON Lines, CSV and TSV.

json_lines, comma_separated, tab_separated     readers

Lines are read one by one, with a bound, by Python's own `json` and `csv`: a mistake is then told with its line, and
nothing need be installed. Arrow's readers give no line for a broken one, and guess types from a part of the file.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from costopt.hostile import Hostile, parse_json
from costopt_trainer.data.files.found import DataFile
from costopt_trainer.data.files.packed import kind_of
from costopt_trainer.data.records.table import Bad, Record
from costopt_trainer.errors import NotRetryable, quoted

MAX_RECORD_BYTES = 2**24
"""16 MiB: longer than most books. Parsed, JSON is at most 40 times larger."""
_UTF_8_MARK = b"\xef\xbb\xbf"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = {",": "a comma", ";": "';'", "\t": "a tab", "|": "'|'"}


def json_lines(file: DataFile, _fields: Sequence[str], _delimiter: str | None) -> Iterator[Record | Bad]:
    """One object a line; blank lines are passed over."""
    for number, line in _lines(file):
        where = f"{file.name}, line {number},"
        if not line.strip():
            continue
        if len(line) > MAX_RECORD_BYTES:
            yield Bad(f"{where} must have at most {MAX_RECORD_BYTES} bytes")
            continue
        try:
            values = parse_json(line, max_bytes=MAX_RECORD_BYTES)
        except Hostile as error:
            yield Bad(f"{where} {error} in UTF-8, one object a line")
            continue
        yield Record(where, values) if isinstance(values, dict) else Bad(f"{where} must be a JSON object, one a line")


def comma_separated(file: DataFile, fields: Sequence[str], delimiter: str | None) -> Iterator[Record | Bad]:
    """CSV (RFC 4180) whose first line names the columns; all values are text."""
    rows = _rows(file, delimiter or ",")
    _, header = next(rows, ("", None))
    if header is None:
        return
    if isinstance(header, Bad):
        raise _invalid(file.name, f"must begin with a line of names, but {header.sentence}")
    if missing := [field for field in fields if field not in header]:
        raise _invalid(
            file.name, f"{_needs(missing)}, but its first line names {_told(header)}{_other(header, fields)}"
        )
    if twice := [field for field in fields if header.count(field) > 1]:
        raise _invalid(file.name, f"must have one column {twice[0]!r}, but its first line has {header.count(twice[0])}")
    for where, row in rows:
        if isinstance(row, Bad):
            yield row
        elif len(row) != len(header):
            yield Bad(f"{where} must have {len(header)} columns, as the first line has, but has {len(row)}")
        else:
            yield Record(where, dict(zip(header, row, strict=True)))


def tab_separated(file: DataFile, fields: Sequence[str], _delimiter: str | None) -> Iterator[Record | Bad]:
    """The same with tabs."""
    return comma_separated(file, fields, "\t")


def _rows(file: DataFile, delimiter: str) -> Iterator[tuple[str, Any]]:
    """Where each row begins, and its values or what is wrong. Rows may have several lines; blank ones are left out."""
    csv.field_size_limit(MAX_RECORD_BYTES)  # of the process: it has no other
    with (
        file.opened() as stream,
        # What is not UTF-8 becomes halves of surrogate pairs, which no text may have: only its own record is bad.
        io.TextIOWrapper(
            io.BufferedReader(_Bounded(stream, file.name)), "utf-8", "surrogateescape", newline=""
        ) as text,
    ):
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        while True:
            where = f"{file.name}, line {reader.line_num + 1},"
            row: list[str] | Bad
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                sentence = f"{where} must be CSV as RFC 4180 has it, but is not: {_plain(error)}"
                if _is_open(error):  # the rest of the file is in that value, and nobody knows how many records that is
                    raise NotRetryable("InvalidData", sentence) from error
                row = Bad(sentence)
            if row:
                yield where, row


class _Bounded(io.RawIOBase):
    """A stream of lines that are not too long, without a mark of UTF-8."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self._name = stream, name
        self._lines = self._since = 0
        self._begun = False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises NotRetryable("InvalidData") at a line that is too long."""
        block = self._stream.read(len(buffer))
        if not self._begun:
            self._begun = True
            block = _without_mark(block, self._name) or self._stream.read(len(buffer))
        last = block.rfind(b"\n")
        self._lines += block.count(b"\n")
        self._since = len(block) - last - 1 if last >= 0 else self._since + len(block)
        if self._since > MAX_RECORD_BYTES:
            what = f"{self._name}, line {self._lines + 1},"
            raise _invalid(what, f"must have at most {MAX_RECORD_BYTES} bytes")
        buffer[: len(block)] = block
        return len(block)


def _lines(file: DataFile) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers, without a mark of UTF-8. One that is too long is given in part, a byte too long."""
    with file.opened() as stream:
        number = 0
        while line := stream.readline(MAX_RECORD_BYTES + 1):
            number += 1
            if number == 1:
                line = _without_mark(line, file.name)
            yield number, line
            while len(line) > MAX_RECORD_BYTES and not line.endswith(b"\n"):  # the rest of it
                line = stream.readline(MAX_RECORD_BYTES + 1)


def _without_mark(beginning: bytes, name: str) -> bytes:
    """The beginning of a file without a mark of UTF-8."""
    if beginning.startswith(_UTF_16_MARKS):
        raise _invalid(name, "must be UTF-8, but begins with the mark of UTF-16: save it as UTF-8")
    if (kind := kind_of(beginning)) is not None:
        raise _invalid(name, f"must be lines of text, but is {kind}: set format, or name another file")
    return beginning.removeprefix(_UTF_8_MARK)


def _needs(missing: Sequence[str]) -> str:
    return f"must have the column{'s' if len(missing) > 1 else ''} {' and '.join(map(quoted, missing))}"


def _told(header: Sequence[str]) -> str:
    """The names of the columns, shortened."""
    return ", ".join(map(quoted, header[:10])) + (f" and {len(header) - 10} more" if len(header) > 10 else "")


def _other(header: Sequence[str], fields: Sequence[str]) -> str:
    """What else seems to stand between columns."""
    for sign, told in _DELIMITERS.items():
        if len(header) == 1 and set(fields) <= {name.strip('" ') for name in header[0].split(sign)}:
            return f": its columns seem to be divided by {told}; set format and delimiter"
    return ""


def _is_open(error: csv.Error) -> bool:
    return "end of data" in str(error) or "field larger" in str(error)


def _plain(error: csv.Error) -> str:
    return "a quoted value is not closed" if _is_open(error) else str(error)


def _invalid(what: str, demand: str) -> NotRetryable:
    return NotRetryable("InvalidData", f"{what} {demand}")
