"""Variants: each a list of compression steps applied, in order, to the trained model, or how these are found; and
when it is accepted."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from costopt.schema.base import DESCRIBED_ELSEWHERE, DecimalString, Name, Path, PlainData, Rule, Strict, cel_list
from costopt.schema.resources import NodeResources
from costopt.schema.unions import one_of, settings_named, tagged_union
from costopt.schema.variant_report import EngineName, QualityMetric

_IN_THE_REFERENCE = Field(json_schema_extra=DESCRIBED_ELSEWHERE)
"""Of settings that the CRD has no room to describe."""

ENTRY_POINT_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"

GRAPH_ONLY = ("Int8Static", "Int4WeightOnly")
"""Schemes of Quantize whose result exists only as an ONNX graph, which a CPU runs."""

DEFAULT_GROUP_SIZE = 32
"""Of 4-bit weights."""

_TRAINABLE = ("Int8WeightOnly", "Int8DynamicActivation", "Int4WeightOnly")
"""Schemes whose rounding a training can learn with."""
_INT8_ACTIVATIONS = ("Int8DynamicActivation", "Int8Static")


class Calibration(Strict):
    """Training samples that show what activations are."""

    method: Literal["MinMax", "Entropy", "Percentile"] = "MinMax"
    """MinMax: all that was seen. Entropy, Percentile: without rare extremes."""
    samples: Annotated[int, Field(ge=1, le=65536)] = 128
    """How many, drawn by chance."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Of that draw."""


class Quantize(Strict):
    """Store weights, and for some schemes also compute, in fewer bits (torchao, onnxruntime)."""

    scheme: Literal[
        "Int8WeightOnly",
        "Int8DynamicActivation",
        "Int8Static",
        "Int4WeightOnly",
        "Float8WeightOnly",
        "Float8DynamicActivation",
    ]
    """Int8WeightOnly: 8-bit weights, computed in the model's precision; smaller, not faster on a CPU.
    Int8DynamicActivation: 8-bit weights and activations quantized as they come; smaller and, with an
    engine for it, faster. Int8Static: in ranges found beforehand, convolutions too. Int4WeightOnly: 4-bit weights.
    These two exist only as ONNX, for a CPU. Float8: 8-bit floats (e4m3); with activations for a GPU alone."""
    calibration: Calibration | None = None
    """Of Int8Static, GPTQ and smoothPercent. None means its defaults."""
    rounding: Literal["Nearest", "GPTQ"] = "Nearest"
    """Of Int4WeightOnly. GPTQ: weights make up for each other's rounding."""
    group_size: Annotated[int, Field(ge=16, le=256)] | None = None
    """Of Int4WeightOnly: weights that share a scale. None means 32."""
    embeddings: bool = False
    """Whether embeddings have fewer bits, too."""
    fine_tune_steps: Annotated[int, Field(ge=1, le=10**8)] | None = None
    """Optimizer steps with rounded weights (quantization-aware training), on the recipe's data. None: no training."""
    learning_rate: DecimalString | None = None
    """Peak learning rate of these steps. None means a tenth of the recipe's."""
    smooth_percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Of int8 activations: SmoothQuant's alpha. Weights take over the range of activations."""
    keep_layers_percent: Annotated[int, Field(ge=1, le=90)] | None = None
    """Layers that stay whole (of Int4WeightOnly: have 8 bits): those that the loss rises most with, as measured."""

    rules = (
        Rule(
            cel="!has(self.calibration) || self.scheme == 'Int8Static' || self.rounding == 'GPTQ' || "
            "has(self.smoothPercent)",
            message="calibration needs scheme Int8Static, rounding GPTQ or smoothPercent",
            holds=lambda data: (
                data.get("calibration") is None
                or data["scheme"] == "Int8Static"
                or data["rounding"] == "GPTQ"
                or data.get("smoothPercent") is not None
            ),
        ),
        Rule(
            cel="(!has(self.groupSize) && self.rounding == 'Nearest') || self.scheme == 'Int4WeightOnly'",
            message="groupSize and rounding GPTQ need scheme Int4WeightOnly",
            holds=lambda data: (
                (data.get("groupSize") is None and data["rounding"] == "Nearest") or data["scheme"] == "Int4WeightOnly"
            ),
        ),
        Rule(
            cel="!has(self.groupSize) || self.groupSize in [16, 32, 64, 128, 256]",
            message="groupSize must be 16, 32, 64, 128 or 256",
            holds=lambda data: data.get("groupSize") in (None, 16, 32, 64, 128, 256),
        ),
        Rule(
            cel="!has(self.fineTuneSteps) || (self.rounding == 'Nearest' && "
            "self.scheme in ['Int8WeightOnly', 'Int8DynamicActivation', 'Int4WeightOnly'])",
            message="fineTuneSteps needs rounding Nearest and scheme Int8WeightOnly, Int8DynamicActivation or "
            "Int4WeightOnly",
            holds=lambda data: (
                data.get("fineTuneSteps") is None or (data["rounding"] == "Nearest" and data["scheme"] in _TRAINABLE)
            ),
        ),
        Rule(
            cel="!has(self.learningRate) || has(self.fineTuneSteps)",
            message="learningRate needs fineTuneSteps",
            holds=lambda data: data.get("learningRate") is None or data.get("fineTuneSteps") is not None,
        ),
        Rule(
            cel="!has(self.smoothPercent) || self.scheme in ['Int8DynamicActivation', 'Int8Static']",
            message="smoothPercent needs scheme Int8DynamicActivation or Int8Static: others keep activations whole",
            holds=lambda data: data.get("smoothPercent") is None or data["scheme"] in _INT8_ACTIVATIONS,
        ),
    )

    @property
    def trains(self) -> bool:
        """Whether optimizer steps are taken."""
        return self.fine_tune_steps is not None


