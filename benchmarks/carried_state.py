"""What a carried state is worth: the validation loss of a small LSTM with it and without it.

    PYTHONPATH=.:trainer python benchmarks/carried_state.py [--steps 300] [--text FILE] [--contexts 8 32]

Each row trains two models with the built-in trainer itself: of one size, with the same initial weights, for as many
steps of as many tokens. Samples of 8 tokens are very short, so that the state matters most.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from costopt import names
from costopt.schema.recipe import Recipe
from costopt.schema.replica import ReplicaSettings
from costopt_trainer.training import loop

TOKENS_OF_A_STEP = 512


def trained(source: dict[str, Any], steps: int, context: int, storage: Path, *, carry: bool) -> float:
    """The validation loss at the end, in nats per byte."""
    samples = TOKENS_OF_A_STEP // context
    recipe = Recipe.model_validate(
        {
            "model": {
                "type": "LSTM",
                "lstm": {"numLayers": 1, "embeddingDim": 96, "contextLength": context, "carryState": carry},
            },
            "data": source,
            "batch": {"globalBatchSize": samples, "microBatchSize": samples},
            "totalSteps": steps,
            "optimizer": {"learningRate": "4e-3"},
            "schedule": {"warmupSteps": steps // 10},
            "evaluation": {"everySteps": steps, "maxSamples": 32 * samples},
            "checkpointing": {"everySteps": steps},
        }
    )
    storage.mkdir(parents=True)
    progress = storage / "progress.json"
    os.environ |= {names.ENV_STORAGE_DIR: str(storage), names.ENV_PROGRESS_FILE: str(progress)}
    settings = ReplicaSettings(job_name="bench", stage="train", num_nodes=1, processes_per_node=1, recipe=recipe)
    with contextlib.redirect_stdout(sys.stderr):
        loop.main(settings)
    return float(json.loads(progress.read_text())["results"]["validationLossNatsPerByte"])


def main() -> None:
    """Train all, print a row for each length of a sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--contexts", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--text", help="a text file in place of the standard library's source")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    library = {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 2_000_000}}
    source = {"type": "Text", "text": {"path": arguments.text}} if arguments.text else library
    print("| contextLength | each sample begins empty | carryState: true |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for context in arguments.contexts:
            losses = [
                trained(source, arguments.steps, context, Path(folder) / f"{context}-{carry}", carry=carry)
                for carry in (False, True)
            ]
            print(f"| {context} | {losses[0]:.3f} | {losses[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
