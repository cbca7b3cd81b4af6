"""A model on disk: `model.safetensors` beside `config.json`, from which the exact same model is rebuilt.

    save_trained    the trained model -> artifacts/model, and artifacts/adapter if adapters were trained
    save_model      model -> folder; int8 weights are stored as int8, pruned matrices at their smaller size, and zeros
                    in one bit each (see storage/packed_zeros.py)
    load_model      folder -> model in eval mode on the CPU
    load_graph      folder -> its ONNX graph as a model; drop_graph takes the graph from it
    read_config     folder -> what config.json says, checked

Nothing here is pickled, so that reading a model never runs code that came with it. config.json holds the SHA-256 of
the weights, because safetensors itself would not notice a flipped bit.

A folder is written under a temporary name, flushed to disk and renamed: a reader finds all of it or none. What a
killed writer left behind is removed by the next one; a folder has one writer at a time.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from costopt import names
from costopt.files import write_atomically
from costopt.hostile import Hostile, open_file, read_json, real_folder
from costopt.schema.compression import Step
from costopt_trainer.data.tokenizers.hugging_face import files_of
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.models.family import LayeredModel, stored_tensors
from costopt_trainer.models.onnx_model import DATA_FILE, GRAPH_FILE, OnnxModel, graph_files, lacking
from costopt_trainer.models.shape import ModelShape, Widths
from costopt_trainer.models.table import rebuild_model
from costopt_trainer.storage import packed_zeros
from costopt_trainer.storage.codebooks import CODEBOOK, with_codebooks, without_codebooks
from costopt_trainer.storage.folders import remove, replace_folder, storage_folder
from costopt_trainer.storage.manifests import Describe
from costopt_trainer.storage.tensor_file import FileRecord, write_tensor_file

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
    """Content hash of the weights file, hexadecimal. Empty: the artifact is a graph alone."""
    graph: Mapping[str, FileRecord] = field(default_factory=dict)
    """Size and content hash of each file of its ONNX graph, by name; empty without one."""


def save_trained(
    artifacts: Path,
    model: LayeredModel,
    shape: ModelShape,
    *,
    beside: Mapping[str, bytes] | None = None,
    describe_as: Callable[[str], Describe] | None = None,
) -> None:
    """Write the trained model, and its adapters if only these were trained. Raises as `save_model` does.

    `beside`: as `save_model` has it. `describe_as`: the name of an artifact -> what writes its manifest.
    """
    if adapter := model.adapter_files():
        write_folder(artifacts / names.ADAPTER_DIR, adapter, describe_as and describe_as(names.ADAPTER_DIR))
    own = describe_as and describe_as(names.MODEL_DIR)
    save_model(artifacts / names.MODEL_DIR, model.merged(), shape, beside=beside, describe=own)


def write_folder(folder: Path, files: Mapping[str, bytes], describe: Describe | None = None) -> None:
    """Write `files`, by name, as a folder that replaces what is there. Raises as `save_model` does."""
    partial = _partial_of(folder)
    for name, content in files.items():
        (partial / name).write_bytes(content)
    if describe is not None:
        describe(partial, {})
    replace_folder(partial, folder)


def save_model(
    folder: Path,
    model: nn.Module,
    shape: ModelShape,
    *,
    widths: Widths | None = None,
    steps: Sequence[Step] = (),
    graph: Path | None = None,
    weights: bool = True,
    beside: Mapping[str, bytes] | None = None,
    describe: Describe | None = None,
) -> int:
    """Write `model` (parameters and buffers) to `folder`, replacing what is there; returns the weights file's bytes.

    Zeros are packed if `steps` made them, and no other library is to read the folder.
    `widths` must be given if structured pruning changed the layers. `graph` is a folder whose ONNX graph is moved into
    the artifact; with `weights` False in place of the weights. `beside` are further files, by name, where the model
    brings none of that name; `describe` writes the manifest. Raises OSError if the folder cannot be written, and
    NotRetryable("CheckpointNotWritable") if a link has the name of the folder above it.
    """
    partial = _partial_of(folder)
    tensors, metadata = _plain_tensors(model) if weights else ({}, {})
    if any(step.share_weights is not None and step.share_weights.cluster_bits for step in steps):
        tensors = with_codebooks(tensors)
    others_cannot_read = bool(metadata) or not weights or any(name.endswith(CODEBOOK) for name in tensors)
    its_own = model.files(quantized=others_cannot_read) if isinstance(model, LayeredModel) else {}
    for name, content in {**(beside or {}), **its_own}.items():
        (partial / name).write_bytes(content)
    if steps and (others_cannot_read or not its_own):
        tensors, packed = packed_zeros.pack(tensors)
        metadata |= packed
    record: FileRecord = {"size": 0, "sha256": ""}
    if weights:
        for_others = FOR_OTHERS if its_own else {}
        record = write_tensor_file(partial / WEIGHTS_FILE, tensors, metadata=metadata or for_others)
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
    if graph is not None:
        for name in graph_files(graph):
            shutil.move(graph / name, partial / name)
        config["graph"] = graph_files(partial)
    own = OWN_CONFIG_FILE if its_own else CONFIG_FILE
    (partial / own).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if describe is not None:
        describe(partial, {WEIGHTS_FILE: str(record["sha256"])} if weights else {})
    replace_folder(partial, folder)
    return size_bytes


def load_model(folder: Path) -> LayeredModel:
    """The model saved in `folder`, in eval mode on the CPU; the state of the random generators is left as it was.

    Raises NotRetryable("CheckpointUnreadable", sentence) if the folder is missing, damaged or something else.
    """
    config = read_config(folder)
    if not config.weights_sha256:
        return load_graph(folder)
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


def load_graph(folder: Path) -> OnnxModel:
    """The ONNX graph of the artifact in `folder`. Raises NotRetryable("CheckpointUnreadable", ...)."""
    config = read_config(folder)
    try:
        is_ours = bool(config.graph) and graph_files(folder) == config.graph
    except (OSError, Hostile) as error:
        raise _unreadable(folder, f"it has no {GRAPH_FILE} that can be read") from error
    if not is_ours:
        raise _unreadable(folder, f"its {GRAPH_FILE} is not the one that {CONFIG_FILE} was written for")
    if why := lacking():
        raise _unreadable(folder, f"it is an ONNX graph, and {why}")
    try:
        return OnnxModel(folder).eval()
    except Exception as error:  # onnxruntime's exceptions are private
        raise _unreadable(folder, f"its {GRAPH_FILE} cannot be run ({first_line(error)})") from error


def drop_graph(folder: Path) -> None:
    """Take the ONNX graph from the artifact in `folder`, which has weights, too. Raises OSError."""
    own = _config_file(folder)
    plain = read_json(folder / own)
    if isinstance(plain, dict) and plain.pop("graph", None):
        write_atomically(folder / own, (json.dumps(plain, indent=2) + "\n").encode())
        for name in (GRAPH_FILE, DATA_FILE):
            (folder / name).unlink(missing_ok=True)


def read_config(folder: Path) -> ArtifactConfig:
    """What costopt.json in `folder`, or else config.json, says. Raises NotRetryable("CheckpointUnreadable", ...)."""
    own = _config_file(folder)
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
            graph={str(name): dict(record) for name, record in plain.get("graph", {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _unreadable(folder, f"its {own} is incomplete or damaged ({first_line(error)})") from error


def _config_file(folder: Path) -> str:
    return OWN_CONFIG_FILE if os.path.lexists(folder / OWN_CONFIG_FILE) else CONFIG_FILE


def tokenizer_in(folder: Path) -> Path | None:
    """The folder, if the artifact in it has a tokenizer that its model brought; else None. One that was learnt from the
    text lies beside a model of a family of ours, and is none."""
    is_librarys = os.path.lexists(folder / OWN_CONFIG_FILE) or not os.path.lexists(folder / CONFIG_FILE)
    return folder if is_librarys and (folder / TOKENIZER_FILE).is_file() else None


def tokenizer_beside(folder: Path) -> dict[str, bytes]:
    """The files of the tokenizer that lies beside the model in `folder`, by name, for what is made of it; one that
    cannot be read is left out."""
    try:
        return files_of(real_folder(folder))
    except (OSError, Hostile):
        return {}


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
    tensors, metadata = packed_zeros.unpack(tensors, metadata)
    quantized: dict[str, torch.Tensor] = {}
    if metadata:
        from costopt_trainer.storage.quantized_tensors import unflatten_quantized  # noqa: PLC0415  as above

        quantized, tensors = unflatten_quantized(tensors, metadata)
    prefix = getattr(model, "weights_prefix", "")
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    quantized = {prefix + name: tensor for name, tensor in quantized.items()}
    expected = stored_tensors(model)
    tensors = without_codebooks(tensors, {name: tensor.shape for name, tensor in expected.items()})
    if expected.keys() != tensors.keys() | quantized.keys():
        differing = sorted(expected.keys() ^ (tensors.keys() | quantized.keys()))
        raise ValueError(f"{len(differing)} tensors are missing or unknown, first {differing[0][:80]!r}")
    for name, tensor in (tensors | quantized).items():
        if tensor.shape != expected[name].shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} and not {tuple(expected[name].shape)}")
    also: dict[str, list[str]] = {}
    for name, other in (model.tied if isinstance(model, LayeredModel) else {}).items():
        also.setdefault(other, []).append(name)
    for name, tensor in quantized.items():
        parameter = nn.Parameter(tensor, requires_grad=False)
        for each in (name, *also.get(name, ())):
            owner, _, attribute = each.rpartition(".")
            setattr(model.get_submodule(owner), attribute, parameter)
    model.load_state_dict(tensors, strict=False)


def _refuse_what_weights_cannot_fill(config: ArtifactConfig, folder: Path) -> None:
    """Raise ValueError for a model of more parameters than the weights have bits, before memory is taken for it."""
    with torch.device("meta"):
        model = rebuild_model(config.shape, folder, config.widths)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    if num_parameters > 8 * config.weights_bytes:
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