PrunedPart = Literal["Channels", "Heads", "HiddenWidth", "Layers"]


class Prune(Strict):
    """Remove weights."""

    structure: Literal["Unstructured", "Structured"]
    """Unstructured: single weights become zero, and are stored in few bytes. Structured: parts go, matrices get smaller
    and faster."""
    of: Annotated[list[PrunedPart], Field(min_length=1, max_length=4)] | None = None
    """Structured: what loses `percent`. Channels: of feed-forward layers and convolutions. Heads: of attention, with
    the keys and values that they share. HiddenWidth: between layers. Layers: whole ones. None means Channels and
    Heads."""
    criterion: Literal["L1", "Random", "Taylor", "Activation"] = "L1"
    """What goes first: what is small (L1), what the loss loses least with (Taylor: gradient times weight), what adds
    least (Activation); the last two on training samples. Random is a baseline."""
    percent: Annotated[int, Field(ge=1, le=100)]
    """Percent of the weights, or of each part, to remove."""
    scope: Literal["PerLayer", "Global"] = "PerLayer"
    """Unstructured: whether each layer loses that percent, or all together."""
    rounds: Annotated[int, Field(ge=1, le=100)] = 1
    """In how many rounds they go, most in the first ones."""
    fine_tune_steps: Annotated[int, Field(ge=0, le=10**7)] = 0
    """Optimizer steps after each round, on the recipe's data."""
    learning_rate: DecimalString | None = None
    """Peak learning rate of these steps. None means a tenth of recipe.optimizer.learningRate."""
    calibration_batches: Annotated[int, Field(ge=1, le=10**5)] = 8
    """Micro-batches that Taylor and Activation measure on."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of Random, and of the samples to measure on."""

    rules = (
        Rule(
            cel="self.percent < 100",
            message="percent must be at most 99: of 100 nothing would be left",
            holds=lambda data: data["percent"] < 100,
        ),
        Rule(
            cel="!has(self.of) || self.structure == 'Structured'",
            message="of needs structure Structured: single weights are of all layers",
            holds=lambda data: "of" not in data or data["structure"] == "Structured",
        ),
        Rule(
            cel="self.scope == 'PerLayer' || self.structure == 'Unstructured'",
            message="scope Global needs structure Unstructured: channels of two layers cannot be compared",
            holds=lambda data: data["scope"] == "PerLayer" or data["structure"] == "Unstructured",
        ),
        Rule(
            cel="self.fineTuneSteps > 0 || (self.rounds == 1 && !has(self.learningRate))",
            message="rounds and learningRate need fineTuneSteps: without training between them all rounds are one",
            holds=lambda data: data["fineTuneSteps"] > 0 or (data["rounds"] == 1 and data.get("learningRate") is None),
        ),
    )

    @property
    def trains(self) -> bool:
        """Whether optimizer steps are taken."""
        return self.fine_tune_steps > 0


