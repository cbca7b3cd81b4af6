"""Samples to train and evaluate on: from the user's settings to batches of tensors.

load_data       settings -> TrainingData
training_data   samples by number, in batches
sources/        where data comes from: documents, or samples
files/          files of this machine and behind URLs, packed or not
records/        files of lines or rows with named fields
skipping        what becomes of samples that cannot be used
counted         ready-made samples in figures
transforms/     documents -> documents
tokenizers/     documents -> tokens
augmentations/  training samples -> others, on the fly
documents       documents as one stream of text
transformed     a text after its transforms, until there are tokens
mixture         several texts as one; joint_tokenizer: what they are read with; same_texts: what they may not share
beside          what one of them trains on is compared with what the others hold out
reports         what was read, changed and dropped, in figures and examples
token_cache     tokens on disk, memory-mapped by every rank
pixels          images on disk, decoded once and memory-mapped
windows         tokens of a text as samples; masking: which of them are hidden
labelled        tokens of labelled documents as samples
making          makes tokens once: tokenizing, of shares of the text; gathering them; marks: how far they are
evicting        what of earlier data goes from the cache
made_once       what one process makes in the cache for all of them; locks: how the others wait
listing         the files of a text, to name differences from another
storages        what jobs write, which is never data
entropy         the reference for a validation loss
sampler         which sample comes at which position
lanes           the same where each sample goes on from the one before it
selection/      which training samples are kept
orders/         the order in which these come
prefetch        prepares the samples of the next step on a thread
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from costopt.schema.data import DataSettings, SourceSettings
from costopt.schema.data_kinds import MASKED_TEXT, TEXT
from costopt.schema.packing import Packing
from costopt_trainer.data.augmentations.table import augmented
from costopt_trainer.data.documents import Content
from costopt_trainer.data.evicting import evict
from costopt_trainer.data.labelled import labelled_documents
from costopt_trainer.data.mixture import mixed_data
from costopt_trainer.data.reports import notes_of
from costopt_trainer.data.sampler import sample_indices
from costopt_trainer.data.sources.mixture import Part
from costopt_trainer.data.sources.table import (
    DocumentSource,
    LabelledSource,
    MixedSource,
    SampleSource,
    TokenSource,
    open_source,
)
from costopt_trainer.data.token_cache import open_shards
from costopt_trainer.data.tokenizers.table import TokenizerKind, tokenizer_kind
from costopt_trainer.data.training_data import Batch, TrainingData
from costopt_trainer.data.transformed import Text
from costopt_trainer.data.transforms.table import Transform, transforms_of
from costopt_trainer.data.windows import Shards, masked_tokens, next_tokens
from costopt_trainer.phases import phase

__all__ = ["Batch", "TrainingData", "load_data", "sample_indices"]


def load_data(
    settings: SourceSettings,
    *,
    context_length: int | None,
    cache_dir: Path,
    own_folder: Path | None = None,
    reads: str = TEXT,
    model_tokenizer: Path | None = None,
) -> TrainingData:
    """The samples that `settings` describe. Text needs `context_length` and keeps its tokens below `cache_dir`.

    `reads` is the kind of samples that the model reads (see schema/data_kinds.py): of a text MASKED_TEXT hides tokens.
    `own_folder` is the job's storage: what it writes there is not taken for data. `model_tokenizer` is the folder of
    the tokenizer that the model brings.

    Raises NotRetryable("InvalidData"), with a sentence about the remedy, for anything wrong with the user's data;
    ValueError for text without a context length. NotRetryable("InvalidSettings") for settings that do not fit the data.
    """
    data = _samples_of(
        settings,
        context_length=context_length,
        cache_dir=cache_dir,
        own_folder=own_folder,
        reads=reads,
        model_tokenizer=model_tokenizer,
    )
    if isinstance(settings, DataSettings):
        data = augmented(data, settings.augmentations or ())
    return replace(data, notes=(*data.notes, *evict(cache_dir, settings.cache)))


def _samples_of(
    settings: SourceSettings,
    *,
    context_length: int | None,
    cache_dir: Path,
    own_folder: Path | None,
    reads: str,
    model_tokenizer: Path | None,
) -> TrainingData:
    """The samples as they are before augmentations."""
    transforms = transforms_of(settings)  # before any work: a package may be missing
    with phase("ReadingData"):
        source = open_source(settings, own_folder, cache_dir)
        if isinstance(source, SampleSource):
            return source.samples()
    if context_length is None:
        raise ValueError("text must have a context length")
    if not isinstance(source, MixedSource):
        kind = tokenizer_kind(settings.tokenizer, model_tokenizer)
        return _samples_from(
            settings, source, transforms, kind, context_length=context_length, cache_dir=cache_dir, reads=reads
        )

    def of_part(part: Part, kind: TokenizerKind, text: Text | None) -> TrainingData:
        return _samples_from(
            part.settings,
            part.source,
            text.transforms if text else (),
            kind,
            context_length=context_length,
            cache_dir=cache_dir,
            reads=reads,
            content=text.content if text else None,
        )

    return mixed_data(settings, source.parts, of_part, cache_dir, model_tokenizer)


def _samples_from(
    settings: SourceSettings,
    source: DocumentSource | TokenSource,
    transforms: Sequence[Transform],
    tokenizer: TokenizerKind,
    *,
    context_length: int,
    cache_dir: Path,
    reads: str,
    content: Content | None = None,
) -> TrainingData:
    """The samples of one text. `content` is that of the source, if it was read just now."""
    if isinstance(source, TokenSource):
        return _windows(settings, reads)(source.name, source.token_shards(), context_length, source.notes)
    percent = settings.validation_percent
    if isinstance(source, LabelledSource):
        return labelled_documents(
            source, transforms, tokenizer, cache_dir, validation_percent=percent, context_length=context_length
        )
    shards = open_shards(source, transforms, tokenizer, percent, cache_dir, content=content)
    return _windows(settings, reads)(source.name, shards, context_length, (*source.notes, *notes_of(shards)))


def _windows(settings: SourceSettings, reads: str) -> Callable[[str, Shards, int, tuple[str, ...]], TrainingData]:
    if reads == MASKED_TEXT:
        return masked_tokens
    return partial(next_tokens, packing=settings.packing or Packing())
