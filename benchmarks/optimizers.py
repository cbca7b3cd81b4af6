"""What each optimizer, each schedule and an average of the weights make of the same steps on Tiny Shakespeare.

    COSTOPT_DATA_DIR=... PYTHONPATH=.:trainer python benchmarks/optimizers.py [--steps 200] [--threads 1]

A DecoderLM of four layers of width 96, byte by byte, 16 samples of 64 a step. Each optimizer is trained at three
learning rates and shown with the best. State: bytes for each weight, as a checkpoint has them. Time: the median of its
steps alone, without the pass forward and backward, as a ratio to AdamW's; optimizers are timed in turns. The loss is
over 512 held-out samples, in nats per byte.

The text is `tinyshakespeare.txt` below COSTOPT_DATA_DIR (../shared/data).
"""

import argparse
import contextlib
import io
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from costopt import names
from costopt.schema.recipe import Recipe
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.optimizers import named_optimizer_state
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training
from measured.texts import tiny_shakespeare

RATES: dict[str, list[str]] = {
    "AdamW": ["1e-3", "3e-3", "1e-2"],
    "SGD": ["1e-1", "3e-1", "1"],
    "Lion": ["3e-4", "1e-3", "3e-3"],
    "Adafactor": ["1e-2", "3e-2", "1e-1"],
    "Muon": ["1e-3", "3e-3", "1e-2"],
    "AdamW8bit": ["1e-3", "3e-3", "1e-2"],
}
DECAYS = {"SGD": "0"}
"""Weight decay where the usual 0.1 would not do: SGD's is a part of its gradient."""
SCHEDULES: dict[str, dict[str, Any]] = {
    "Cosine": {"type": "Cosine"},
    "Linear": {"type": "Linear"},
    "Constant": {"type": "Constant"},
    "WarmupStableDecay": {"type": "WarmupStableDecay"},
    "WarmupStableDecay, SquareRoot": {"type": "WarmupStableDecay", "warmupStableDecay": {"decayShape": "SquareRoot"}},
    "OneCycle": {"type": "OneCycle"},
}


def recipe(text: Path, steps: int, **changes: Any) -> Recipe:
    """A training of so many steps."""
    plain = {
        "model": {"type": "DecoderLM", "decoderLM": {"numLayers": 4, "numHeads": 4, "embeddingDim": 96,
                                                     "contextLength": 64}},
        "data": {"type": "Text", "text": {"path": str(text)}},
        "batch": {"globalBatchSize": 16, "microBatchSize": 16},
        "totalSteps": steps,
        "schedule": {"warmupSteps": steps // 15},
        "evaluation": {"everySteps": steps, "maxSamples": 512},
        "checkpointing": {"everySteps": steps, "mode": "Sync"},
        **changes,
    }  # fmt: skip
    return Recipe.model_validate(plain)


def begun(settings: Recipe, folder: Path) -> Training:
    """A training that has taken no step."""
    shutil.rmtree(folder / names.CHECKPOINTS_DIR, ignore_errors=True)  # the tokens of the one before are of use
    training = Training(settings, folder, ALONE, Meter(), Stop(), job="benchmark")
    training.resume()
    return training


def trained(settings: Recipe, folder: Path) -> Training:
    """A training that has taken all its steps; quiet."""
    with contextlib.redirect_stdout(io.StringIO()):
        training = begun(settings, folder)
        run_steps(training)
    return training


def loss_of(training: Training) -> float:
    """Nats per byte of the held-out text."""
    return float(training.progress.validation_loss or "nan")


def state_bytes(training: Training) -> float:
    """What the optimizer keeps, for each weight."""
    kept = named_optimizer_state(training.recipe.optimizer, training.module, training.optimizer)
    return sum(tensor.nbytes for tensor in kept.values()) / sum(one.numel() for one in training.module.parameters())


def step_times(trainings: dict[str, Training], rounds: int = 20) -> dict[str, float]:
    """Median seconds of each optimizer's step on gradients that are there, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    for training in trainings.values():
        for parameter in training.module.parameters():
            parameter.grad = torch.randn_like(parameter) * 1e-3
    for _ in range(rounds):
        for name, training in trainings.items():
            begin = time.perf_counter()
            training.optimizer.step()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def compare_optimizers(text: Path, steps: int, folder: Path) -> None:
    """The table of optimizers."""
    best: dict[str, Training] = {}
    for word, rates in RATES.items():
        tried = []
        for rate in rates:
            optimizer = {"type": word, "learningRate": rate, "weightDecay": DECAYS.get(word, "0.1")}
            tried.append(trained(recipe(text, steps, optimizer=optimizer), folder))
        best[word] = min(tried, key=loss_of)
    seconds = step_times(best)
    print("| optimizer | learningRate | bytes per weight | time of its step, to AdamW's | validation loss |")
    print("|---|---|---|---|---|")
    for word, training in best.items():
        rate, times = training.recipe.optimizer.learning_rate, seconds[word] / seconds["AdamW"]
        print(f"| {word} | {rate} | {state_bytes(training):.2f} | {times:.1f} | {loss_of(training):.4f} |", flush=True)


def compare_schedules(text: Path, steps: int, folder: Path) -> None:
    """The table of schedules, with and without an average of the weights."""
    print("| schedule | validation loss | of an average of the weights (`decay: 0.95`) |")
    print("|---|---|---|")
    for name, schedule in SCHEDULES.items():
        warmup = {} if schedule["type"] == "OneCycle" else {"warmupSteps": steps // 15}
        changes = {"schedule": {**schedule, **warmup}, "optimizer": {"learningRate": "3e-3"}}
        losses = [
            loss_of(trained(recipe(text, steps, **changes, **averaged), folder))
            for averaged in ({}, {"ema": {"decay": "0.95"}})
        ]
        print(f"| {name} | {' | '.join(f'{loss:.4f}' for loss in losses)} |", flush=True)


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    text = tiny_shakespeare()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        compare_optimizers(text, arguments.steps, Path(folder))
        compare_schedules(text, arguments.steps, Path(folder))


if __name__ == "__main__":
    main()
