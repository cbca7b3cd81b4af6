"""A variant of 8-bit weights as a folder that the Hugging Face library loads, by its package compressed-tensors.

    add_folder      writes it into an artifact, once a fresh process has loaded it and got the same output
    refuse_model    for models that cannot have it, and where the package is not installed
    main            in that process: load by the library alone, compute, compare

The numbers are those of `model.safetensors`: of each matrix int8 weights and a scale for each output, under the names
that the package gives them in its format int-quantized, and `quantization_config` in config.json says so. The own file
of the artifact has torchao's names, which the library cannot read.
"""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from costopt.hostile import parse_json
from costopt_trainer.compress.verify import (
    EXACT_TOLERANCE,
    distance_of,
    tell,
    verify_in_fresh_process,
    write_probe,
)
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.models.family import LayeredModel, stored_tensors
from costopt_trainer.models.hugging_face.library import library, task_of
from costopt_trainer.models.hugging_face.model import HuggingFaceModel
from costopt_trainer.phases import phase
from costopt_trainer.storage.folders import remove, storage_folder
from costopt_trainer.storage.tensor_file import write_tensor_file

FOLDER = "compressed-tensors"
"""Below the artifact's."""
PACKAGE = "compressed_tensors"
_CONFIG_FILE, _WEIGHTS_FILE = "config.json", "model.safetensors"
_FORMAT = "int-quantized"


def lacking() -> str | None:
    """The sentence without a subject; None: the package is there."""
    if importlib.util.find_spec(PACKAGE) is not None:
        return None
    return "the package compressed-tensors is not installed (extra compressed: pip install 'costopt[compressed]')"


def refuse_model(type_: str) -> None:
    """Raise NotRetryable("InvalidSettings") if a model of this `type_` cannot have the form, or cannot have it here."""
    if type_ != "HuggingFace":
        raise _wrong(f"only models of the Hugging Face library have this form, and this one is of model.type {type_}")
    if why := lacking():
        raise _wrong(why)


def add_folder(model: LayeredModel, inputs: Tensor, artifact: Path) -> int:
    """Write `model`, whose linear layers have 8-bit weights, in eval mode on the CPU, into FOLDER of the `artifact`;
    returns its bytes.

    `inputs` are a few samples. Raises as `verify_in_fresh_process` does, and OSError if it cannot be written.
    """
    if not isinstance(model, HuggingFaceModel):
        raise TypeError("only a model of the Hugging Face library has this form")
    folder, probe = artifact / FOLDER, artifact / ".compressed-tensors.probe"
    storage_folder(folder)
    try:
        with phase("SavingModel"):
            write_tensor_file(folder / _WEIGHTS_FILE, _tensors(model), metadata={"format": "pt"})
            files = model.files(quantized=False)
            config = parse_json(files[_CONFIG_FILE], large_integers=True) | {"quantization_config": _described(model)}
            files[_CONFIG_FILE] = (json.dumps(config, indent=2) + "\n").encode()
            for name, content in files.items():
                (folder / name).write_bytes(content)
        write_probe(probe, model, inputs)
        verify_in_fresh_process(folder, probe, "costopt_trainer.compress.compressed_folder")
    except BaseException:
        remove(folder)
        raise
    finally:
        probe.unlink(missing_ok=True)
    return sum(path.stat().st_size for path in folder.iterdir())


def _tensors(model: HuggingFaceModel) -> dict[str, Tensor]:
    """By the package's names."""
    tensors: dict[str, Tensor] = {}
    stored: dict[str, Any] = stored_tensors(model)
    for full_name, tensor in stored.items():
        name = full_name.removeprefix(model.weights_prefix)
        if type(tensor) is Tensor:
            tensors[name] = tensor
        else:
            tensors[name] = tensor.qdata
            tensors[f"{name}_scale"] = tensor.scale.reshape(-1, 1)
    return tensors


def _described(model: HuggingFaceModel) -> dict[str, Any]:
    """The `quantization_config` of config.json."""
    layers = [(name.removeprefix(model.weights_prefix), one) for name, one in model.named_modules()]
    whole = [name for name, one in layers if isinstance(one, nn.Linear) and not hasattr(one.weight, "qdata")]
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    return {
        "quant_method": "compressed-tensors",
        "format": _FORMAT,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "format": _FORMAT}},
        "ignore": whole,
    }


def _wrong(why: str) -> NotRetryable:
    return NotRetryable("InvalidSettings", f"formats must not have CompressedTensors: {why}")


def find_mismatch(folder: Path, probe: Path) -> str | None:
    """None if what the library alone loads from `folder` gives nearly what `probe` says, else what is wrong."""
    with safe_open(probe, framework="pt") as file:
        inputs, expected = file.get_tensor("inputs").clone(), file.get_tensor("output")
        torch.set_num_threads(int(file.metadata()["threads"]))
    transformers = library()
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        (architecture,) = config.architectures
        model = getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32).eval()
        fills_up = task_of(config.to_dict()) != "CausalLM"  # as HuggingFaceFamily has it
        mask = {"attention_mask": inputs != config.pad_token_id} if fills_up else {}
        with torch.no_grad():
            output = model(input_ids=inputs, **mask).logits
    except (
        SafetensorError,
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ImportError,
    ) as error:
        return f"the folder for compressed-tensors cannot be loaded ({type(error).__name__}: {first_line(error)})"
    if output.shape == expected.shape:
        distance = distance_of(output, expected)
        if distance <= EXACT_TOLERANCE:
            return None
        return f"the folder for compressed-tensors gives another output than the variant (by {100 * distance:.3g} %)"
    return f"the folder for compressed-tensors gives {tuple(output.shape)} instead of {tuple(expected.shape)}"


def main(arguments: list[str]) -> int:
    """Arguments: the folder and the probe. Prints what is wrong, if anything; returns the exit code."""
    folder, probe = (Path(argument) for argument in arguments)
    return tell(find_mismatch(folder, probe))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
