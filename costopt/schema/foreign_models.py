"""Models that are not our own: those of the Hugging Face library, and those of the user's own package.

HuggingFace     which model of that library, and its task
Import          a function of the user's, which makes the model
LoRA            what is trained of it, if not all
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from costopt.schema.base import Path, Rule, Strict
from costopt.schema.data_kinds import IMAGES, LABELLED_TEXT, MASKED_TEXT, TEXT, BySetting, ReadsSamples
from costopt.schema.unions import one_of

FUNCTION_PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
HUB_PATTERN = r"^([A-Za-z0-9][-\w.]*/)?[A-Za-z0-9][-\w.]*(@[-\w./]+)?$"

TaskOfLibrary = Literal["CausalLM", "MaskedLM", "SequenceClassification"]
"""What a model of the Hugging Face library is for."""


class LoRA(Strict):
    """Low-rank adapters (arXiv 2106.09685): small matrices beside those of the model, which alone are trained."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    """Rows of an adapter's smaller matrix."""
    alpha: Annotated[int, Field(ge=1, le=65536)] = 16
    """What an adapter adds is multiplied by alpha / rank."""
    dropout_percent: Annotated[int, Field(ge=0, le=90)] = 0
    """Percent of an adapter's inputs dropped while training."""
    target_modules: (
        Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=256)]], Field(min_length=1, max_length=64)
        ]
        | None
    ) = None
    """Names of the layers that get an adapter, as the model calls them (the end of the name will do, such as q_proj).
    None means every linear layer but the head."""


@one_of(
    path="a folder with its weights",
    config="a config.json, or a folder with one, to train from scratch",
    hub="its id at the Hugging Face hub",
)
class HuggingFace(ReadsSamples):
    """A model of the Hugging Face library `transformers`. Its own tokenizer is used if it has one; the trained model is
    written as a folder that the library loads."""

    reads = BySetting("task", {"CausalLM": TEXT, "MaskedLM": MASKED_TEXT, "SequenceClassification": LABELLED_TEXT})

    path: Path | None = None
    """A folder with config.json, weights in safetensors and, as a rule, a tokenizer.json. Relative as paths of data."""
    config: Path | None = None
    """A config.json, or a folder with one, for a model with fresh weights. A tokenizer.json in the folder is used."""
    hub: Annotated[str, StringConstraints(pattern=HUB_PATTERN, min_length=1, max_length=256)] | None = None
    """An id at the hub, with a revision if need be (`org/name@revision`), where the process that trains has a network.
    Only JSON, safetensors and tokenizer files are fetched, into the job's cache."""
    task: TaskOfLibrary = "CausalLM"
    """CausalLM tells each token from those before it; MaskedLM tells hidden tokens (see Encoder) from those around
    them; SequenceClassification tells the label of a document, with a fresh head if the folder has none for as many."""
    context_length: Annotated[int, Field(ge=8, le=1048576)] = 512
    """Tokens per sample; at most the positions of the model."""
    attention: Literal["SDPA", "Eager", "FlashAttention2"] = "SDPA"
    """How attention is computed. SDPA: by torch's fused kernels. FlashAttention2 needs that package, and a GPU."""
    trust_remote_code: bool = False
    """Whether Python code in the model's folder is run, which can do anything that the job can. Never unless true."""
    lora: LoRA | None = None
    """Train low-rank adapters only. None trains all weights."""

    rules = (
        Rule(
            cel="!has(self.lora) || !has(self.config)",
            message="lora needs path or hub: adapters are added to weights that were trained before",
            holds=lambda data: "lora" not in data or "config" not in data,
        ),
    )

    @property
    def runs_code(self) -> bool:
        """Whether code of others is run to build such a model."""
        return self.trust_remote_code


class Import(ReadsSamples):
    """A model that a function of the user's own package makes: it returns a torch.nn.Module that maps a batch of inputs
    to logits, tokens (B, T) -> (B, T, V), or labelled text (B, T) and images (B, C, H, W) -> (B, K); or a pair of
    such a module and its metrics, functions of outputs and targets by name."""

    reads = BySetting(
        "data", {"Text": TEXT, "MaskedText": MASKED_TEXT, "LabelledText": LABELLED_TEXT, "Images": IMAGES}
    )
    runs_code: ClassVar[bool] = True

    function: Annotated[str, StringConstraints(pattern=FUNCTION_PATTERN, min_length=3, max_length=256)]
    """Where it is, such as `package.module:function`. It is called with `arguments` and, of vocabulary_size,
    num_classes, image_shape, pad_id and context_length, those that it has a parameter for and that the data tells."""
    path: Path | None = None
    """A folder that is searched for the package, after all that is installed. None means that it is installed where the
    job trains, as in an image of your own. PYTHONPATH is not obeyed."""
    arguments: Annotated[dict[str, Any], Field(max_length=64)] | None = None
    """Further arguments by name: texts, numbers, lists and mappings."""
    data: Literal["Text", "MaskedText", "LabelledText", "Images"] = "Text"
    """What it is trained on: each token of a text, hidden tokens of a text, or the class of a document or an image."""
    context_length: Annotated[int, Field(ge=8, le=1048576)] = 128
    """Tokens per sample. Not used by Images."""
