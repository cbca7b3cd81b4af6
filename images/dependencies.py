"""Install what the trainer's image needs beside costopt itself: `python -m images.dependencies {cuda,cpu,none} FOLDER`.

It reads only pyproject.toml, so that the layer it fills stays the same when costopt's own code changes.
"""

import argparse
import re
import subprocess
import tomllib
import venv
from pathlib import Path

from images import cpu_torch

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
# Packages of torch's that no process without a GPU loads; of CUDA's toolkit two libraries are enough.
UNUSED = re.compile(r"Requires-Dist: (nvidia-|triton|cuda-bindings)")
TOOLKIT = re.compile(r"(Requires-Dist: cuda-toolkit)\[[a-z,]+\]")

CHECK = """
import os, torch, torch.distributed, torch_pruning, torchao.quantization
assert not torch.cuda.is_available()
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 4))
with torch.autocast("cpu", torch.bfloat16):
    model(torch.randn(2, 3, 8, 8)).sum().backward()
torch.compile(torch.softmax)(torch.randn(8, 4096), -1)
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
torch.nn.parallel.DistributedDataParallel(model)(torch.randn(2, 3, 8, 8)).sum().backward()
print("torch", torch.__version__, "works on CPUs", flush=True)
os._exit(0)  # a group's destructor may wait for ever
"""


def requirements() -> list[str]:
    """What pyproject.toml lists for the package itself and for its extras [trainer], [hf], [onnx] and [data]."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["trainer"], *extras["hf"], *extras["onnx"], *extras["data"]]


def for_cpus(metadata: str) -> str:
    """torch's metadata with only what it needs on a CPU: pip then neither installs nor misses the rest."""
    fewer = [line for line in metadata.splitlines() if not UNUSED.match(line)]
    text, found = TOOLKIT.subn(r"\1[cudart,cupti]", "\n".join(fewer) + "\n")
    if found != 1:
        raise cpu_torch.UnexpectedTorch("torch's metadata names no cuda-toolkit with extras: is it built for CUDA?")
    return text


def install_for_cpus(python: Path, packages: Path) -> None:
    (torch,) = (one for one in requirements() if one.startswith("torch=="))
    _pip(python, "install", "--no-cache-dir", "--no-deps", torch)
    (metadata,) = packages.glob("torch-*.dist-info/METADATA")
    metadata.write_text(for_cpus(metadata.read_text()))
    _pip(python, "install", "--no-cache-dir", *requirements())
    cpu_torch.make(packages)
    _pip(python, "check")
    subprocess.run([str(python), "-c", CHECK], check=True)


def _pip(python: Path, *words: str) -> None:
    subprocess.run([str(python), "-m", "pip", *words], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("kind", choices=["cuda", "cpu", "none"])
    parser.add_argument("folder", type=Path, help="where the virtual environment is made")
    given = parser.parse_args()
    # With nothing installed, the packages of the image's own Python are used.
    venv.create(given.folder, symlinks=True, with_pip=True, system_site_packages=given.kind == "none")
    python = given.folder / "bin" / "python"
    if given.kind == "cuda":
        _pip(python, "install", "--no-cache-dir", *requirements())
    elif given.kind == "cpu":
        (packages,) = given.folder.glob("lib/python*/site-packages")
        install_for_cpus(python, packages)


if __name__ == "__main__":
    main()
