"""The data of the built-in trainer: sources, transforms and tokenizer."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from costopt.schema.base import Path, Rule, Strict
from costopt.schema.data_kinds import IMAGES, LABELLED_TEXT, TABLES, TEXT, GivesSamples
from costopt.schema.unions import BESIDE, tagged_union


class Tokenizer(Strict):
    """How text becomes tokens."""

    type: Literal["Byte", "BPE", "HuggingFace"] = "Byte"
    """Byte: one token per UTF-8 byte, 256 in all. BPE: byte-pair encoding trained on the training split. HuggingFace:
    a tokenizer.json of that library."""
    vocabulary_size: Annotated[int, Field(ge=257, le=262144)] = 4096
    """Tokens in a BPE vocabulary. Not used by Byte and HuggingFace."""
    path: Path | None = None
    """For HuggingFace: a tokenizer.json, or a folder with one. None means that of the model."""

    rules = (
        Rule(
            cel="!has(self.path) || self.type == 'HuggingFace'",
            message="path must not be set unless type is HuggingFace",
            holds=lambda data: "path" not in data or data["type"] == "HuggingFace",
        ),
    )


class NormalizeUnicode(Strict):
    """One form for characters that can be written in several ways (Unicode Standard Annex #15)."""

    form: Literal["NFC", "NFD", "NFKC", "NFKD"] = "NFC"
    """NFC: composed, as most text is; nothing that a reader sees changes. NFD: decomposed. NFKC, NFKD: ligatures, wide
    letters, superscripts and the like become plain ones besides, which a reader does see."""


@tagged_union
class Transform(Strict):
    """One change of documents before they become tokens."""

    type: Literal["NormalizeUnicode"]
    """Which of the settings below is used."""
    normalize_unicode: NormalizeUnicode | None = None
    """Settings of NormalizeUnicode. None means its defaults."""


class TextData(GivesSamples):
    """UTF-8 text from a file, or from all matching files below a folder."""

    gives = TEXT

    path: Path
    """A text file or a folder. A relative path begins where `costopt run` is called; in a pod, at the root of the
    claim that is the job's storage."""
    include: Annotated[str, StringConstraints(min_length=1, max_length=128)] = "*.txt"
    """File-name pattern (fnmatch) for a folder; a single file is always read. Hidden files and folders are passed over
    unless the pattern begins with a dot: a mounted ConfigMap keeps a second copy of its files in one."""
    max_bytes: Annotated[int, Field(ge=1, le=10**13)] | None = None
    """Stop reading whole files after this many bytes. None reads everything."""


class PythonStandardLibraryData(GivesSamples):
    """The `.py` files of the standard library of the Python that trains: real text that every machine has."""

    gives = TEXT

    max_bytes: Annotated[int, Field(ge=1, le=10**13)] | None = None
    """Stop reading whole files after this many bytes. None reads everything."""


class LabelledTextData(GivesSamples):
    """Documents with a label each: JSON Lines, one object a line with a text and a label, from a file or all `.jsonl`
    files below a folder. Labels are words, or whole numbers; the classes are those of the training documents, in sorted
    order. Which documents are held out follows from their places, so that files may be sorted by class."""

    gives = LABELLED_TEXT

    path: Path
    """A `.jsonl` file or a folder. A relative path begins as a text's does."""
    text_field: Annotated[str, StringConstraints(min_length=1, max_length=128)] = "text"
    """The field of a line that holds the text. What exceeds the model's context length is cut off."""
    label_field: Annotated[str, StringConstraints(min_length=1, max_length=128)] = "label"
    """The field of a line that holds the label."""


class ImageData(GivesSamples):
    """Labelled images from one `.npz` file with `images` (N, H, W) or (N, H, W, C), uint8, and `labels` (N,), int."""

    gives = IMAGES

    path: Path
    """The `.npz` file; it is read with pickle refused. A relative path begins as a text's does."""


class TableData(GivesSamples):
    """Labelled rows from one `.npz` file with `features` (N, F), floating-point, and `labels` (N,), int."""

    gives = TABLES

    path: Path
    """The `.npz` file; it is read with pickle refused. A relative path begins as a text's does. Features are taken as
    FP32 and as they are: the model scales each by its mean and standard deviation over the training split, which it
    keeps with its weights, so that whoever uses the model gives it raw features, too."""


@tagged_union
class DataSettings(Strict):
    """Where samples come from, and how many are held out."""

    type: Literal["Text", "PythonStandardLibrary", "LabelledText", "Images", "Table"]
    """Which of the sources below is read."""
    text: TextData | None = None
    """The text to read when `type` is Text."""
    python_standard_library: PythonStandardLibraryData | None = None
    """Limits when `type` is PythonStandardLibrary. None means none."""
    labelled_text: LabelledTextData | None = None
    """The documents to read when `type` is LabelledText."""
    images: ImageData | None = None
    """The images to read when `type` is Images."""
    table: TableData | None = None
    """The table to read when `type` is Table."""
    transforms: Annotated[list[Transform], Field(max_length=16)] | None = None
    """Changes of the text before it becomes tokens, in the order given; counted in the log. Each file is a document, of
    LabelledText each line. Not for Images or Table. None means none."""
    tokenizer: Annotated[Tokenizer | None, BESIDE] = None
    """How text becomes tokens. Not used by Images and Table. None means the tokenizer that the model brings (see
    HuggingFace), else Byte."""
    validation_percent: Annotated[int, Field(ge=1, le=50)] = 10
    """Percent of the bytes (or images, rows, or labelled documents) held out for evaluation, never trained on."""
    workers: Annotated[int, Field(ge=1, le=64)] | None = None
    """Threads of each rank that prepare samples ahead, one step each: more than one where reading takes longer than a
    step, such as from a network volume. Changes no sample. None means 1."""
