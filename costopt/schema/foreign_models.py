"""Models that are not our own: those of the Hugging Face library.

HuggingFace     which model of that library, and its task
LoRA            what is trained of it, if not all
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from costopt.schema.base import Path, Rule, Strict
from costopt.schema.data_kinds import LABELLED_TEXT, MASKED_TEXT, TEXT, BySetting, ReadsSamples
from costopt.schema.unions import one_of

HUB_PATTERN = r"^([A-Za-z0-9][-\w.]*/)?[A-Za-z0-9][-\w.]*(@[-\w./]+)?$"


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
    task: Literal["CausalLM", "MaskedLM", "SequenceClassification"] = "CausalLM"
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
