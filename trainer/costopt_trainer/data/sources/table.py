"""What a source of data is, and the table of them.

A row is called with the settings of `recipe.data`, the job's own storage and a folder for copies, and gives a source of
documents (which become samples by transforms and a tokenizer), each with a class or without, of tokens, or of samples.
It finds and checks its files, so that a mistake ends the job before anything is built. Every error is the user's to
mend: NotRetryable("InvalidData") of one sentence; but for a place that cannot be reached just now.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from costopt.schema.data import SourceSettings
from costopt.schema.data_report import SamplesReport
from costopt_trainer.data.documents import Document
from costopt_trainer.data.training_data import TrainingData
from costopt_trainer.data.windows import Shards
from costopt_trainer.tables import row

if TYPE_CHECKING:
    from costopt_trainer.data.sources.mixture import Part


class DocumentSource(Protocol):
    """Documents. Its fingerprint is that of what it gives: all of it is read and hashed at each start."""

    @property
    def name(self) -> str:
        """How errors call it: the setting and its value."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the log about what was left out, once all was read."""

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
class TokenSource(Protocol):
    """Tokens that are ready as they come."""

    name: str
    """How errors call it: the setting and its value."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the log, once the tokens were read."""

    def token_shards(self) -> Shards:
        """The tokens, split."""

    def report(self, *, sample: bool) -> SamplesReport:
        """What is there; of a `sample` only the beginning is read."""


@runtime_checkable
class SampleSource(Protocol):
    """Samples that are ready as they come."""

    def samples(self) -> TrainingData:
        """The samples, split; their fingerprint is a hash of the content and of the settings that shape them."""

    def report(self, *, sample: bool) -> SamplesReport:
        """What is there; of a `sample` only the beginning is read, and nothing is written."""


@runtime_checkable
class MixedSource(Protocol):
    """Several sources of documents or tokens."""

    parts: tuple["Part", ...]
    """Each with a name of its own."""


SOURCES: dict[str, str] = {
    "Text": "costopt_trainer.data.sources.text_files:text_files",
    "PythonStandardLibrary": "costopt_trainer.data.sources.standard_library:standard_library",
    "Records": "costopt_trainer.data.sources.records:Records",
    "LabelledText": "costopt_trainer.data.sources.labelled_text:LabelledText",
    "TokenShards": "costopt_trainer.data.sources.token_files:TokenFiles",
    "Mixture": "costopt_trainer.data.sources.mixture:Mixture",
    "Images": "costopt_trainer.data.sources.image_file:ImageFile",
    "ImageFolder": "costopt_trainer.data.sources.image_folder:ImageFolder",
    "Table": "costopt_trainer.data.sources.table_file:TableFile",
}
"""`recipe.data.type` -> a callable (settings, own_folder, cache_dir) -> DocumentSource, LabelledSource,
TokenSource, MixedSource or SampleSource."""


def open_source(
    settings: SourceSettings, own_folder: Path | None = None, cache_dir: Path | None = None
) -> DocumentSource | TokenSource | MixedSource | SampleSource:
    """The source that `settings.type` names. `own_folder` is the job's storage: what it writes there is no data. What
    lies behind a URL is copied below `cache_dir`.

    Raises NotRetryable("InvalidData") if what the source reads is missing, unreadable or not what it must be.
    """
    source: DocumentSource | TokenSource | MixedSource | SampleSource = row(SOURCES, settings.type)(
        settings, own_folder, cache_dir
    )
    return source