@one_of(percent="of weights", energy_percent="of outputs")
class LowRank(Strict):
    """Two small matrices in place of each matrix of the layers: those that change its outputs least."""

    percent: Annotated[int, Field(ge=1, le=95)] | None = None
    """Percent of the weights of each matrix that go."""
    energy_percent: Annotated[int, Field(ge=1, le=99)] | None = None
    """Percent of the squares of each matrix's outputs that stay at least."""
    calibration_samples: Annotated[int, Field(ge=0, le=10**6)] = 128
    """Training samples that these outputs are of. 0: all inputs count alike."""


class FineTune(Strict):
    """Train the model as it stands on the recipe's data."""

    trains: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1, le=10**8)]
    """Optimizer steps."""
    learning_rate: DecimalString | None = None
    """Peak learning rate. None means a tenth of the recipe's."""
    warmup_steps: Annotated[int, Field(ge=0, le=10**8)] = 0
    """Steps up to the peak; then the rate falls to zero on a straight line."""

    rules = (
        Rule(
            cel="self.warmupSteps < self.steps",
            message="warmupSteps must be less than steps",
            holds=lambda data: data["warmupSteps"] < data["steps"],
        ),
    )


class Distill(Strict):
    """Train a student to answer as a teacher does (Hinton et al., arXiv 1503.02531)."""

    trains: ClassVar[bool] = True

    student: Literal["StepsBefore", "EveryOtherLayer", "Lighter"] = "StepsBefore"
    """StepsBefore: the model as it stands, such as pruned. EveryOtherLayer: half of its layers, as DistilBERT has them.
    Lighter: a model of other settings, which begins as that one where their tensors are alike."""
    lighter: Annotated[dict[str, Annotated[int, Field(ge=0, le=10**8)]], Field(max_length=16)] | None = None
    """Settings of a Lighter student that differ from the model's, such as numLayers: 2."""
    teacher: Path | None = None
    """A folder with a model that costopt has trained, of the same vocabulary or classes. None means the trained model.
    """
    steps: Annotated[int, Field(ge=1, le=10**8)]
    """Optimizer steps; in the first twentieth of them the rate rises to its peak, then it falls to zero."""
    learning_rate: DecimalString | None = None
    """Peak learning rate. None means the recipe's, or a tenth of it for StepsBefore."""
    temperature: Annotated[int, Field(ge=1, le=100)] = 2
    """What both models' logits are divided by: the larger, the more unlikely answers count."""
    labels_percent: Annotated[int, Field(ge=0, le=100)] = 50
    """Percent of the loss that are the data's own answers; the rest are the teacher's."""
    hidden_percent: Annotated[int, Field(ge=0, le=10000)] = 0
    """Percent of the distance of the layers' outputs, by learned projections, from the teacher's that is added to the
    loss."""

    rules = (
        Rule(
            cel="(self.student == 'Lighter') == has(self.lighter)",
            message="lighter must be set for student Lighter, and for no other",
            holds=lambda data: (data["student"] == "Lighter") == ("lighter" in data),
        ),
    )


