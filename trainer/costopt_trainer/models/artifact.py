"""A model on disk: `model.safetensors` beside `config.json`, from which the exact same model is rebuilt.

    save_trained    the trained model -> artifacts/model, and artifacts/adapter if adapters were trained
    save_model      model -> folder; int8 weights are stored as int8, pruned matrices at their smaller size
    load_model      folder -> model in eval mode on the CPU
    read_config     folder -> what config.json says, checked

Nothing here is pickled, so that reading a model never runs code that came with it. config.json holds the SHA-256 of
the weights, because safetensors itself would not notice a flipped bit.

A folder is written under a temporary name, flushed to disk and renamed: a reader finds all of it or none. What a
killed writer left behind is removed by the next one; a folder has one writer at a time.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from costopt import names
from costopt.hostile import Hostile, open_file, read_json, real_folder
from costopt.schema.compression import Step
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.models.family import LayeredModel, stored_tensors
from costopt_trainer.models.shape import ModelShape, Widths
from costopt_trainer.models.table import rebuild_model
from costopt_trainer.storage.folders import remove, replace_folder, storage_folder
from costopt_trainer.storage.tensor_file import write_tensor_file

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
OWN_CONFIG_FILE = "costopt.json"
"""In place of config.json where that is of another library, which loads the folder as well."""
FORMAT = "costopt-model"
FORMAT_VERSION = 1
FOR_OTHERS = {"format": "pt"}
"""Metadata that other tools ask for in a file of weights."""


@dataclass(frozen=True)
class ArtifactConfig:
    """What config.json says about the weights beside it."""

    shape: ModelShape
    """The model as it was trained."""
    widths: Widths | None
    """Widths that structured pruning left. None: those of `shape`."""
    steps: tuple[Step, ...]
    """Compression steps that made this model, in order; none for the trained model."""
    weights_bytes: int
    """Size of the weights file."""
    weights_sha256: str
    """Content hash of the weights file, hexadecimal."""


def save_trained(artifacts: Path, model: LayeredModel, shape: ModelShape) -> None:
    """Write the trained model, and its adapters if only these were trained. Raises as `save_model` does."""
    if adapter := model.adapter_files():
        write_folder(artifacts / names.ADAPTER_DIR, adapter)
    save_model(artifacts / names.MODEL_DIR, model.merged(), shape)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files`, by name, as a folder that replaces what is there. Raises as `save_model` does."""
    partial = _partial_of(folder)
    for name, content in files.items():
        (partial / name).write_bytes(content)
    replace_folder(partial, folder)


def save_model(
    folder: Path,
    model: nn.Module,
    shape: ModelShape,
    *,
    widths: Widths | None = None,
    steps: Sequence[Step] = (),
) -> int:
    """Write `model` (parameters and buffers) to `folder`, replacing what is there; returns the weights file's bytes.

    `widths` must be given if structured pruning changed the layers. Raises OSError if the folder cannot be written, and
    NotRetryable("CheckpointNotWritable") if a link has the name of the folder above it.
    """
    partial = _partial_of(folder)
    tensors, metadata = _plain_tensors(model)
    beside = model.files(quantized=bool(metadata)) if isinstance(model, LayeredModel) else {}
    for name, content in beside.items():
        (partial / name).write_bytes(content)
    record = write_tensor_file(partial / WEIGHTS_FILE, tensors, metadata=metadata or (FOR_OTHERS if beside else {}))
    size_bytes = int(record["size"])
    config = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "shape": shape.to_plain(),
        "widths": None if widths is None else {name: list(sizes) for name, sizes in widths.items()},
        "steps": [step.to_plain() for step in steps],
        "weightsBytes": size_bytes,
        "weightsSha256": record["sha256"],
    }
    own = OWN_CONFIG_FILE if beside else CONFIG_FILE
    (partial / own).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    replace_folder(partial, folder)
    return size_bytes


