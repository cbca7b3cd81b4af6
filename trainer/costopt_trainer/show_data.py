"""What a recipe's data becomes, without a training: `costopt data` starts this as a process of its own.

    standard input     {"recipe": ..., "storage": folder, "sample": false}
    standard output    phases, one a line; last {"reports": [...]}, one of each source of a mixture, or
                       {"refused": sentence} with exit code 78

The tokens are made where a training of the job would look for them. Of a sample nothing is kept.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, TypeVar

from costopt import names
from costopt.hostile import parse_json
from costopt.schema.data import DataSettings, gives_documents
from costopt.schema.data_kinds import MASKED_TEXT, TEXT
from costopt.schema.data_report import DataReport, SamplesReport, TokensReport
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_DONE, EXIT_NOT_RETRYABLE
from costopt_trainer.data import reports
from costopt_trainer.data.documents import Document, Tally, content_of, joined, split_pieces, watched
from costopt_trainer.data.mixture import VOCABULARY, read_parts, refuse_different
from costopt_trainer.data.sources.mixture import Mixture, naming
from costopt_trainer.data.sources.table import (
    DocumentSource,
    LabelledSource,
    MixedSource,
    SampleSource,
    TokenSource,
    open_source,
)
from costopt_trainer.data.token_cache import open_shards
from costopt_trainer.data.tokenizers.table import TokenizerKind, cut_between_words, tokenizer_kind
from costopt_trainer.data.transforms.pipeline import Pipeline, held_out_from
from costopt_trainer.data.transforms.table import Transform, drops_documents, transforms_of, word_of
from costopt_trainer.data.windows import check_length, left_out
from costopt_trainer.errors import NotRetryable, Retryable
from costopt_trainer.models.table import context_length_of, kind_of_samples, tokenizer_of
from costopt_trainer.phases import VOICE, phase
from costopt_trainer.shutdown import die_with_parent
from costopt_trainer.storage.folders import remove

SAMPLE_DOCUMENTS = 500
SAMPLE_BYTES = 1 << 23
"""8 MiB: a sample ends with the document that reaches it, or one of SAMPLE_DOCUMENTS; and no document is longer."""
_PART_BYTES = 1 << 16
Report = TypeVar("Report", DataReport, TokensReport)
_AHEAD = {TEXT: 1, MASKED_TEXT: 0}
"""Targets behind the end of a sample, by the kind of samples that are cut from a text."""


def reports_of(recipe: Recipe, storage: Path, *, sample: bool) -> list[DataReport | SamplesReport]:
    """What there is; of a mixture that of each source. Raises NotRetryable as a training would."""
    if recipe.data.type != "Mixture":
        return [shown(recipe, storage, sample=sample)]
    mixture, cache_dir = Mixture(recipe.data, storage, storage / names.CACHE_DIR), storage / names.CACHE_DIR
    read = None if sample else read_parts(recipe.data, mixture.parts, cache_dir, tokenizer_of(recipe.model))
    found = []
    for number, part in enumerate(mixture.parts):
        alone = recipe.model_copy(update={"data": part.settings})
        with naming(part.name):
            text = None if read is None else read.texts[number]
            report = shown(
                alone,
                storage,
                sample=sample,
                tokenizer=None if read is None else read.tokenizer,
                transforms=None if text is None else text.transforms,
            )
            found.append(report.model_copy(update={"source": f"{part.name}: {report.source}"}))
    if read is not None or not tokenizer_kind(recipe.data.tokenizer, tokenizer_of(recipe.model)).learns:
        what, remedy = VOCABULARY  # of a sample, a tokenizer that learns has not learnt all
        sizes = [getattr(report, "vocabulary_size", None) for report in found]
        refuse_different(what, dict(zip((part.name for part in mixture.parts), sizes, strict=True)), remedy)
    return found


def shown(
    recipe: Recipe,
    storage: Path,
    *,
    sample: bool,
    tokenizer: TokenizerKind | None = None,
    transforms: Sequence[Transform] | None = None,
) -> DataReport | SamplesReport:
    """What there is, of all of it or of a sample. `tokenizer` or `transforms` None: the recipe says which. Raises
    NotRetryable as a training would."""
    if not gives_documents(recipe.data):
        with phase("ReadingData"):
            source = open_source(recipe.data, storage, storage / names.CACHE_DIR)
            if isinstance(source, SampleSource | TokenSource):
                ready = source.report(sample=sample)
                return with_left_out(ready, recipe) if isinstance(ready, TokensReport) else ready
    report = report_of_sample(recipe, storage) if sample else report_of(recipe, storage, tokenizer, transforms)
    return with_left_out(report, recipe)


def report_of(
    recipe: Recipe,
    storage: Path,
    tokenizer: TokenizerKind | None = None,
    transforms: Sequence[Transform] | None = None,
) -> DataReport:
    """Make the tokens in `storage`, unless they are there. `tokenizer` or `transforms` None: the recipe says which.
    Raises NotRetryable as a training would."""
    source, own_transforms, own_tokenizer = _opened(recipe, storage)
    tokenizer, transforms = tokenizer or own_tokenizer, own_transforms if transforms is None else transforms
    is_held_out = source.is_held_out if isinstance(source, LabelledSource) else None
    cache_dir, percent = storage / names.CACHE_DIR, recipe.data.validation_percent
    for _ in range(2):
        shards = open_shards(source, transforms, tokenizer, percent, cache_dir, is_held_out=is_held_out)
        if shards.report is not None:
            return _told_of(source, shards.report)
        remove(cache_dir / shards.key[:32])  # an earlier version made the tokens, and no report
    raise OSError(f"the report in {cache_dir} cannot be read back")


def _told_of(source: DocumentSource, kept: DataReport) -> DataReport:
    """Tokens are found by what the documents hold, so these may have been made of others that hold the same."""
    name, notes = reports.printable(source.name), list(map(reports.printable, source.notes))
    if name != kept.source:
        notes.append(f"the same documents were read before at {kept.source}: names of documents are of there")
    return kept.model_copy(update={"source": name, "notes": notes})


def report_of_sample(recipe: Recipe, storage: Path) -> DataReport:
    """The same of the first documents, with nothing written. Raises NotRetryable as a training would."""
    source, transforms, tokenizer = _opened(recipe, storage)
    sample = _Sample(source, SAMPLE_DOCUMENTS)
    with phase("ReadingData") as pieces:
        content = content_of(sample.documents(), pieces.done, with_names=True)
        held_out = frozenset[str]()
        if any(map(drops_documents, transforms)):
            held_out = held_out_from(content, recipe.data.validation_percent)
        pipeline = Pipeline(lambda: watched(sample.documents(), pieces.done), transforms, held_out.__contains__)
        pipeline.judge()
        tallies = [Tally() for _ in range(len(transforms) + 1)]
        num_bytes = sum(map(len, joined(pipeline.documents(tallies))))
        done = pipeline.reports(list(map(word_of, transforms)), tallies)
    num_train_bytes = num_bytes - num_bytes * recipe.data.validation_percent // 100
    if held_out:
        kept = list(takewhile(lambda name: name not in held_out, tallies[-1].sums))
        num_train_bytes = sum(tallies[-1].sizes[: len(kept)]) + max(0, len(kept) - 1)
    vocabulary_size, (train, validation) = _counted(pipeline, tokenizer, num_train_bytes)
    name, longest_bytes = reports.longest(content)
    return DataReport(
        source=reports.printable(source.name),
        documents=len(content.sizes),
        bytes=sum(content.sizes),
        longest_document=name,
        longest_bytes=longest_bytes,
        transforms=list(done),
        documents_left=tallies[-1].num_documents,
        held_out_documents=sum(name in held_out for name in tallies[-1].sums) if held_out else None,
        vocabulary_size=vocabulary_size,
        train_tokens=train,
        validation_tokens=validation,
        sampled=True,
        notes=list(map(reports.printable, source.notes)),
    )


def with_left_out(report: Report, recipe: Recipe) -> Report:
    """The report with the tokens that no sample of the recipe's model has.

    Raises NotRetryable("InvalidData") if there are too few for one.
    """
    length, ahead = context_length_of(recipe.model), _AHEAD.get(kind_of_samples(recipe.model))
    if length is None or ahead is None:
        return report
    sizes = report.train_tokens, report.validation_tokens
    if not report.sampled:
        check_length(report.source, sizes, length, ahead)
    train, validation = (left_out(num, length, ahead) for num in sizes)
    tail = {"context_length": length, "train_tokens_left_out": train, "validation_tokens_left_out": validation}
    return report.model_copy(update=tail)


def _opened(recipe: Recipe, storage: Path) -> tuple[DocumentSource, list[Transform], TokenizerKind]:
    data: DataSettings = recipe.data
    transforms = transforms_of(data)
    with phase("ReadingData"):
        source = open_source(data, storage, storage / names.CACHE_DIR)
    if isinstance(source, SampleSource | TokenSource | MixedSource):
        raise NotRetryable("InvalidSettings", f"data.type must be one of documents, and {data.type} gives samples")
    return source, transforms, tokenizer_kind(data.tokenizer, tokenizer_of(recipe.model))


@dataclass
class _Sample:
    """The first documents of a source, each up to SAMPLE_BYTES."""

    source: DocumentSource
    count: int
    """How many at most; how many, once they were read."""

    def documents(self) -> Iterator[Document]:
        """The same at every call."""
        read = 0
        for number, document in enumerate(islice(self.source.documents(), self.count)):
            sizes: list[int] = []
            yield Document(document.name, partial(_beginning, document, sizes), document.file)
            read += max(sizes, default=0)
            if read >= SAMPLE_BYTES:
                self.count = number + 1
                return


def _beginning(document: Document, sizes: list[int]) -> Iterator[bytes]:
    num_bytes = 0
    for piece in document.pieces():
        num_bytes += len(piece)
        yield piece
        if num_bytes >= SAMPLE_BYTES:
            break
    sizes.append(num_bytes)


def _counted(pipeline: Pipeline, kind: TokenizerKind, num_train_bytes: int) -> tuple[int, tuple[int, int]]:
    """Tokens of the vocabulary, and of the two splits."""

    def pieces() -> Iterator[tuple[bool, bytes]]:
        return split_pieces(joined(pipeline.documents()), num_train_bytes)

    with phase("LearningTokenizer"):
        tokenizer = kind.learn(piece for is_train, piece in pieces() if is_train)
    counts = {True: 0, False: 0}
    with phase("Tokenizing") as done:
        for is_train, piece in pieces():
            for part in cut_between_words(piece, _PART_BYTES):
                counts[is_train] += len(tokenizer.encode(part))
                done.done()
    return tokenizer.vocabulary_size, (counts[True], counts[False])


def main() -> None:
    """Answer what standard input asks for."""
    die_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is the command's to tell of
    asked: dict[str, Any] = parse_json(sys.stdin.buffer.read())
    VOICE.speak_up(aloud=True)
    try:
        recipe, storage = Recipe.model_validate_json(json.dumps(asked["recipe"])), Path(asked["storage"])
        found = reports_of(recipe, storage, sample=asked["sample"])
        code, answer = EXIT_DONE, dict[str, Any](reports=[report.to_plain() for report in found])
    except (NotRetryable, Retryable) as error:
        code, answer = EXIT_NOT_RETRYABLE, dict[str, Any](refused=str(error))
    VOICE.fall_silent()
    print(json.dumps(answer), flush=True)
    os._exit(code)  # a thread that speaks for phases may be asleep


if __name__ == "__main__":
    main()
