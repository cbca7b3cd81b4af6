"""What weights that change do to the losses of two sources of a mixture.

    PYTHONPATH=.:trainer python benchmarks/mixture.py --text FILE [--steps 200] [--seeds 1]

Each row trains the same DecoderLM from the same weights for as many steps on a text and Python's standard library; what
each source holds out, and what a token is, are the same in all rows.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from costopt import names
from costopt.schema.recipe import Recipe
from costopt.schema.replica import ReplicaSettings
from costopt_trainer.training.loop import main as train

ROWS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "1 : 1": ({"weight": 1}, {"weight": 1}),
    "1 : 3": ({"weight": 1}, {"weight": 3}),
    "from 1 : 1 to 1 : 5": ({"weight": 1, "endWeight": 1}, {"weight": 1, "endWeight": 5}),
    "from 1 : 5 to 1 : 1": ({"weight": 1, "endWeight": 1}, {"weight": 5, "endWeight": 1}),
}


def results_of(text: Path, row: str, steps: int, seed: int, folder: Path) -> dict[str, float]:
    """The results of a training's last evaluation, whose storage is in `folder`."""
    of_text, of_code = ROWS[row]
    sources = [
        {"name": "text", "text": {"path": str(text)}, **of_text},
        {"name": "code", "pythonStandardLibrary": {"maxBytes": 1_500_000}, **of_code},
    ]
    model = {"numLayers": 2, "numHeads": 4, "embeddingDim": 48, "contextLength": 64}
    recipe: dict[str, Any] = {
        "model": {"type": "DecoderLM", "decoderLM": model},
        "data": {
            "type": "Mixture",
            "mixture": {"sources": sources},
        },
        "batch": {"globalBatchSize": 16, "microBatchSize": 16},
        "totalSteps": steps,
        "optimizer": {"learningRate": "2e-3"},
        "schedule": {"warmupSteps": steps // 10},
        "evaluation": {"everySteps": steps, "maxSamples": 500},
        "seed": seed,
    }
    storage = folder / "job"
    for made in (names.CHECKPOINTS_DIR, names.ARTIFACTS_DIR):  # the tokens stay
        shutil.rmtree(storage / made, ignore_errors=True)
    (storage / names.METRICS_FILE).unlink(missing_ok=True)
    storage.mkdir(exist_ok=True)
    os.environ[names.ENV_STORAGE_DIR] = str(storage)
    settings = ReplicaSettings(
        job_name="mixture", stage="train", num_nodes=1, processes_per_node=1, recipe=Recipe.model_validate(recipe)
    )
    with contextlib.redirect_stdout(io.StringIO()):
        train(settings)
    last = json.loads((storage / names.METRICS_FILE).read_text().splitlines()[-1])
    return {name: float(figure) for name, figure in last["results"].items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    loss = "validationLossNatsPerToken"
    lines = [
        "| text : code | loss of both | of text | of code | epochs of text | of code |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for row in ROWS:
            found = [
                results_of(arguments.text, row, arguments.steps, seed, Path(folder)) for seed in range(arguments.seeds)
            ]
            keys = (loss, f"{loss}.text", f"{loss}.code", "epochs.text", "epochs.code")
            means = [statistics.mean(each[key] for each in found) for key in keys]
            lines.append("| " + " | ".join([row, *(f"{mean:.3f}" for mean in means)]) + " |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