def load_model(folder: Path) -> LayeredModel:
    """The model saved in `folder`, in eval mode on the CPU; the state of the random generators is left as it was.

    Raises NotRetryable("CheckpointUnreadable", sentence) if the folder is missing, damaged or something else.
    """
    config = read_config(folder)
    weights = folder / WEIGHTS_FILE
    try:
        with open_file(weights) as stream:
            size_bytes, digest = os.fstat(stream.fileno()).st_size, hashlib.file_digest(stream, "sha256").hexdigest()
    except Hostile as error:
        raise _unreadable(folder, f"its {WEIGHTS_FILE} {error}") from error
    except OSError as error:
        raise _unreadable(folder, f"it has no {WEIGHTS_FILE} that can be read") from error
    if (size_bytes, digest) != (config.weights_bytes, config.weights_sha256):
        raise _unreadable(
            folder,
            f"its {WEIGHTS_FILE} is not the one that {CONFIG_FILE} was written for",
        )
    try:
        _refuse_what_weights_cannot_fill(config, folder)
        with torch.random.fork_rng(devices=[]):
            model = rebuild_model(config.shape, folder, config.widths)
        with safe_open(weights, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  a safe_open is no mapping
            metadata = file.metadata() or {}
        _fill(model, tensors, {} if metadata == FOR_OTHERS else metadata)
    except (
        NotRetryable,
        SafetensorError,
        OSError,
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise _unreadable(folder, f"its weights do not fit its {CONFIG_FILE} ({first_line(error)})") from error
    return model.eval()


def read_config(folder: Path) -> ArtifactConfig:
    """What costopt.json in `folder`, or else config.json, says. Raises NotRetryable("CheckpointUnreadable", ...)."""
    own = OWN_CONFIG_FILE if os.path.lexists(folder / OWN_CONFIG_FILE) else CONFIG_FILE
    try:
        real_folder(folder)
        plain = read_json(folder / own)
    except Hostile as error:
        reason = "it is no folder, or a link to one" if folder.is_symlink() else f"its {own} {error}"
        raise _unreadable(folder, reason) from error
    except OSError as error:
        reason = f"it has no readable {own}" if folder.is_dir() else "there is no such folder"
        raise _unreadable(folder, reason) from error
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise _unreadable(folder, f"its {own} is not of the format {FORMAT}")
    if plain.get("version") != FORMAT_VERSION:
        raise _unreadable(
            folder,
            f"its format version is {plain.get('version')!r:.80}, and {FORMAT_VERSION} is read here",
        )
    try:
        return ArtifactConfig(
            shape=ModelShape.from_plain(plain["shape"]),
            widths=_widths(plain["widths"]),
            steps=tuple(Step.model_validate_json(json.dumps(step)) for step in plain["steps"]),
            weights_bytes=int(plain["weightsBytes"]),
            weights_sha256=str(plain["weightsSha256"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _unreadable(folder, f"its {own} is incomplete or damaged ({first_line(error)})") from error


def tokenizer_in(folder: Path) -> Path | None:
    """The folder, if the artifact in it has a tokenizer that its model brought; else None."""
    return folder if (folder / TOKENIZER_FILE).is_file() else None


def _partial_of(folder: Path) -> Path:
    """A new folder beside `folder`, in which it is written."""
    partial = storage_folder(folder.parent) / f".{folder.name}.partial"
    remove(partial)
    partial.mkdir()
    return partial


def _plain_tensors(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors by name as the file holds them, and what is needed to put quantized ones together again."""
    tensors: dict[str, torch.Tensor] = {}
    quantized: dict[str, torch.Tensor] = {}
    prefix = getattr(model, "weights_prefix", "")
    for full_name, tensor in stored_tensors(model).items():
        name = full_name.removeprefix(prefix)
        if type(tensor) is torch.Tensor:
            tensors[name] = tensor
        else:
            quantized[name] = tensor.cpu()
    if not quantized:
        return tensors, {}
    from costopt_trainer.storage.quantized_tensors import flatten_quantized  # noqa: PLC0415  torchao takes seconds to import

    parts, metadata = flatten_quantized(quantized)
    return tensors | parts, metadata


def _fill(model: nn.Module, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Copy the file's tensors into `model`; every parameter and buffer must get one, and none may be left over."""
    quantized: dict[str, torch.Tensor] = {}
    if metadata:
        from costopt_trainer.storage.quantized_tensors import unflatten_quantized  # noqa: PLC0415  as above

        quantized, tensors = unflatten_quantized(tensors, metadata)
    prefix = getattr(model, "weights_prefix", "")
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    quantized = {prefix + name: tensor for name, tensor in quantized.items()}
    expected = stored_tensors(model)
    if expected.keys() != tensors.keys() | quantized.keys():
        differing = sorted(expected.keys() ^ (tensors.keys() | quantized.keys()))
        raise ValueError(f"{len(differing)} tensors are missing or unknown, first {differing[0][:80]!r}")
    for name, tensor in (tensors | quantized).items():
        if tensor.shape != expected[name].shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} and not {tuple(expected[name].shape)}")
    for name, tensor in quantized.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(tensor, requires_grad=False))
    model.load_state_dict(tensors, strict=False)


def _refuse_what_weights_cannot_fill(config: ArtifactConfig, folder: Path) -> None:
    """Raise ValueError for a model of more parameters than the weights have bytes, before memory is taken for it."""
    with torch.device("meta"):
        model = rebuild_model(config.shape, folder, config.widths)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    if num_parameters > config.weights_bytes:
        raise ValueError(f"{num_parameters} parameters in {config.weights_bytes} bytes")


def _widths(plain: Any) -> Widths | None:
    if plain is None:
        return None
    return {str(name): tuple(int(size) for size in sizes) for name, sizes in plain.items()}


def _unreadable(folder: Path, why: str) -> NotRetryable:
    return NotRetryable(
        "CheckpointUnreadable",
        f"{folder} does not hold a model saved by costopt: {why}",
    )
