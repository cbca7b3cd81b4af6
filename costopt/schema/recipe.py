"""The built-in trainer's settings: model, data, batch, optimizer, schedule, precision, parallelism, checkpoints."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints
from pydantic.alias_generators import to_camel

from costopt.schema.base import Path, PlainData, Rule, Strict
from costopt.schema.data_kinds import IMAGES, TEXT, GivesSamples, ReadsSamples, data_fits_model, only_for_text
from costopt.schema.defaults import with_defaults
from costopt.schema.optimization import Optimizer, Schedule
from costopt.schema.unions import UNIONS, tagged_union


class FamilySettings(ReadsSamples):
    """Settings of a family of models, all of which a pipeline can cut between their layers."""

    layers_field: ClassVar[str]
    """The field with the number of layers."""


class DecoderLM(FamilySettings):
    """A decoder-only transformer language model (pre-norm, learned positions, untied embeddings)."""

    reads = TEXT
    layers_field = "num_layers"

    num_layers: Annotated[int, Field(ge=1, le=256)] = 4
    """Transformer blocks."""
    num_heads: Annotated[int, Field(ge=1, le=256)] = 4
    """Attention heads per block; embeddingDim must be a multiple of it."""
    embedding_dim: Annotated[int, Field(ge=8, le=65536)] = 128
    """Width of the residual stream."""
    context_length: Annotated[int, Field(ge=8, le=1048576)] = 128
    """Tokens per sample."""
    dropout_percent: Annotated[int, Field(ge=0, le=90)] = 0
    """Percent of activations dropped while training. 0, because one pass over much text does not overfit."""

    rules = (
        Rule(
            cel="self.embeddingDim % self.numHeads == 0",
            message="embeddingDim must be a multiple of numHeads",
            holds=lambda data: data["embeddingDim"] % data["numHeads"] == 0,
        ),
    )


class ConvNet(FamilySettings):
    """A small convolutional image classifier: stages of convolution, batch norm, ReLU and pooling, then one linear."""

    reads = IMAGES
    layers_field = "num_stages"

    num_stages: Annotated[int, Field(ge=1, le=6)] = 2
    """Convolution stages; each halves height and width."""
    base_channels: Annotated[int, Field(ge=4, le=4096)] = 32
    """Channels of the first stage; each further stage doubles them."""


@tagged_union
class ModelSettings(Strict):
    """Which model to train."""

    type: Literal["DecoderLM", "ConvNet"]
    """DecoderLM reads `data.text` or `data.pythonStandardLibrary`; ConvNet reads `data.images`."""
    decoder_lm: DecoderLM | None = Field(default=None, alias="decoderLM")
    """Settings of a DecoderLM. None means its defaults."""
    conv_net: ConvNet | None = None
    """Settings of a ConvNet. None means its defaults."""


def num_layers(model: PlainData) -> int:
    """Layers of plain `recipe.model` data. Raises KeyError for a type that is none."""
    key, settings, field = _LAYERS[model["type"]]
    return int(with_defaults(settings, model.get(key, {}))[field])


def cel_num_layers(model: str) -> str:
    """The same in CEL; `model` is the path of the settings."""
    cases = [
        f"{model}.type == '{word}' ? (has({model}.{key}) ? {model}.{key}.{field} : {num_layers({'type': word})})"
        for word, (key, _, field) in _LAYERS.items()
    ]
    return f"({' : '.join(cases)} : 0)"


_LAYERS = {
    member.word: (member.key, member.settings, to_camel(member.settings.layers_field))
    for member in UNIONS[ModelSettings]
    if member.settings is not None and issubclass(member.settings, FamilySettings)
}
"""The word of a model's type -> the field with its settings, their class, and the field with the number of layers."""

LAYERS_FIELDS = ", ".join(f"{key}.{field}" for key, _, field in _LAYERS.values())
"""Where numbers of layers are written, for sentences."""


class Tokenizer(Strict):
    """How text becomes tokens."""

    type: Literal["Byte", "BPE"] = "Byte"
    """Byte: one token per UTF-8 byte, 256 in all. BPE: byte-pair encoding trained on the training split."""
    vocabulary_size: Annotated[int, Field(ge=257, le=262144)] = 4096
    """Tokens in a BPE vocabulary. Not used by Byte."""


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


class ImageData(GivesSamples):
    """Labelled images from one `.npz` file with `images` (N, H, W) or (N, H, W, C), uint8, and `labels` (N,), int."""

    gives = IMAGES

    path: Path
    """The `.npz` file; it is read with pickle refused. A relative path begins as a text's does."""