@one_of()
class ShareWeights(Strict):
    """One set of weights in several places."""

    layers: Annotated[int, Field(ge=2, le=64)] | None = None
    """So many neighbouring layers become their mean, which is applied as often."""
    cluster_bits: Annotated[int, Field(ge=1, le=8)] | None = None
    """Each matrix keeps 2 to this power different values (k-means), stored as a codebook and indices."""


class External(Strict):
    """A step of a package that is installed where variants are made."""

    name: Annotated[str, StringConstraints(pattern=ENTRY_POINT_PATTERN, max_length=63)]
    """Of its entry point, in the group costopt.compression_steps."""
    settings: dict[
        Annotated[str, StringConstraints(max_length=63)], Annotated[str, StringConstraints(max_length=1024)]
    ] = Field(default_factory=dict, max_length=32)
    """Whatever it understands."""
    trains: bool = False
    """Whether it takes optimizer steps."""


@tagged_union
class Step(Strict):
    """One compression step."""

    type: Literal["Quantize", "Prune", "FineTune", "Distill", "LowRank", "ShareWeights", "External"]
    """Which of the settings below is used."""
    quantize: Quantize | None = None
    """Settings of a Quantize step."""
    prune: Prune | None = None
    """Settings of a Prune step."""
    fine_tune: FineTune | None = None
    """Settings of a FineTune step."""
    distill: Annotated[Distill | None, _IN_THE_REFERENCE] = None
    """Settings of a Distill step: see docs/reference.md."""
    low_rank: LowRank | None = None
    """Settings of a LowRank step."""
    share_weights: ShareWeights | None = None
    """Settings of a ShareWeights step."""
    external: External | None = None
    """Settings of an External step."""


class Measure(Strict):
    """At which sizes a variant is timed besides the micro-batch of whole samples, and under which engines."""

    batch_sizes: Annotated[list[Annotated[int, Field(ge=1, le=10**5)]], Field(min_length=1, max_length=4)] | None = None
    """Samples of a pass. None means the micro-batch."""
    sequence_lengths: (
        Annotated[list[Annotated[int, Field(ge=1, le=2**20)]], Field(min_length=1, max_length=4)] | None
    ) = None
    """Tokens of a sample, each with each of batchSizes. None means the context length."""
    engines: Annotated[list[EngineName], Field(min_length=1, max_length=4)] | None = None
    """Engines to time, too."""


class Accept(Strict):
    """What a variant must be to be accepted, beside the trained model in the same process. One that is slower and not
    smaller, or no better than guessing, never is."""

    max_quality_drop_percent: DecimalString | None = None
    """Most of the quality that may be lost, in percent: of the model's accuracy, or, of what is no classifier, by how
    much the validation loss may rise. None means 1 for each Quantize step, 0 for FineTune and 5 for each other, or no
    such bound with maxLossIncrease."""
    metric: QualityMetric | None = None
    """What maxQualityDropPercent is of. None means Accuracy of a classifier, else Loss."""
    max_loss_increase: DecimalString | None = None
    """Most that the validation loss may rise, in its unit (nats). None means no such bound."""
    min_speedup: DecimalString | None = None
    """Least speed, as times the model's. None means 0.9 if a step is there for speed, else no bound."""
    min_size_ratio: DecimalString | None = None
    """How many times smaller the file that its engine loads must be at least. None means no bound."""


class Auto(Strict):
    """Many lists of steps are tried, with ever more training and samples for ever fewer of them, and the best one that
    is accepted is kept (successive halving, arXiv 1502.07943)."""

    minimize: Literal["Latency", "Bytes", "Cost"]
    """What is best. Cost: the time that making it takes, and that of `batches` passes."""
    trials: Annotated[int, Field(ge=1, le=64)] = 24
    """Most lists that are tried; one that is tried again with more counts again."""
    seconds: Annotated[int, Field(ge=6, le=10**6)] | None = None
    """Most that the search may take; the last trial ends."""
    fine_tune_steps: Annotated[int, Field(ge=0, le=10**6)] | None = None
    """Optimizer steps of what trains, at last. None means a tenth of the recipe's. 0: nothing trains."""
    batches: Annotated[int, Field(ge=1, le=10**15)] | None = None
    """Of Cost: forward passes that are to come."""

    rules = (
        Rule(
            cel="(self.minimize == 'Cost') == has(self.batches)",
            message="batches must be set for minimize Cost only",
            holds=lambda data: (data["minimize"] == "Cost") == (data.get("batches") is not None),
        ),
    )


