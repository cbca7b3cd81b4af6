"""Samples to train and evaluate on: from the user's settings to batches of tensors.

load_data       settings -> TrainingData
training_data   samples by number, in batches
sources/        where data comes from: documents, or samples
transforms/     documents -> documents
tokenizers/     documents -> tokens
documents       documents as one stream of text
token_cache     tokens on disk, memory-mapped by every rank
windows         tokens of a text as samples; masking: which of them are hidden
labelled        tokens of labelled documents as samples
making          makes tokens once, part by part
listing         the files of a text, to name differences from another
storages        what jobs write, which is never data
entropy         the reference for a validation loss
sampler         which sample comes at which position
lanes           the same where each sample goes on from the one before it
prefetch        prepares the samples of the next step on a thread
"""

from pathlib import Path

from costopt.schema.data import DataSettings
from costopt.schema.data_kinds import MASKED_TEXT, TEXT
from costopt_trainer.data.labelled import labelled_documents
from costopt_trainer.data.sampler import sample_indices
from costopt_trainer.data.sources.table import DocumentSource, LabelledSource, SampleSource, open_source
from costopt_trainer.data.token_cache import open_shards
from costopt_trainer.data.tokenizers.table import TokenizerKind, tokenizer_kind
from costopt_trainer.data.training_data import Batch, TrainingData
from costopt_trainer.data.transforms.table import transforms_of
from costopt_trainer.data.windows import masked_tokens, next_tokens
from costopt_trainer.phases import phase

__all__ = ["Batch", "TrainingData", "load_data", "sample_indices"]


def load_data(
    settings: DataSettings,
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
    ValueError for text without a context length.
    """
    with phase("ReadingData"):
        source = open_source(settings, own_folder)
        if isinstance(source, SampleSource):
            return source.samples()
    if context_length is None:
        raise ValueError("text must have a context length")
    tokenizer = tokenizer_kind(settings.tokenizer, model_tokenizer)
    if isinstance(source, LabelledSource):
        return labelled_documents(source, settings, tokenizer, context_length, cache_dir)
    return _samples_of_text(source, settings, tokenizer, context_length, cache_dir, reads=reads)


def _samples_of_text(
    source: DocumentSource,
    settings: DataSettings,
    tokenizer: TokenizerKind,
    context_length: int,
    cache_dir: Path,
    *,
    reads: str,
) -> TrainingData:
    shards = open_shards(source, transforms_of(settings), tokenizer, settings.validation_percent, cache_dir)
    notes = tuple(
        changes.told(transform.type)
        for changes, transform in zip(shards.changes, settings.transforms or (), strict=True)
    )
    samples_of = masked_tokens if reads == MASKED_TEXT else next_tokens
    return samples_of(source.name, shards, context_length, notes)
