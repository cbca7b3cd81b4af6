"""What a family of models is, and what one of its models is.

ModelFamily     one row of the table: what is known before there is a model
FromFolder      a row whose models come from a folder, and go into one, in a format of their own
LayeredModel    a model: layers that a pipeline shares out, and channels that may be pruned
GraphScratch    where a graph of it is made that is only run
Metric          what a model's work is counted in; METRICS: by the kind of samples that it reads
Prunable, Sizes  what structured pruning may take from a model; kept_layers: the layers that it left
stored_tensors, fill      what an artifact holds of a model: each tensor once
moving_buffers            what a pass forward changes
"""

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from costopt.schema.data_kinds import IMAGES, LABELLED_TEXT, MASKED_TEXT, TABLES, TEXT
from costopt.schema.variant_details import Sensitivity
from costopt.schema.variant_report import Target
from costopt_trainer.models.axes import Axes
from costopt_trainer.models.chunked_loss import Use, each_chunk, head_loss_sum
from costopt_trainer.models.loss import Tell, loss_sum
from costopt_trainer.models.own_metrics import NO_METRICS, OwnMetrics
from costopt_trainer.models.shape import ModelShape, Widths


@dataclass
class GraphScratch:
    """A place for an ONNX graph that is only run: it is made once for all copies of a model that have this."""

    folder: Path
    """Whoever has made this removes it."""
    seconds: float | None = None
    """What making the graph took that lies there; None: none of this process does."""


@dataclass(frozen=True)
class Metric:
    """What throughput and loss are counted in, and whether right answers are counted."""

    rate: Literal["tokens_per_second", "samples_per_second"]
    """The figure of Progress that tells how fast training is."""
    target: Target
    """What a loss is per."""
    accuracy: bool
    """Whether an evaluation counts how often each class was told rightly. It costs a pass over all logits."""

    @property
    def loss(self) -> str:
        """Name of the validation loss among the results of an evaluation."""
        return f"validationLossNatsPer{self.target}"

    @property
    def perplexity(self) -> str | None:
        """Name of the perplexity among them; None where nobody would ask for it."""
        return None if self.accuracy else f"validationPerplexityPer{self.target}"


TOKENS = Metric("tokens_per_second", "Token", accuracy=False)
"""Each token of a sample is a target."""
MASKED_TOKENS = Metric("tokens_per_second", "MaskedToken", accuracy=False)
"""Some tokens of a sample are targets."""
SAMPLES = Metric("samples_per_second", "Sample", accuracy=True)
"""Each sample is one target, its class."""

METRICS: Mapping[str, Metric] = {
    TEXT: TOKENS,
    MASKED_TEXT: MASKED_TOKENS,
    LABELLED_TEXT: SAMPLES,
    IMAGES: SAMPLES,
    TABLES: SAMPLES,
}
"""The kind of samples that a model reads -> what its work is counted in."""


@dataclass(frozen=True)
class Prunable:
    """A layer whose output channels may go. What depends on them is found by tracing the model."""

    layer: nn.Module
    channels: int
    """Output channels now."""


@dataclass(frozen=True)
class Sizes:
    """How large a model is to be; None: as it is. Equal in all layers."""

    heads: int | None = None
    """Query heads."""
    key_heads: int | None = None
    """Heads of keys and values."""
    hidden_width: int | None = None
    """Width between layers."""
    channels: int | None = None
    """Hidden width of feed-forward layers."""


SplitRole = Literal[
    "columns",
    "rows",
    "embedding",
    "head",
    "norm",
    "entry",
    "sublayer",
    "gathered columns",
    "rows of whole inputs",
    "norm of heads",
]
"""Of a module in a model whose tensors are split: a linear layer split by its outputs (columns) or its inputs (rows);
an embedding split as the head is, which shares its matrix; the head, whose outputs stay split; and, where positions are
shared out between layers, a norm, what gives the first layer its input (entry), and what needs all (sublayer).

Where layers do more with a matrix than hand it on: columns whose outputs are gathered, rows whose inputs are there as a
whole, and a norm that each rank applies to its own heads."""


