"""What a source of data is, and the table of them.

A row is called with the settings of `recipe.data` and the job's own storage, and gives a source of documents (which
become samples by transforms and a tokenizer), each with a class or without, or of samples. It finds and checks its
files, so that a mistake ends the job before anything is built. Every error is the user's to mend:
NotRetryable("InvalidData") of one sentence.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from costopt.schema.data import DataSettings
from costopt_trainer.data.documents import Document
from costopt_trainer.data.training_data import TrainingData
from costopt_trainer.tables import row


class DocumentSource(Protocol):
    """Documents. Its fingerprint is that of what it gives: all of it is read and hashed at each start."""

    @property
    def name(self) -> str:
        """How errors call it: the setting and its value."""

    def documents(self) -> Iterator[Document]:
        """All documents, the same in the same order at every call. One document is in memory in part only."""


@runtime_checkable
class LabelledSource(DocumentSource, Protocol):
    """Documents of which each has a class. Those that are held out come behind all others; none has a byte 0."""

    class_names: tuple[str, ...]
    """The label of each class; at least 2."""

    def is_held_out(self, name: str) -> bool:
        """Whether the document of that name is for evaluation."""

    def class_of(self, name: str) -> int:
        """The class of the document of that name, in [0, number of classes)."""


@runtime_checkable
class SampleSource(Protocol):
    """Samples that are ready as they come."""

    def samples(self) -> TrainingData:
        """The samples, split; their fingerprint is a hash of the content and of the settings that shape them."""


SOURCES: dict[str, str] = {
    "Text": "costopt_trainer.data.sources.text_files:text_files",
    "PythonStandardLibrary": "costopt_trainer.data.sources.standard_library:standard_library",
    "LabelledText": "costopt_trainer.data.sources.labelled_text:LabelledText",
    "Images": "costopt_trainer.data.sources.image_file:ImageFile",
    "Table": "costopt_trainer.data.sources.table_file:TableFile",
}
"""`recipe.data.type` -> a callable (settings, own_folder) -> DocumentSource, LabelledSource or SampleSource."""


def open_source(settings: DataSettings, own_folder: Path | None = None) -> DocumentSource | SampleSource:
    """The source that `settings.type` names. `own_folder` is the job's storage: what it writes there is no data.

    Raises NotRetryable("InvalidData") if what the source reads is missing, unreadable or not what it must be.
    """
    source: DocumentSource | SampleSource = row(SOURCES, settings.type)(settings, own_folder)
    return source
