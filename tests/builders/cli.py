"""The `costopt` program as users start it, and manifests for it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from builders.local import price_book, recipe_job
from costopt.render.text import to_yaml

TRAINING: dict[str, Any] = {
    "model": {
        "type": "DecoderLM",
        "decoderLM": {"numLayers": 2, "numHeads": 2, "embeddingDim": 16, "contextLength": 16},
    },
    "data": {"type": "Text", "text": {"path": "text.txt"}},
    "batch": {"globalBatchSize": 4, "microBatchSize": 2},
    "totalSteps": 60,
    "evaluation": {"everySteps": 30, "maxSamples": 8},
    "checkpointing": {"everySteps": 10, "keepLast": 4},
}


def program(*arguments: str) -> list[str]:
    """The command line of `costopt` with these arguments."""
    return [sys.executable, "-P", "-m", "costopt.cli", *arguments]


def environment() -> dict[str, str]:
    """This process' environment, with import paths that work in any folder."""
    paths = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def costopt(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `costopt` in `folder` to its end."""
    return subprocess.run(
        program(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=1100, check=False
    )


def start_costopt(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `costopt` in `folder`."""
    return subprocess.Popen(
        program(*arguments),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def write_manifest(folder: Path, **spec: Any) -> Path:
    """A job of the built-in trainer and its price book in one file, and the text to train on beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = {"priceBookName": "sample", **spec}
    train = {"recipe": TRAINING, **spec.pop("train", {})}
    documents = [recipe_job(train=train, **spec).to_plain(), price_book().to_plain()]
    (folder / "job.yaml").write_text(to_yaml(documents))
    (folder / "text.txt").write_text("".join(f"{n} bottles of beer on the wall, take one down.\n" for n in range(700)))
    return folder / "job.yaml"
