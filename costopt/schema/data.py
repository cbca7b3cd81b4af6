"""The data of the built-in trainer: sources and tokenizer; transforms are in transforms.py, sources of text in
text_sources.py and mixture.py.

SourceSettings    what is read, made into samples and held out: all that is said of what a model is only measured on
DataSettings      the same, and how the other samples are trained on: the data of a recipe
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from costopt.schema.augmentations import Augmentation
from costopt.schema.base import LIST_SET, Path, Rule, Strict
from costopt.schema.data_cache import CacheLimits
from costopt.schema.data_kinds import DOCUMENTS, IMAGES, LABELLED_TEXT, TABLES, GivesSamples
from costopt.schema.data_places import no_secret_in
from costopt.schema.mixture import MixtureData
from costopt.schema.packing import Packing, boundaries_are_known
from costopt.schema.records import BadSamples, RecordFiles
from costopt.schema.selection import Order, Selection
from costopt.schema.text_sources import PythonStandardLibraryData, RecordsData, TextData, TokenShardsData
from costopt.schema.transforms import Transform
from costopt.schema.unions import BESIDE, UNIONS, one_of, tagged_union


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


@one_of(path="one place", paths="several")
class LabelledTextData(RecordFiles, GivesSamples):
    """Documents with a label each, from records. Labels are words, or whole numbers; the classes are those of the
    training documents, in sorted order. Which documents are held out follows from their places, so that files may be
    sorted by class."""

    gives = LABELLED_TEXT

    label_field: Annotated[str, StringConstraints(min_length=1, max_length=128)] = "label"
    """The field of a record that holds the label. In CSV and TSV all labels are words."""
    labels: (
        Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=200)]],
            Field(min_length=2, max_length=10000, json_schema_extra=LIST_SET),
        ]
        | None
    ) = None
    """All labels that there may be, in the order of the classes, numbers as text. A record with another one is bad.
    None means those of the training documents."""


class ImageData(GivesSamples):
    """Labelled images from one `.npz` file with `images` (N, H, W) or (N, H, W, C), uint8, and `labels` (N,), int."""

    gives = IMAGES

    path: Path
    """The `.npz` file; it is read with pickle refused. A relative path begins as a text's does."""

    rules = (no_secret_in("path"),)


class ImageFolderData(BadSamples, GivesSamples):
    """Labelled images in folders: those in a folder, and below it, are of the class that its name says. They are
    decoded once into the storage's cache, which takes height x width x channels bytes of each."""

    gives = IMAGES

    path: Path
    """The folder that holds one folder for each class, or its URL such as `s3://bucket/images`. A relative path begins
    as a text's does. Files that end otherwise than in .png, .jpg, .jpeg, .bmp, .gif, .webp, .tif, .tiff, .ppm or .pgm
    are passed over, and so is what is hidden."""
    height: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Rows of pixels that each image is scaled to. None means that all images have one size already."""
    width: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Columns of pixels, likewise."""
    color: Literal["RGB", "Gray"] = "RGB"
    """Channels that each image is converted to: 3 or 1. Transparency is left out."""

    rules = (
        no_secret_in("path"),
        Rule(
            cel="has(self.height) == has(self.width)",
            message="height and width must be set together",
            holds=lambda data: ("height" in data) == ("width" in data),
        ),
    )


class TableData(GivesSamples):
    """Labelled rows from one `.npz` file with `features` (N, F), floating-point, and `labels` (N,), int."""

    gives = TABLES

    path: Path
    """The `.npz` file; it is read with pickle refused. A relative path begins as a text's does. Features are taken as
    FP32 and as they are: the model scales each by its mean and standard deviation over the training split, which it
    keeps with its weights, so that whoever uses the model gives it raw features, too."""

    rules = (no_secret_in("path"),)