class LayeredModel(nn.Module):
    """A model of any family, or a piece of one.

    The whole maps inputs (B, ...) to logits: (B, T, V) for tokens (B, T), or (B, K). A piece that lacks the first or
    the last layer takes or gives activations, one dense tensor with B first.
    """

    num_layers: int
    """Of the whole model."""
    layers: nn.ModuleDict
    """By number, not a list: a piece of the model keeps the names of its layers."""
    tied: Mapping[str, str] = {}
    """Parameters that are another one: name -> name of that other one. `state_dict` has both names; a checkpoint or an
    artifact holds the tensor once, under the other one. A piece that has only the first of them has a copy under it."""
    chunked_loss: bool | None = None
    """Whether logits are computed for some tokens at a time; None: where they are large."""
    label_smoothing: float = 0.0
    """The share of each target that `loss_sum` spreads over all classes; evaluations are without it."""
    tell_losses: Tell | None = None
    """Hears of each target's loss while `loss_sum` computes it; not in a model with its own loss."""
    weights_prefix: str = ""
    """What the names of all weights begin with here, and not in the file of an artifact."""

    graph_folder: Path | None = None
    """Where an ONNX graph of this very model lies; None: none was made."""
    graph_scratch: GraphScratch | None = None
    """Where one may be made that is only run; None: among the temporary files of this machine."""
    graph_seconds: float = 0.0
    """What making its graph took, where that is already there and no file of the artifact will hold it: making it comes
    before each use."""
    sensitivity: Sensitivity | None = None
    """Of its layers to fewer bits, where some were kept in more for it."""
    kept_in_bits: frozenset[str] = frozenset()
    """Names of these layers."""

    own_metrics: OwnMetrics = NO_METRICS
    """What its evaluations tell besides the loss."""

    layers_alike: bool = False
    """Whether each layer takes what the one before it takes, so that any of them may go."""
    built_as: ModelShape | None = None
    """What its like is built from, where a compression step has made another of it than its recipe says; None: that."""

    split_plan: Mapping[str, "SplitRole"] = {}
    """What each module does when tensors are split over ranks: name, in which `*` is any layer, -> its role. None: this
    model cannot be split so."""

    def split_fault(self, ranks: int, *, sequence: bool) -> str | None:  # noqa: ARG002
        """Why `ranks` cannot split the tensors of this model, as the sentence of an error; None if they can.

        `sequence`: and share out positions between the layers.
        """
        return None if self.split_plan else "recipe.parallelism.tensor must be 1: this model cannot be split by tensors"

    def blocks(self) -> Sequence[nn.Module]:
        """The layers that this piece holds, in order: what is sharded, recomputed or compiled one by one."""
        return list(self.layers.values())

    def loss_sum(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a micro-batch, summed over its targets, 0-dim float32; what training calls.

        A family with a `vocabulary_head` never holds all logits at once where these are large.
        """
        if self.vocabulary_head is None:
            return loss_sum(self(inputs), targets, self.label_smoothing, self.tell_losses)
        return head_loss_sum(
            self.hidden(inputs),
            self.vocabulary_head,
            targets,
            chunked=self.chunked_loss,
            smoothing=self.label_smoothing,
            tell=self.tell_losses,
        )

    def each_logits(self, inputs: Tensor, targets: Tensor, use: Use) -> None:
        """Call `use` with the logits of a micro-batch and their targets: some at a time where `loss_sum` has so."""
        if self.vocabulary_head is None:
            use(self(inputs), targets)
        else:
            each_chunk(self.hidden(inputs), self.vocabulary_head, targets, use, chunked=self.chunked_loss)

    @property
    def has_own_loss(self) -> bool:
        """Whether `loss_sum` is somebody else's code, which smooths no labels."""
        return False

    @property
    def vocabulary_head(self) -> nn.Module | None:
        """The layer that makes logits of `hidden(inputs)`; None without one, and in a family that does not say."""
        return None

    def hidden(self, inputs: Tensor) -> Tensor:
        """The model up to `vocabulary_head`: inputs (B, ...) -> (..., D). Families that have the one have the other."""
        raise NotImplementedError

    def merged(self) -> "LayeredModel":
        """The model as it is deployed; may change this one."""
        return self

    def files(self, *, quantized: bool) -> dict[str, bytes]:  # noqa: ARG002
        """Further files of its artifact, by name; our own config.json is then called costopt.json."""
        return {}

    def adapter_files(self) -> dict[str, bytes]:
        """Files of the adapters that were trained beside frozen weights, by name; none if all was trained."""
        return {}

    def keep_layers(self, first: int, last: int) -> Self:
        """Reduce this model, in place, to layers [first, last), and return it.

        What comes before the layers stays if `first` is 0, what comes after them if `last` is `num_layers`. Parameters
        and buffers keep their names. Raises ValueError unless 0 <= first < last <= num_layers.
        """
        if not 0 <= first < last <= self.num_layers:
            raise ValueError(f"layers must satisfy 0 <= first < last <= {self.num_layers}, not {first}, {last}")
        self.layers = nn.ModuleDict({str(layer): self.layers[str(layer)] for layer in range(first, last)})
        self.drop_ends(start=first > 0, end=last < self.num_layers)
        return self

    def select_layers(self, kept: Sequence[int]) -> None:
        """Reduce this whole model, in place, to some of its `blocks()`, in order, which are numbered anew.

        Raises ValueError if its layers are not alike.
        """
        if not self.layers_alike:
            raise ValueError("its layers do not fit one another")
        self._renumber(kept)
        self.layer_numbers = None

    def _renumber(self, kept: Sequence[int]) -> None:
        self.layers = nn.ModuleDict({str(number): self.layers[str(layer)] for number, layer in enumerate(kept)})
        self.num_layers = len(kept)

    @abstractmethod
    def drop_ends(self, *, start: bool, end: bool) -> None:
        """Remove what comes before the first layer (`start`), and what comes after the last one (`end`)."""

    @abstractmethod
    def widths(self) -> dict[str, tuple[int, ...]]:
        """The inner widths of this whole model as they are now: what `build` needs to build its like."""

    layer_numbers: tuple[int, ...] | None = None
    """The layers of the settings that are left; None: all."""

    def axes(self) -> Axes | None:
        """What the axes of this whole model's parameters are: then heads, channels and the width between layers may
        be cut out. None: what may go is what `prunable` says."""
        return None

    def prunable(self) -> Iterator[Prunable]:
        """Of a model without `axes`: whose output channels structured pruning may take from this whole model. Inputs
        and outputs keep their shapes. Nothing, if no layer can be made narrower by itself."""
        return iter(())

    def removable_layers(self) -> tuple[int, ...]:
        """Layers, by their place, that may go: each only adds something to what passes it by."""
        return tuple(range(len(self.blocks()))) if self.layers_alike else ()

    def drop_layers(self, gone: Collection[int]) -> None:
        """Remove layers, by their place, from this whole model; the others are numbered anew."""
        kept = [place for place in range(self.num_layers) if place not in gone]
        numbers = self.layer_numbers or tuple(range(self.num_layers))
        self.layer_numbers = tuple(numbers[place] for place in kept)
        self._renumber(kept)

    def misfit(self, sizes: Sizes, shapes: Mapping[str, tuple[int, ...]]) -> str | None:  # noqa: ARG002
        """Why no model of this kind has parameters of `shapes`, by name, at these sizes; None if one has."""
        return None

    def settle(self, sizes: Sizes) -> None:
        """Called after parameters were cut to `sizes`, which fit."""


class ModelFamily(Protocol):
    """How models of one type are made. `settings` are those that the type names.

    What data it can be trained on is said in the schema, where rules need it: `reads` of its settings. What its work is
    counted in follows from that.
    """

    may_change: frozenset[str]
    """Settings, as documents call them, that shape no weight: a resume may have others."""

    def context_length(self, settings: Any) -> int | None:
        """Tokens per sample, and of an input at most; None if samples come as they are, such as images."""

    def build(self, settings: Any, shape: ModelShape, widths: Widths) -> LayeredModel:
        """A model with fresh weights from torch's global random state, on the CPU, in training mode.

        `widths` gives the inner widths of a structurally pruned model; what it lacks is as the settings say. Raises
        ValueError if `shape` lacks what this family needs or `widths` has not one width per layer, and
        NotRetryable("InvalidSettings") if the data does not suit the settings.
        """


def kept_layers(widths: Widths, num_layers: int) -> tuple[int, ...]:
    """The layers, of `num_layers`, that `widths` have left, in order. Raises ValueError for others."""
    kept = widths.get("layers", tuple(range(num_layers)))
    if not kept or list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < num_layers:
        raise ValueError(f"widths must name layers below {num_layers} in order, not {kept}")
    return tuple(kept)


def _tied(model: nn.Module) -> Mapping[str, str]:
    return model.tied if isinstance(model, LayeredModel) else {}


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that `model`, or a piece, has to store."""
    tied = _tied(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


def moving_buffers(module: nn.Module) -> list[Tensor]:
    """Buffers that a pass forward may change, such as moving averages: those that a checkpoint has, tables left out."""
    kept = module.state_dict().keys()
    return [buffer for name, buffer in module.named_buffers() if name in kept]


def fill(model: nn.Module, tensors: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Copy what `stored_tensors` gives into `model`, or a piece. Raises RuntimeError for other names or shapes.

    `assign`: take the tensors themselves, as for a model on the meta device, which has no memory to copy to.
    """
    names = model.state_dict().keys()
    tied = {name: other for name, other in _tied(model).items() if name in names}
    copies = {name: tensors[other] for name, other in tied.items() if other in tensors}
    not_here = {other for other in tied.values() if other not in names}
    here = {name: value for name, value in tensors.items() if name not in not_here} | copies
    model.load_state_dict(here, assign=assign)


@runtime_checkable
class FromFolder(Protocol):
    """A row of the table whose models have a folder of their own, which other tools read too."""

    def tokenizer_folder(self, settings: Any) -> Path | None:
        """The folder of the tokenizer that the model brings. Raises NotRetryable for what is wrong with the model's."""

    def identity(self, settings: Any) -> dict[str, Any]:
        """What, besides settings, must be equal to resume a checkpoint, as JSON."""

    def rebuild(self, settings: Any, shape: ModelShape, folder: Path) -> LayeredModel:
        """A model to be filled with the weights of an artifact. Raises ValueError, OSError or NotRetryable."""
