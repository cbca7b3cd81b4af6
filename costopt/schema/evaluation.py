"""What a model that no recipe of the job trains is measured on: that of a command, or one that is given."""

from typing import Annotated

from pydantic import Field

from costopt.schema.base import DESCRIBED_ELSEWHERE, Strict
from costopt.schema.data import SourceSettings
from costopt.schema.data_kinds import data_fits_task
from costopt.schema.foreign_models import HuggingFace, TaskOfLibrary
from costopt.schema.packing import boundaries_suit_task


class CommandEvaluation(Strict):
    """How the model that a command leaves, or `model` names, is measured. A command hands over a folder of the Hugging
    Face library by `session.artifact(folder)`. Weights are taken in FP32."""

    data: Annotated[SourceSettings, Field(json_schema_extra=DESCRIBED_ELSEWHERE)]
    """As recipe.data. Only samples held out are used: `validationPercent` of the text, from its end, or of the labelled
    documents. The folder's tokenizer is used if it has one. Labels must be those of the model (`id2label`)."""
    task: TaskOfLibrary | None = None
    """What the model is for (see HuggingFace). None: what the `architectures` of its config.json say."""
    context_length: Annotated[int, Field(ge=8, le=1048576)] | None = None
    """Tokens per sample; at most the positions of the model. None: 512, or the positions if these are fewer; what one
    that costopt has trained was trained with."""
    micro_batch_size: Annotated[int, Field(ge=1, le=10**6)] = 8
    """Samples per forward pass. Latency is the time of one."""
    max_samples: Annotated[int, Field(ge=1, le=10**9)] = 512
    """Held-out samples at most, spread evenly over the split and the same for every variant."""
    trust_remote_code: bool = False
    """Whether Python code in the model's folder is run, which can do anything that the job can. Never unless true."""

    rules = (data_fits_task(HuggingFace.reads, SourceSettings), *boundaries_suit_task)