_RULES = (
    Rule(
        cel="self.type != 'TokenShards' || (!has(self.transforms) && !has(self.tokenizer))",
        message="transforms and tokenizer must not be set for TokenShards, which are tokens already",
        holds=lambda data: data["type"] != "TokenShards" or not {"transforms", "tokenizer"} & data.keys(),
    ),
    *boundaries_are_known,
)
"""Beside that of the union, which each class gets of its own."""


@tagged_union
class SourceSettings(Strict):
    """Where samples come from, and how many are held out."""

    type: Literal[
        "Text",
        "PythonStandardLibrary",
        "Records",
        "LabelledText",
        "TokenShards",
        "Images",
        "ImageFolder",
        "Table",
    ]
    """Which of the sources below is read."""
    text: TextData | None = None
    """The text to read when `type` is Text."""
    python_standard_library: PythonStandardLibraryData | None = None
    """Limits when `type` is PythonStandardLibrary. None means none."""
    records: RecordsData | None = None
    """The records to read when `type` is Records."""
    labelled_text: LabelledTextData | None = None
    """The documents to read when `type` is LabelledText."""
    token_shards: TokenShardsData | None = None
    """The tokens to read when `type` is TokenShards."""
    images: ImageData | None = None
    """The images to read when `type` is Images."""
    image_folder: ImageFolderData | None = None
    """The images to read when `type` is ImageFolder."""
    table: TableData | None = None
    """The table to read when `type` is Table."""
    transforms: Annotated[list[Transform], Field(max_length=16)] | None = None
    """What is done to documents before they become tokens, in the order given; counted in the log and in a report
    beside the tokens. Each file is a document, of Records and LabelledText each record. Where one of them may drop
    documents, whole documents are held out. Not for images or Table. None means none."""
    tokenizer: Annotated[Tokenizer | None, BESIDE] = None
    """How text becomes tokens. Not used by images and Table, and not for TokenShards. None means the tokenizer that the
    model brings (see HuggingFace), else Byte."""
    validation_percent: Annotated[int, Field(ge=1, le=50)] = 10
    """Percent of the bytes (or tokens, images, rows, or labelled documents) held out for evaluation, never trained
    on."""
    packing: Annotated[Packing | None, BESIDE] = None
    """How a text is cut into samples, and what happens at the end of a document. None means its defaults."""
    cache: Annotated[CacheLimits | None, BESIDE] = None
    """What of earlier data goes from the storage's cache. None means that all of it stays; `costopt cache` lists and
    clears it."""

    rules = _RULES


@tagged_union
class DataSettings(SourceSettings):
    """Where samples come from, how many are held out, and how the others are trained on."""

    type: Literal[  # type: ignore[assignment]  # one word more
        "Text",
        "PythonStandardLibrary",
        "Records",
        "LabelledText",
        "TokenShards",
        "Mixture",
        "Images",
        "ImageFolder",
        "Table",
    ]
    """Which of the sources below is read."""
    mixture: MixtureData | None = None
    """The texts to mix when `type` is Mixture."""
    augmentations: Annotated[list[Augmentation], Field(max_length=16)] | None = None
    """What is done to training samples, in the order given, each time that one is shown; held-out ones stay as they
    are. Follows from seed, epoch and sample, so that neither the number of ranks nor a resume changes what is drawn.
    None means nothing."""
    selection: Annotated[Selection | None, BESIDE] = None
    """Which part of the training samples is trained on. None means all."""
    order: Annotated[Order | None, BESIDE] = None
    """How training samples follow each other. None means Shuffled."""
    workers: Annotated[int, Field(ge=1, le=64)] | None = None
    """Threads of each rank that prepare samples ahead, one step each: more than one where reading takes longer than a
    step, such as from a network volume. Changes no sample. None means 1."""

    rules = _RULES


def gives_documents(data: SourceSettings) -> bool:
    """Whether its source gives documents, of which tokens are made; else samples or tokens that are ready."""
    settings = next((member.settings for member in UNIONS[type(data)] if member.word == data.type), None)
    if settings is None or not issubclass(settings, GivesSamples):
        return True
    return settings.has_documents and settings.gives in DOCUMENTS