@tagged_union
class DataSettings(Strict):
    """Where samples come from, and how many are held out."""

    type: Literal["Text", "PythonStandardLibrary", "Images"]
    """Which of the sources below is read."""
    text: TextData | None = None
    """The text to read when `type` is Text."""
    python_standard_library: PythonStandardLibraryData | None = None
    """Limits when `type` is PythonStandardLibrary. None means none."""
    images: ImageData | None = None
    """The images to read when `type` is Images."""
    transforms: Annotated[list[Transform], Field(max_length=16)] | None = None
    """Changes of the text before it becomes tokens, in the order given; counted in the log. Each file is a document.
    Not for Images. None means none."""
    tokenizer: Tokenizer = Tokenizer()
    """How text becomes tokens. Not used by Images."""
    validation_percent: Annotated[int, Field(ge=1, le=50)] = 10
    """Percent of the bytes (or images) held out for evaluation, never trained on."""


class Batch(Strict):
    """How many samples an optimizer step sees, and how many fit in memory at once."""

    global_batch_size: Annotated[int, Field(ge=1, le=10**7)]
    """Samples per optimizer step over all ranks."""
    micro_batch_size: Annotated[int, Field(ge=1, le=10**6)]
    """Samples per forward pass of one rank. The rest of the rank's share is gradient accumulation."""

    rules = (
        Rule(
            cel="self.globalBatchSize % self.microBatchSize == 0",
            message="globalBatchSize must be a multiple of microBatchSize",
            holds=lambda data: data["globalBatchSize"] % data["microBatchSize"] == 0,
        ),
    )


class Parallelism(Strict):
    """How the ranks share the work. The product of the degrees is the number of ranks."""

    data_parallel: Annotated[int, Field(ge=1, le=262144)] | None = None
    """Replicas of the model, each of which takes its share of each batch. None means as many as the ranks make."""
    pipeline: Annotated[int, Field(ge=1, le=4096)] = 1
    """Ranks that the layers of one replica are split over, which pass micro-batches from one to the next; for models
    that one device cannot hold. Consecutive ranks are one pipeline."""
    schedule: Literal["GPipe", "OneFOneB"] = "OneFOneB"
    """Order of forward and backward passes in the pipeline. OneFOneB holds fewer activations. Not used if pipeline
    is 1."""


class Evaluation(Strict):
    """Loss on the held-out split."""

    every_steps: Annotated[int, Field(ge=1, le=10**8)] = 200
    """Steps between evaluations; the last step is always evaluated."""
    max_samples: Annotated[int, Field(ge=1, le=10**9)] = 512
    """Held-out samples per evaluation, spread evenly over the split and the same each time."""


class Checkpointing(Strict):
    """Saving model, optimizer, schedule, scaler, random states and data position."""

    every_steps: Annotated[int, Field(ge=1, le=10**8)] = 200
    """Steps between checkpoints; the last step is always saved."""
    keep_last: Annotated[int, Field(ge=2, le=1000)] = 2
    """Newest checkpoints kept. At least 2, so that a damaged newest one has one before it."""


class Recipe(Strict):
    """All settings of the built-in trainer."""

    model: ModelSettings
    """Which model to train."""
    data: DataSettings
    """Where samples come from."""
    batch: Batch
    """Global and micro-batch size."""
    total_steps: Annotated[int, Field(ge=1, le=10**8)]
    """Optimizer steps in all."""
    optimizer: Optimizer = Optimizer()
    """What turns gradients into steps."""
    schedule: Schedule = Schedule()
    """Learning-rate schedule."""
    precision: Literal["FP32", "BF16", "FP16"] = "FP32"
    """FP32; BF16: automatic mixed precision in bfloat16; FP16: the same in float16 with loss scaling. Weights and
    optimizer state stay FP32."""
    parallelism: Parallelism = Parallelism()
    """How the ranks share the work."""
    evaluation: Evaluation = Evaluation()
    """When and on how much held-out data to evaluate."""
    checkpointing: Checkpointing = Checkpointing()
    """When to save, and how many to keep."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of initial weights, sample order and dropout."""

    rules = (
        only_for_text("transforms", "changes of text", DataSettings),
        data_fits_model(ModelSettings, DataSettings),
        Rule(
            cel="!has(self.schedule) || self.schedule.warmupSteps < self.totalSteps",
            message="schedule.warmupSteps must be less than totalSteps",
            holds=lambda data: data["schedule"]["warmupSteps"] < data["totalSteps"],
        ),
    )
