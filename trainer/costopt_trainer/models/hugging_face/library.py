"""The packages `transformers` and `peft`: imported late, because they take seconds, and quietly.

TASKS         the word of a task -> which classes of the library it needs
library       transformers
adapters      peft
can_be        whether an architecture fits a task
task_of       the task that a folder was saved for
"""

import importlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from costopt.schema.foreign_models import TaskOfLibrary
from costopt_trainer.errors import NotRetryable


@dataclass(frozen=True)
class Task:
    """One way to use an architecture."""

    auto_class: str
    """Of transformers: finds the class by the configuration."""
    architectures: str
    """The library's own table: the type of a model -> the class for this task."""
    peft: str | None
    """What peft calls it."""


TASKS: Mapping[TaskOfLibrary, Task] = {
    "CausalLM": Task("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "CAUSAL_LM"),
    "MaskedLM": Task("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES", None),
    "SequenceClassification": Task(
        "AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", "SEQ_CLS"
    ),
}


def library(*, online: bool = False) -> Any:
    """transformers. Raises NotRetryable("InvalidSettings") if it is not installed.

    Without `online` the process is told, before the first import, that there is no network.
    """
    if not online:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # It imports torchao, whose first import says much that is of no use to a user.
    log = logging.getLogger("torch.utils._pytree")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        transformers = _installed("transformers")
        importlib.import_module("transformers.modeling_utils")
    finally:
        log.setLevel(level)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def adapters() -> Any:
    """peft. Raises NotRetryable("InvalidSettings") if it is not installed."""
    library()
    return _installed("peft")


def can_be(word: TaskOfLibrary, config: Mapping[str, Any]) -> bool:
    """Whether the library has the architecture of a config.json for a task."""
    tables = importlib.import_module("transformers.models.auto.modeling_auto")
    kind = config["model_type"]
    if kind not in getattr(tables, TASKS[word].architectures):
        return False
    if word != "CausalLM":
        return True
    # The library has encoders in this table too, whose tokens see those behind them unless is_decoder is set.
    is_encoder = kind in getattr(tables, TASKS["MaskedLM"].architectures)
    return not config.get("is_encoder_decoder", False) and (not is_encoder or bool(config.get("is_decoder", False)))


def task_of(config: Mapping[str, Any]) -> TaskOfLibrary | None:
    """The task that the `architectures` of a config.json are for; None: for none of these."""
    library()
    tables = importlib.import_module("transformers.models.auto.modeling_auto")
    architectures, own_code = config.get("architectures"), config.get("auto_map")
    for word, task in TASKS.items():
        named = {getattr(tables, task.architectures).get(config["model_type"])}
        if isinstance(own_code, dict):
            named.add(str(own_code.get(task.auto_class)).rpartition(".")[2])
        if isinstance(architectures, list) and any(isinstance(one, str) and one in named for one in architectures):
            return word
    return None


def _installed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise NotRetryable(
            "InvalidSettings",
            f"model.type HuggingFace needs the package {error.name}, which is not installed here: install costopt[hf], "
            "or train in an image that has it",
        ) from error
