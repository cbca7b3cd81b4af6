"""What an artifact's manifest says of the machine: processor, instructions, device, threads, versions.

machine_here    of this process; without torch, unless it has been imported
"""

import os
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from costopt.hostile import Hostile, open_file
from costopt.schema.artifact import Machine
from costopt_trainer.errors import safe

_INSTRUCTIONS = re.compile(
    r"avx|avx2|fma|f16c|avx512[a-z0-9_]*|avx_vnni|avx_vnni_int8|amx_[a-z0-9]+|asimd|asimddp|asimdhp|i8mm|bf16|sve2?"
)
"""What kernels of torch and of the engines ask for, as Linux names it."""
_NAMES_OF_CPUS = ("model name", "Model", "Hardware", "CPU part")
_PACKAGES = ("torch", "torchao", "onnxruntime", "onnx", "safetensors", "tokenizers", "transformers", "peft")
_CPUINFO = Path("/proc/cpuinfo")
_READ_BYTES = 2**16
"""The first processor: all of a machine are alike."""


def machine_here(device: str | None = None) -> Machine:
    """This process and where it runs. `device` None: a GPU if torch has been imported and sees one, else "cpu"."""
    processor, instructions = told_of_cpu(_cpuinfo())
    torch = sys.modules.get("torch")
    if device is None:
        device = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else "cpu"
    threads = int(torch.get_num_threads()) if torch is not None else (os.cpu_count() or 1)
    versions = {"python": python_version(), "costopt": _version_of("costopt")}
    versions |= {package: _version_of(package) for package in _PACKAGES}
    return Machine(
        processor=processor,
        instructions=instructions,
        device=safe(device)[:256] or "cpu",
        threads=threads,
        versions={package: number for package, number in versions.items() if number is not None},
    )


def told_of_cpu(cpuinfo: str) -> tuple[str | None, list[str]]:
    """The processor's name, and those of its instructions that matter, from the text of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon and value.strip():
            fields.setdefault(key.strip(), value.strip())
    name = next((fields[key] for key in _NAMES_OF_CPUS if key in fields), None)
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    able = sorted({flag for flag in flags if len(flag) <= 32 and _INSTRUCTIONS.fullmatch(flag)})
    return (None if name is None else safe(name)[:256]), able[:32]


def _cpuinfo() -> str:
    try:
        with open_file(_CPUINFO) as stream:
            return stream.read(_READ_BYTES).decode(errors="replace")
    except (OSError, Hostile):
        return ""


def _version_of(package: str) -> str | None:
    try:
        return version(package)[:256]
    except PackageNotFoundError:
        return None
