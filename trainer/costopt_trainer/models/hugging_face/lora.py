"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: only they, and a fresh head, are trained.

add_adapters     a model -> the same with adapters, all else frozen
adapter_files    the adapters as a folder that peft loads
"""

import json
from typing import Any

from safetensors.torch import save
from torch import nn

from costopt.schema.foreign_models import LoRA
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.hugging_face.library import Task, adapters


def add_adapters(model: Any, settings: LoRA, task: Task, fresh: list[str]) -> nn.Module:
    """`model` with adapters; `fresh` are modules that are trained as a whole.

    Raises NotRetryable("InvalidSettings") if no layer has one of the names.
    """
    peft = adapters()
    targets = settings.target_modules
    if targets is not None:
        linear = [name for name, module in model.named_modules() if _takes_adapter(module)]
        for target in targets:
            if not any(name == target or name.endswith(f".{target}") for name in linear):
                there = sorted({name.rpartition(".")[2] for name in linear})
                raise NotRetryable(
                    "InvalidSettings",
                    "model.huggingFace.lora.targetModules must name linear layers of the model, and "
                    f"{target!r} is none: there are {', '.join(there)}",
                )
    return peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout_percent / 100,
            target_modules="all-linear" if targets is None else targets,
            fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
            modules_to_save=fresh or None,
            task_type=task.peft,
        ),
    )


def adapter_files(model: Any) -> dict[str, bytes]:
    """The files of peft's own folder by name: the adapters in safetensors and their settings."""
    peft = adapters()
    settings = model.peft_config["default"].to_dict()
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    settings["inference_mode"] = True
    weights = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return {
        "adapter_config.json": (json.dumps(settings, indent=2, sort_keys=True, default=str) + "\n").encode(),
        "adapter_model.safetensors": save(tensors, metadata={"format": "pt"}),
    }


def _takes_adapter(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Embedding) or type(module).__name__ == "Conv1D"
