"""Where a model comes from: its files, checked before anything is built of them.

find_source     settings -> Source; one from the hub is fetched first
files_to_keep   what else of a folder belongs to the model
content_hash    sha256 of the weights, which stands for them in a checkpoint that does not hold them

Weights are read from safetensors only: reading a pickle can run whatever code is in it.
"""

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from costopt import caches, names
from costopt.hostile import is_file_name, make_folder, parse_json, read_file
from costopt.schema.foreign_models import HuggingFace
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.foreign_config import CONFIG_FILE, read_config

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
ADAPTER_FILE = "adapter_config.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_FILES = (
    *(TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
_MAX_BYTES = 2**27


@dataclass(frozen=True)
class Source:
    """A model's files."""

    name: str
    """How errors call it: the setting and its value."""
    config_file: Path
    config: dict[str, Any]
    """What config.json says."""
    weights: tuple[Path, ...]
    """Files in safetensors; none for a model with fresh weights."""
    folder: Path | None
    """Where the tokenizer lies, if it has one; None for a configuration that is a file."""

    @property
    def tokenizer_folder(self) -> Path | None:
        """The folder with its tokenizer; None if it has none."""
        return self.folder if self.folder is not None and (self.folder / TOKENIZER_FILE).exists() else None


def find_source(settings: HuggingFace) -> Source:
    """The files that `settings` name.

    Raises NotRetryable("InvalidSettings") if they are missing, in another format, incomplete, or cannot be fetched.
    """
    if settings.config is not None:
        name, path = f"model.huggingFace.config: {settings.config}", Path(settings.config)
        file = path / CONFIG_FILE if path.is_dir() else path
        return Source(name, file, _read_config(name, file), (), path if path.is_dir() else None)
    if settings.hub is not None:
        name = f"model.huggingFace.hub: {settings.hub}"
        folder = _fetched(settings.hub, trust_remote_code=settings.trust_remote_code)
    else:
        name, folder = f"model.huggingFace.path: {settings.path}", Path(str(settings.path))
    if not folder.is_dir():
        where = "" if folder.is_absolute() else f"; a relative path begins at {Path.cwd()}"
        raise _wrong(name, f"must be a folder on the machine (or in the pod) that trains, but there is none{where}")
    if (folder / ADAPTER_FILE).exists():
        # The library would look for what they belong to, wherever that is.
        raise _wrong(
            name,
            f"must be a whole model without adapters beside it, but has {ADAPTER_FILE}: merge_and_unload() of peft "
            "gives the model with them, save_pretrained writes it",
        )
    config = _read_config(name, folder / CONFIG_FILE)
    return Source(name, folder / CONFIG_FILE, config, _weights_in(folder, name), folder)


def files_to_keep(folder: Path | None, *, with_code: bool) -> dict[str, bytes]:
    """Files that go with the trained model, by name: the tokenizer and, if asked, Python code."""
    if folder is None:
        return {}
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    found += sorted(folder.glob("*.py")) if with_code else []
    return {path.name: read_file(path.resolve(), max_bytes=_MAX_BYTES) for path in found}


def content_hash(source: Source) -> str:
    """sha256 of the weights' files by name, hexadecimal. Read once for each state of the files."""
    parts = []
    for path in source.weights:
        status = path.stat()
        parts.append(f"{path.name}:{_hash_of(path, status.st_size, status.st_mtime_ns)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.lru_cache(maxsize=1024)
def _hash_of(path: Path, _size: int, _modified_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_config(name: str, file: Path) -> dict[str, Any]:
    try:
        plain = read_config(file)
    except FileNotFoundError as error:
        raise _wrong(name, f"must have a {CONFIG_FILE}, but there is no {file}") from error
    except (OSError, ValueError) as error:
        raise _wrong(name, f"must have a {CONFIG_FILE} that can be read, but {file} {first_line(error)}") from error
    if not isinstance(plain, dict) or not isinstance(plain.get("model_type"), str):
        raise _wrong(name, f"must have a {CONFIG_FILE} of the library transformers, which names its model_type")
    return plain


def _weights_in(folder: Path, name: str) -> tuple[Path, ...]:
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if single.exists():
        found = [single]
    elif index.exists():
        try:
            named = parse_json(read_file(index.resolve(), max_bytes=_MAX_BYTES), max_bytes=_MAX_BYTES)["weight_map"]
            files = sorted(set(named.values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _wrong(name, f"must have its weights whole, but its {INDEX_FILE} cannot be read") from error
        if not files or not all(isinstance(file, str) and is_file_name(file) for file in files):
            # Without a file the library would make up all weights.
            raise _wrong(name, f"must have its weights whole, but its {INDEX_FILE} does not name files of the folder")
        found = [folder / file for file in files]
    else:
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise _wrong(
                name,
                f"must have its weights in safetensors, but has only {pickles[0]}, and reading that can run code: "
                "save_pretrained of its own library writes them anew",
            )
        raise _wrong(name, f"must have its weights in safetensors, but has no {WEIGHTS_FILE}")
    for file in found:
        if not file.exists():
            raise _wrong(name, f"must have its weights whole, but {file.name} is missing: is the download complete?")
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise _wrong(
                name, f"must have its weights whole, but {file.name} is damaged: is the download complete?"
            ) from error
    return tuple(found)


@functools.lru_cache(maxsize=8)
def _fetched(hub: str, *, trust_remote_code: bool) -> Path:
    """The folder with the files of a model at the hub, fetched once by a process."""
    from costopt_trainer.models.hugging_face.library import library  # noqa: PLC0415  says that there is a network

    library(online=True)
    from huggingface_hub import snapshot_download  # noqa: PLC0415  as above

    model, _, revision = hub.partition("@")
    storage = os.environ.get(names.ENV_STORAGE_DIR)
    folder = Path(storage) / names.CACHE_DIR / names.HUB_DIR if storage else None
    if folder is not None:
        make_folder(folder.parent)
        caches.hold(folder, "models of the hub")
    patterns = ["*.json", "*.safetensors", *TOKENIZER_FILES, *(["*.py"] if trust_remote_code else [])]
    try:
        return Path(
            snapshot_download(
                model,
                revision=revision or None,
                cache_dir=folder,
                allow_patterns=patterns,
            )
        )
    except Exception as error:
        # The hub's client lets errors of several packages through.
        raise _wrong(
            f"model.huggingFace.hub: {hub}",
            f"must be a model that can be fetched from here ({first_line(error)}); without a network, give "
            "model.huggingFace.path",
        ) from error


def _wrong(name: str, what: str) -> NotRetryable:
    return NotRetryable("InvalidSettings", f"{name} {what}")
