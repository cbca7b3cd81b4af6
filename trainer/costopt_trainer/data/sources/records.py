"""Documents from records: each line or row is one, without a label.

All are read when they are hashed, at each start, and so found to be right before anything is built.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from costopt.schema.data import SourceSettings
from costopt_trainer.data.documents import Document, in_pieces
from costopt_trainer.data.records.reading import RecordReader
from costopt_trainer.errors import NotRetryable


class Records:
    """A source of documents."""

    def __init__(self, settings: SourceSettings, own_folder: Path | None = None, cache_dir: Path | None = None) -> None:
        """Find the files. Raises NotRetryable("InvalidData") of one sentence."""
        if settings.records is None:
            raise ValueError("data of type Records must have records settings")
        self._reader = RecordReader("data.records", settings.records, own_folder=own_folder, cache_dir=cache_dir)
        self.name = self._reader.name

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, in words."""
        return self._reader.notes

    def documents(self) -> Iterator[Document]:
        """The texts of the records, in order."""
        empty = True
        for sample in self._reader.samples():
            empty = False
            yield Document(sample.where, partial(in_pieces, sample.text), sample.file)
        if empty:
            raise NotRetryable("InvalidData", f"{self.name} must hold records with text, but has none")
