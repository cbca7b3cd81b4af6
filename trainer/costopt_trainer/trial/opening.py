"""A folder with a model -> the model, its tokenizer and what it reads. Nothing in the folder is run as code.

Opened           all of it
open_artifact    a folder that costopt has written, or one of the Hugging Face library
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from costopt.hostile import Hostile, read_file
from costopt.schema.data import Tokenizer
from costopt.schema.data_kinds import IMAGES, LABELLED_TEXT, TABLES
from costopt.schema.foreign_models import HuggingFace
from costopt.schema.models import ModelSettings
from costopt_trainer.data.tokenizers.byte_pairs import BytePairTokenizer
from costopt_trainer.data.tokenizers.hugging_face import CONFIG_FILES, HuggingFaceFiles
from costopt_trainer.data.tokenizers.plain_bytes import ByteTokenizer
from costopt_trainer.data.tokenizers.table import NUM_BYTES, SpecialTokens, TextTokenizer, with_special_tokens
from costopt_trainer.errors import NotRetryable, first_line, memory_reason
from costopt_trainer.models.artifact import (
    CONFIG_FILE,
    FORMAT,
    OWN_CONFIG_FILE,
    TOKENIZER_FILE,
    load_model,
    read_config,
)
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model, context_length_of, kind_of_samples, runs_code

LONGEST_SAMPLE = 512
"""Tokens, of a model that a program of the user's own has left."""
_MAX_TOKENIZER_BYTES = 2**27


@dataclass(frozen=True)
class Opened:
    """A model that is ready."""

    model: LayeredModel
    """In eval mode, on the CPU."""
    shape: ModelShape
    reads: str
    """The kind of its samples (see schema/data_kinds.py)."""
    tokenizer: TextTokenizer | None
    """None of a model that reads no text."""
    special: SpecialTokens | None
    """Its tokens that stand for no text."""
    context_length: int
    """Tokens that it sees at most; 1 of a model that reads no text."""


def open_artifact(folder: Path) -> Opened:
    """The model in `folder`. Raises NotRetryable with a sentence if it is damaged, none, or needs code of others."""
    if _is_ours(folder):
        shape = read_config(folder).shape
        if runs_code(shape.settings):
            raise NotRetryable(
                "InvalidSettings",
                f"{folder} needs code of its own to be built (model.type {shape.settings.type}), which is not run "
                "here: load it in the program that brings the code",
            )
        model = load_model(folder)
    else:
        with _in_words_of(folder):
            shape = _shape_of_librarys(folder)
            model = build_model(shape).eval()
    reads = kind_of_samples(shape.settings)
    if reads in (IMAGES, TABLES):
        return Opened(model, shape, reads, None, None, 1)
    tokenizer = read_tokenizer(folder, shape)
    special = with_special_tokens(tokenizer)[0]
    length = context_length_of(shape.settings) or LONGEST_SAMPLE
    return Opened(model, shape, reads, tokenizer, special, length)


def read_tokenizer(folder: Path, shape: ModelShape) -> TextTokenizer:
    """What turns text into the tokens of the model in `folder`: the tokenizer beside it, or bytes. Raises
    NotRetryable."""
    file = folder / TOKENIZER_FILE
    if not os.path.lexists(file):
        if shape.vocabulary_size in (NUM_BYTES, NUM_BYTES + 3):  # three are added where there are special tokens
            return ByteTokenizer()
        raise NotRetryable(
            "InvalidSettings",
            f"{folder} must have its {TOKENIZER_FILE}, for its vocabulary of {shape.vocabulary_size} tokens is not "
            "that of bytes: put it beside the model",
        )
    is_librarys = any(os.path.lexists(folder / name) for name in CONFIG_FILES)
    if is_librarys or shape.settings.type == "HuggingFace":
        return HuggingFaceFiles(Tokenizer(type="HuggingFace", path=str(folder))).learn([])
    try:
        tokenizer = BytePairTokenizer.from_json(read_file(file, max_bytes=_MAX_TOKENIZER_BYTES).decode())
    except UnicodeDecodeError as error:
        raise NotRetryable("InvalidData", f"the tokenizer {file} must be in UTF-8") from error
    except (OSError, Hostile, ValueError) as error:
        raise NotRetryable("InvalidData", f"the tokenizer {file} {first_line(error)}") from error
    largest = shape.vocabulary_size or 0
    if tokenizer.vocabulary_size > largest:
        raise NotRetryable(
            "InvalidData", f"the tokenizer {file} must have at most the {largest} tokens of the model beside it"
        )
    return tokenizer


def _is_ours(folder: Path) -> bool:
    """Whether costopt has written the model in `folder`, as its configuration says; what cannot be read is refused in
    the words for ours."""
    if os.path.lexists(folder / OWN_CONFIG_FILE):
        return True
    try:
        return f'"{FORMAT}"'.encode() in read_file(folder / CONFIG_FILE, max_bytes=_MAX_TOKENIZER_BYTES)
    except (OSError, Hostile):
        return True


@contextlib.contextmanager
def _in_words_of(folder: Path) -> Iterator[None]:
    """Errors within name the `folder` alone: nobody has written the setting of a recipe that they name it by."""
    try:
        yield
    except NotRetryable as error:
        raise NotRetryable(error.reason, str(error).replace("model.huggingFace.path: ", "")) from error
    except (RuntimeError, MemoryError) as error:
        if memory_reason([type(error).__name__], str(error)) is None:
            raise
        raise NotRetryable("OutOfMemory", f"{folder} asks for more memory than this machine has") from error


def _shape_of_librarys(folder: Path) -> ModelShape:
    """Of a folder of the Hugging Face library. It imports that library, which takes seconds."""
    from costopt_trainer.models.hugging_face.family import positions_of  # noqa: PLC0415
    from costopt_trainer.models.hugging_face.library import TASKS, task_of  # noqa: PLC0415
    from costopt_trainer.models.hugging_face.source import find_source  # noqa: PLC0415

    config = find_source(HuggingFace(path=str(folder))).config
    task = task_of(config)
    if task is None:
        raise NotRetryable(
            "InvalidSettings",
            f"{folder} must be a model for one of {', '.join(TASKS)}, as the architectures of its config.json say",
        )
    own = HuggingFace(path=str(folder), task=task, context_length=8)
    positions = positions_of(own)
    length = LONGEST_SAMPLE if positions is None else max(8, min(LONGEST_SAMPLE, positions))
    settings = ModelSettings(type="HuggingFace", hugging_face=own.model_copy(update={"context_length": length}))
    tokenizer = HuggingFaceFiles(Tokenizer(type="HuggingFace", path=str(folder))).learn([])
    classes = _classes_of(config) if kind_of_samples(settings) == LABELLED_TEXT else None
    return ModelShape(
        settings,
        vocabulary_size=tokenizer.vocabulary_size,
        num_classes=None if classes is None else len(classes),
        pad_id=with_special_tokens(tokenizer)[0].pad_id,
        class_names=classes,
    )


def _classes_of(config: dict[str, object]) -> tuple[str, ...]:
    named = config.get("id2label")
    if isinstance(named, dict) and named and all(str(number) in named for number in range(len(named))):
        return tuple(str(named[str(number)]) for number in range(len(named)))
    return ("LABEL_0", "LABEL_1")  # as the library has it
