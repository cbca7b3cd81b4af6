"""What `manifest.json` in an artifact's folder says: its files, where the model comes from, how good it is, and where
it was made.

ArtifactManifest   all of it
FORMATS            which file is in which format, and what loads it without our code
formats_of         the formats among the files of a folder
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from costopt.schema.base import Count, Figure, Name, ObjectName, ShortText, Strict, Timestamp
from costopt.schema.compression import Step
from costopt.schema.recipe import Recipe
from costopt.schema.variant_report import VariantStatus

MAX_FILES = 8192
"""Files of one artifact."""

ArtifactFormat = Literal["Safetensors", "HuggingFace", "Adapter", "TorchExport", "Onnx", "CompressedTensors"]

FORMATS: Mapping[str, ArtifactFormat] = {
    "model.safetensors": "Safetensors",
    "model.safetensors.index.json": "Safetensors",
    "adapter_model.safetensors": "Adapter",
    "model.pt2": "TorchExport",
    "model.onnx": "Onnx",
    "compressed-tensors/model.safetensors": "CompressedTensors",
}
"""Name of a file -> its format. Safetensors: `safetensors.torch.load_file`. Adapter: `peft`. TorchExport:
`torch.export.load`. Onnx: `onnxruntime.InferenceSession`. CompressedTensors: `AutoModel.from_pretrained` of the folder
with that file, by the package compressed-tensors."""

LIBRARYS_CONFIG_FILE = "config.json"
OWN_CONFIG_FILE = "costopt.json"
"""Beside config.json: the folder is also one of the Hugging Face library."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", max_length=64)]


def _below(path: str) -> str:
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError("must be a path below the artifact's folder, without . and ..")
    return path


ArtifactPath = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f\\]+$", min_length=1, max_length=1024), AfterValidator(_below)
]
"""A file below the artifact's folder, its parts joined by `/`."""


class ArtifactFile(Strict):
    """One file of an artifact."""

    path: ArtifactPath
    """Below the artifact's folder."""
    size_bytes: Count
    """Its size."""
    sha256: Sha256
    """Hash of its content."""


class Lineage(Strict):
    """Where a model comes from."""

    job: ObjectName | None = None
    """Name of the job."""
    job_uid: ShortText | None = None
    """Its uid on its cluster. None: it ran on one machine."""
    checkpoint_step: Count | None = None
    """Step of the checkpoint that the trained model is of. None: a program of the user's own has left it."""
    recipe: Recipe | None = None
    """How it was trained. None: by a program of the user's own."""
    steps: Annotated[list[Step], Field(max_length=8)] = Field(default_factory=list)
    """Compression steps of a variant, in order."""
    model_sha256: Annotated[list[Sha256], Field(max_length=MAX_FILES)] = Field(default_factory=list)
    """Hashes of the weights that a variant was made of."""
    data_fingerprint: ShortText | None = None
    """Hash of the data: equal fingerprints, equal samples. Of a variant: of what it was measured on."""


class Machine(Strict):
    """Where an artifact was made and measured."""

    processor: ShortText | None = None
    """Model of its CPU. None: it does not tell."""
    instructions: Annotated[
        list[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$", max_length=32)]], Field(max_length=32)
    ] = Field(default_factory=list)
    """Instructions of it that decide how fast a small model is, as Linux names them."""
    device: ShortText = "cpu"
    """What computed: "cpu", or the model of a GPU."""
    threads: Count
    """CPU threads of the process."""
    versions: Annotated[dict[ShortText, ShortText], Field(max_length=32)] = Field(default_factory=dict)
    """Python, torch and engines -> their versions."""


class ArtifactManifest(Strict):
    """An artifact. The manifest is written last, so that a folder with one is whole."""

    format: Literal["costopt-artifact"] = "costopt-artifact"
    """Tells it from other files of this name."""
    version: Literal[1] = 1
    """Of this description."""
    name: Name
    """"model", "adapter", or the variant's name."""
    created: Timestamp
    """When it was made."""
    files: Annotated[list[ArtifactFile], Field(min_length=1, max_length=MAX_FILES)]
    """All of its files but this one, in order of their paths."""
    lineage: Lineage
    """Where the model comes from."""
    report: VariantStatus | None = None
    """What was measured of a variant. None of a trained model."""
    validation_loss: Figure | None = None
    """Of a trained model: loss on the held-out split, nats per target. None: not evaluated, or a variant."""
    results: Annotated[dict[ShortText, Figure], Field(max_length=64)] = Field(default_factory=dict)
    """Of a trained model: results of the evaluation of that step."""
    machine: Machine
    """Where it was made and measured."""
    licence: ShortText | None = None
    """Licence of the weights, as the README of the model names it that training began with. None: none is named."""

    @property
    def formats(self) -> list[ArtifactFormat]:
        """Those that the model is in."""
        return formats_of([file.path for file in self.files], by_a_program=self.lineage.recipe is None)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


def formats_of(paths: Iterable[str], *, by_a_program: bool) -> list[ArtifactFormat]:
    """The formats among the files of a folder, each once. `by_a_program`: a program of the user's own has left it, so
    that a config.json is never ours."""
    there = set(paths)
    found = [kind for name, kind in FORMATS.items() if name in there]
    is_librarys = LIBRARYS_CONFIG_FILE in there and (by_a_program or OWN_CONFIG_FILE in there)
    if is_librarys and "Safetensors" in found:
        found.insert(0, "HuggingFace")
    return list(dict.fromkeys(found))
