"""All records of a source as texts, with labels or without, and what becomes of bad ones.

Sample         a record that can be used
RecordReader   settings -> samples, the same at every call
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from costopt.hostile import MAX_JSON_BYTES, Hostile, parse_json
from costopt.schema.records import RecordFiles
from costopt_trainer.data.files.found import DataFile, find_files
from costopt_trainer.data.files.places import told
from costopt_trainer.data.records.fields import BadSample, Label, TextOf, label_of, require
from costopt_trainer.data.records.table import ENDINGS, Bad, format_of, rows_of
from costopt_trainer.data.skipping import Skipping
from costopt_trainer.errors import NotRetryable, quoted

STATE_FILE = "state.json"
"""Of the library datasets: which files of a folder are its data. Others there are what it has put by."""
SPLITS_FILE = "dataset_dict.json"
"""Of the library datasets: which folders beside it are the splits."""


@dataclass(frozen=True)
class Sample:
    """A record that can be used."""

    where: str
    """Where it stands, such as `a.jsonl, line 7`."""
    file: str
    """The file it is of."""
    text: bytes
    """UTF-8."""
    label: Label | None


class RecordReader:
    """Reads the records that settings describe, as often as need be."""

    def __init__(
        self,
        setting: str,
        settings: RecordFiles,
        *,
        label_field: str | None = None,
        labels: list[str] | None = None,
        own_folder: Path | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        """Find the files. `setting` is what the settings stand under, such as `data.records`.

        With a `label_field` each sample has a label, of `labels` if these are given, a text that is not blank, and no
        U+0000 in it. Raises NotRetryable("InvalidData").
        """
        self._setting, self._settings, self._labels = setting, settings, None if labels is None else frozenset(labels)
        self._text_of, self._label_field = TextOf(settings, setting), label_field
        field, places = settings.places
        self.name = told(f"{setting}.{field}", places)
        found = find_files(f"{setting}.{field}", places, self._wanted, own_folder=own_folder, cache_dir=cache_dir)
        self._files = [(file, self._format_of(file)) for file in _of_saved_datasets(found, self.name)]
        if not self._files:
            ends = ", ".join(end for word in self._formats() for end in ENDINGS[word])
            raise NotRetryable("InvalidData", f"{self.name} must hold files that end in {ends}, but has none")
        self.notes: tuple[str, ...] = ()
        """What was left out when all was read last."""

    def samples(self) -> Iterator[Sample]:
        """All samples. Raises NotRetryable("InvalidData") at a bad one, or behind the last if too many are bad."""
        skipping = Skipping(self._settings, self.name)
        blank = 0
        for item in self._items():
            if isinstance(item, Bad):
                skipping.bad(item.sentence)
                continue
            if not item.text.strip():
                blank += 1
                continue
            skipping.good()
            yield item
        skipping.end()
        passed_over = (f"{blank:,} records without text were passed over",) if blank else ()
        self.notes = (*skipping.notes, *passed_over)

    def _items(self) -> Iterator[Sample | Bad]:
        fields = (*self._text_of.fields, *(() if self._label_field is None else (self._label_field,)))
        choices = self._text_of.choices()
        for file, word in self._files:
            rows = rows_of(file, word, tuple(dict.fromkeys(fields)), self._settings.delimiter)
            count = 0
            for row in rows if file.num_bytes else ():
                count += 1
                choice = next(choices)
                if isinstance(row, Bad):
                    yield row
                    continue
                try:
                    yield self._sample(row.values, row.where, file, choice)
                except BadSample as error:
                    yield Bad(f"{row.where} {error}")
            if not count:
                what = "none" if file.num_bytes else "0 bytes"
                yield Bad(f"{file.name} must hold records, but has {what}")

    def _sample(self, values: Any, where: str, file: DataFile, choice: int) -> Sample:
        place = where.rstrip(",")
        if self._label_field is None:
            return Sample(place, file.name, self._text_of(values, choice), None)
        both = (*self._text_of.fields, self._label_field)
        require(values, both, f"{self._text_of.setting} and labelField", self._setting)
        text = self._text_of(values, choice)
        if not text.strip():
            raise BadSample(f"must have a text in {self._text_of.fields[0]!r}, but it is {quoted(text.decode())}")
        if b"\0" in text:
            raise BadSample(f"must have a text without the character U+0000 in {self._text_of.fields[0]!r}")
        label = label_of(values, self._label_field, self._labels)
        if self._labels is not None and str(label) not in self._labels:
            raise BadSample(f"must have one of {self._setting}.labels in {self._label_field!r}, not {quoted(label)}")
        return Sample(place, file.name, text, label)

    def _formats(self) -> list[str]:
        return list(ENDINGS) if self._settings.format == "Auto" else [self._settings.format]

    def _wanted(self, name: str) -> bool:
        formats = self._formats()
        if "Arrow" in formats and name in (STATE_FILE, SPLITS_FILE):
            return True
        # What ends in .json is mostly about data, and no data.
        ends = tuple(end for word in formats for end in ENDINGS[word] if end != ".json" or len(formats) == 1)
        return name.lower().endswith(ends) and not name.startswith(".")

    def _format_of(self, file: DataFile) -> str:
        word = format_of(file.base) if self._settings.format == "Auto" else self._settings.format
        if word is None:
            ends = ", ".join(end for ends in ENDINGS.values() for end in ends)
            raise NotRetryable(
                "InvalidData", f"{file.name} must end in one of {ends}, or {self._setting}.format must say what it is"
            )
        return word


def _of_saved_datasets(files: list[DataFile], name: str) -> list[DataFile]:
    """The files without those beside a saved dataset's that are not its data, and without what tells which are."""
    named: dict[str, set[str]] = {}
    for file in files:
        if file.base == SPLITS_FILE:
            splits = _json_in(file).get("splits")
            such = f", such as {file.folder}/{splits[0]}" if isinstance(splits, list) and splits else ""
            raise NotRetryable(
                "InvalidData", f"{name} must be one split of a dataset, but {file.folder} holds several: name one{such}"
            )
        if file.base == STATE_FILE:
            listed = _json_in(file).get("_data_files")
            if not isinstance(listed, list) or not all(isinstance(one, dict) and "filename" in one for one in listed):
                continue
            named[file.folder] = {str(one["filename"]) for one in listed}
            there = {other.name.rpartition("/")[2] for other in files if other.folder == file.folder}
            if missing := sorted(named[file.folder] - there):
                raise NotRetryable(
                    "InvalidData",
                    f"{file.folder} must hold all files that its {STATE_FILE} names, but lacks {missing[0]}",
                )
    return [
        file
        for file in files
        if file.base != STATE_FILE and (file.folder not in named or file.name.rpartition("/")[2] in named[file.folder])
    ]


def _json_in(file: DataFile) -> dict[str, Any]:
    with file.opened() as stream:
        content = stream.read(MAX_JSON_BYTES + 1)
    try:
        data = parse_json(content)
    except Hostile:  # a file of that name that is not the library's
        return {}
    return data if isinstance(data, dict) else {}