_CEL_NO_GRAPH = f"self.steps.all(s, !has(s.quantize) || !(s.quantize.scheme in {cel_list(GRAPH_ONLY)}))"


def _schemes(variant: PlainData) -> list[str]:
    """Of the Quantize steps of a plain variant."""
    return [str((step.get("quantize") or {}).get("scheme")) for step in variant["steps"]]


def _makes_graph(variant: PlainData) -> bool:
    """Whether a plain variant exists only as an ONNX graph."""
    return any(scheme in GRAPH_ONLY for scheme in _schemes(variant))


def is_plain_int8(quantize: PlainData) -> bool:
    """Whether these settings of a Quantize step, as plain data, give whole activations and embeddings, and weights of 8
    bits."""
    return quantize.get("scheme") == "Int8WeightOnly" and not quantize.get("embeddings", False)


class Variant(Strict):
    """One compressed form of the trained model. Each variant is made and measured in a pod of its own."""

    name: Annotated[Name, Field(max_length=30)]
    """Name of the variant, used in child names and in the status; not "train", "model", "adapter" or
    "rejected"."""
    steps: Annotated[list[Step], Field(max_length=8)] = Field(default=[])
    """Steps in order."""
    auto: Annotated[Auto | None, _IN_THE_REFERENCE] = None
    """Find steps: see docs/reference.md."""
    accept: Accept | None = None
    """What it must be to be accepted. None means the defaults."""
    required: bool = False
    """Whether the job fails if it is rejected."""
    measure_seconds: Annotated[int, Field(ge=6, le=86400)] = 120
    """Most that measuring may take, beside compiling."""
    measure: Measure | None = None
    """Further sizes and engines to time."""
    resources: Annotated[NodeResources | None, Field(json_schema_extra=DESCRIBED_ELSEWHERE)] = None
    """What the variant's pod is asked for; None means train.resourcesPerNode, without its devices if `target` is CPU:
    see docs/reference.md."""
    target: Literal["CPU", "GPU", "Auto"] = "Auto"
    """What it is to run on, and is measured on. Auto: a GPU, if its pod has one."""
    formats: Annotated[list[Literal["Onnx", "TorchExport", "CompressedTensors"]], Field(max_length=3)] = Field(
        default_factory=list
    )
    """Further forms of its artifact. TorchExport: a program that torch alone loads. CompressedTensors: a folder that
    the Hugging Face library loads. Without Onnx here, it has that if onnxruntime is the fastest and it is not larger.
    """

    rules = (
        Rule(
            cel="self.name != 'train'",
            message="name must not be 'train', which is the training stage's own name",
            holds=lambda data: data["name"] != "train",
        ),
        Rule(
            cel="!(self.name in ['model', 'adapter', 'rejected'])",
            message="name must not be 'model', 'adapter' or 'rejected', which are other folders beside the variants",
            holds=lambda data: data["name"] not in ("model", "adapter", "rejected"),
        ),
        Rule(
            cel="(self.steps.size() > 0) != has(self.auto)",
            message="exactly one of steps and auto must be set",
            # Of what has no name, such as a mapping in place of the list of variants, other mistakes are told.
            holds=lambda data: "name" not in data or bool(data["steps"]) != (data.get("auto") is not None),
        ),
        Rule(
            cel="!has(self.auto) || !has(self.auto.seconds) || self.auto.seconds >= self.measureSeconds",
            message="auto.seconds must be at least measureSeconds",
            holds=lambda data: (
                (data.get("auto") or {}).get("seconds") is None or data["auto"]["seconds"] >= data["measureSeconds"]
            ),
        ),
        Rule(
            cel="self.target != 'CPU' || "
            "!self.steps.exists(s, has(s.quantize) && s.quantize.scheme == 'Float8DynamicActivation')",
            message="target must not be CPU for scheme Float8DynamicActivation, which only a GPU computes",
            holds=lambda data: data["target"] != "CPU" or "Float8DynamicActivation" not in _schemes(data),
        ),
        Rule(
            cel="!has(self.formats) || !('Onnx' in self.formats) || "
            "!self.steps.exists(s, has(s.quantize) && s.quantize.scheme.startsWith('Float8'))",
            message="formats must not have Onnx for a Float8 scheme, which only torch has",
            holds=lambda data: (
                "Onnx" not in data["formats"] or not any(scheme.startswith("Float8") for scheme in _schemes(data))
            ),
        ),
        Rule(
            cel="self.steps.filter(s, s.type == 'Quantize').size() == 0 || "
            "(self.steps.filter(s, s.type == 'Quantize').size() == 1 && "
            "self.steps[self.steps.size() - 1].type == 'Quantize')",
            message="a Quantize step must be the last of a variant's steps: quantized weights cannot change further",
            holds=lambda data: all(step["type"] != "Quantize" for step in data["steps"][:-1]),
        ),
        Rule(
            cel=f"self.target != 'GPU' || ({_CEL_NO_GRAPH} && !(has(self.formats) && 'Onnx' in self.formats))",
            message="target must be CPU or Auto for Int8Static, Int4WeightOnly and formats Onnx: they make an ONNX "
            "graph, which only a CPU runs here",
            holds=lambda data: data["target"] != "GPU" or not (_makes_graph(data) or "Onnx" in data["formats"]),
        ),
        Rule(
            cel=f"!has(self.formats) || !('TorchExport' in self.formats) || {_CEL_NO_GRAPH}",
            message="formats must not have TorchExport with Int8Static or Int4WeightOnly, which make an ONNX graph and "
            "nothing else",
            holds=lambda data: "TorchExport" not in data["formats"] or not _makes_graph(data),
        ),
        Rule(
            cel="!has(self.formats) || !('CompressedTensors' in self.formats) || self.steps.exists(s, "
            "has(s.quantize) && s.quantize.scheme == 'Int8WeightOnly' && !s.quantize.embeddings)",
            message="formats CompressedTensors needs a Quantize step of scheme Int8WeightOnly without embeddings",
            holds=lambda data: (
                "CompressedTensors" not in data["formats"]
                or any(is_plain_int8(step.get("quantize") or {}) for step in data["steps"])
            ),
        ),
        Rule(
            cel="self.steps.size() == 0 || "
            "self.steps.filter(s, has(s.shareWeights) && has(s.shareWeights.clusterBits)).size() <= "
            "(has(self.steps[self.steps.size() - 1].shareWeights) && "
            "has(self.steps[self.steps.size() - 1].shareWeights.clusterBits) ? 1 : 0)",
            message="a ShareWeights step with clusterBits must be the last of a variant's steps",
            holds=lambda data: all(
                "clusterBits" not in (step.get("shareWeights") or {}) for step in data["steps"][:-1]
            ),
        ),
    )


def trains(steps: Sequence[Step]) -> bool:
    """Whether one of `steps` takes optimizer steps: then a gang makes the variant, as large as that of training, and
    goes on from checkpoints. The settings of such a step say so: `trains` of them is true.

    A variant with `auto` has no steps yet, and one rank makes it: most of its time is measuring, in which the others of
    a gang would wait, and cost."""
    return any(getattr(settings_named(step), "trains", False) for step in steps)


def calibrates(settings: Quantize) -> bool:
    """Whether training samples are needed to quantize so."""
    return settings.scheme == "Int8Static" or settings.rounding == "GPTQ"


def uses_its_place(variant: Variant) -> bool:
    """Whether a step of `variant` names what must be installed, or lie, where it is made; or settings of a model."""
    return any(step.external is not None or step.distill is not None for step in variant.steps)
