"""What the techniques that follow the loss are worth, on one text and one small model.

    PYTHONPATH=.:trainer python benchmarks/learning_rates.py range|plateau|early|batch|noise [--steps 400] [--text FILE]

range     the validation loss at multiples of the rate that `costopt lr-find` suggests
plateau   ReduceOnPlateau against Cosine, at several rates
early     early stopping on a text so short that the model learns it by heart
noise     the gradient noise scale, sooner and later in a training
batch     a batch chosen by the gradient noise scale against fixed ones, of as many samples

Each training is the built-in trainer's own, from the same initial weights.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from costopt import names
from costopt.schema.range_report import RangeRequest
from costopt.schema.recipe import Recipe
from costopt.schema.replica import Progress, ReplicaSettings
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.training import loop
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.range_test import sweep
from costopt_trainer.training.recipe_data import data_of


def recipe(arguments: argparse.Namespace, **changes: Any) -> Recipe:
    """A decoder of two layers of width 64; `changes` are top-level fields as plain data."""
    library = {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 2_000_000}}
    plain = {
        "model": {
            "type": "DecoderLM",
            "decoderLM": {"numLayers": 2, "numHeads": 4, "embeddingDim": 64, "contextLength": 64},
        },
        "data": {"type": "Text", "text": {"path": str(arguments.text)}} if arguments.text else library,
        "batch": {"globalBatchSize": 16, "microBatchSize": 16},
        "totalSteps": arguments.steps,
        "schedule": {"warmupSteps": arguments.steps // 20},
        "evaluation": {"everySteps": max(1, arguments.steps // 20), "maxSamples": 128},
        "checkpointing": {"everySteps": arguments.steps},
        **changes,
    }
    return Recipe.model_validate(plain)


def trained(settings: Recipe) -> tuple[Progress, float]:
    """The last progress, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "progress.json"
        os.environ |= {names.ENV_STORAGE_DIR: folder, names.ENV_PROGRESS_FILE: str(progress)}
        replica = ReplicaSettings(job_name="bench", stage="train", num_nodes=1, processes_per_node=1, recipe=settings)
        began = time.monotonic()
        with contextlib.redirect_stdout(sys.stderr):
            loop.main(replica)
        return Progress.model_validate_json(progress.read_text()), time.monotonic() - began


def loss_of(settings: Recipe) -> str:
    """The validation loss at the end, in nats per byte, or that it diverged."""
    try:
        return f"{float(trained(settings)[0].validation_loss or 'nan'):.4f}"
    except Exception as error:  # noqa: BLE001 - a figure of the table
        return f"none ({type(error).__name__})"


def rate(value: float) -> dict[str, str]:
    """An optimizer with that rate."""
    return {"learningRate": f"{value:.3g}"}


def compare_range(arguments: argparse.Namespace) -> None:
    """Rows of rates around the suggested one."""
    settings = recipe(arguments)
    with tempfile.TemporaryDirectory() as folder:
        data = data_of(settings, Path(folder))
        shape = ModelShape.for_data(settings.model, data)
        request = RangeRequest(lowest="1e-6", highest="1", steps=100)
        began = time.monotonic()
        found = sweep(settings, shape, data, ALONE, request, cache_dir=Path(folder))
    print(f"suggested: {found.suggested_learning_rate} ({found.rule}); {len(found.points)} steps", end=", ")
    print(
        f"{time.monotonic() - began:.0f} s\n\n| learning rate | of the suggested one | validation loss |\n|---|---|---|"
    )
    suggested = float(found.suggested_learning_rate or "nan")
    for times in (0.1, 0.3, 1.0, 3.0, 10.0):
        loss = loss_of(recipe(arguments, optimizer=rate(times * suggested)))
        print(f"| {times * suggested:.2g} | {times:g} | {loss} |", flush=True)


def compare_plateau(arguments: argparse.Namespace) -> None:
    """Rows of rates, a column for each schedule."""
    warmup = arguments.steps // 20
    own = {"patienceEvaluations": 2, "leastImprovement": "0.02"}
    print("| learning rate | Cosine | ReduceOnPlateau | its rate at the end |\n|---|---|---|---|")
    for value in (1e-3, 4e-3, 1.6e-2):
        cosine = loss_of(recipe(arguments, optimizer=rate(value)))
        schedule = {"type": "ReduceOnPlateau", "warmupSteps": warmup, "reduceOnPlateau": own}
        progress, _ = trained(recipe(arguments, optimizer=rate(value), schedule=schedule))
        loss, last = float(progress.validation_loss or "nan"), float(progress.learning_rate or "nan")
        print(f"| {value:g} | {cosine} | {loss:.4f} | {last:.3g} |", flush=True)


def compare_early(arguments: argparse.Namespace) -> None:
    """Rows of how a training ends, on the first bytes of the text and on all of it."""
    print(
        "| text | stops early | steps | best step | validation loss of the model | seconds |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        short = Path(folder) / "short.txt"
        whole = arguments.text
        short.write_bytes(Path(whole).read_bytes()[: arguments.short_bytes])
        for name, text in ((f"{arguments.short_bytes:,} bytes", short), ("all of it", whole)):
            for stopping in (None, {"patienceEvaluations": 3}):
                arguments.text = text
                changes: dict[str, Any] = {} if stopping is None else {"earlyStopping": stopping}
                progress, seconds = trained(recipe(arguments, optimizer=rate(3e-3), **changes))
                told = progress.early_stopping
                best = "" if told is None else f"{told.best_step}"
                figures = f"{progress.step} | {best} | {float(progress.validation_loss or 'nan'):.4f} | {seconds:.0f}"
                print(f"| {name} | {'no' if stopping is None else 'yes'} | {figures} |", flush=True)


def compare_batch(arguments: argparse.Namespace) -> None:
    """Rows of batch sizes; steps so that each sees as many samples."""
    print("| samples per step | steps | validation loss | seconds |\n|---|---|---|---|")
    samples = 16 * arguments.steps
    for size in (8, 16, 32, 64, 128):
        steps = samples // size
        batch = {"globalBatchSize": size, "microBatchSize": 4}
        every = {"everySteps": steps, "maxSamples": 128}
        schedule = {"warmupSteps": steps // 20}
        settings = recipe(arguments, batch=batch, totalSteps=steps, evaluation=every, schedule=schedule)
        progress, seconds = trained(settings)
        print(f"| {size} | {steps} | {float(progress.validation_loss or 'nan'):.4f} | {seconds:.0f} |", flush=True)
    auto = {"largest": 256, "afterSteps": arguments.steps // 8, "measureSteps": arguments.steps // 8}
    batch = {"globalBatchSize": 8, "microBatchSize": 4, "auto": auto}
    progress, seconds = trained(recipe(arguments, batch=batch))
    told = progress.auto_batch
    size = told.global_batch_size if told else 0
    scale = f"noise scale {float(told.noise_scale):.1f}" if told and told.noise_scale else "no scale"
    loss = float(progress.validation_loss or "nan")
    print(f"| auto: 8, then {size} ({scale}) | {progress.step}, {progress.samples_consumed:,} samples | ", end="")
    print(f"{loss:.4f} | {seconds:.0f} |", flush=True)


def compare_noise(arguments: argparse.Namespace) -> None:
    """Rows of the noise scale as it is measured, sooner or later in one training."""
    print("| measured over 50 steps, after | noise scale, samples | chosen |\n|---|---|---|")
    for after in (0, 50, 200, 800):
        auto = {"largest": 1024, "afterSteps": after, "measureSteps": 50}
        batch = {"globalBatchSize": 8, "microBatchSize": 4, "auto": auto}
        schedule = {"type": "ReduceOnPlateau", "warmupSteps": 20}
        progress, _ = trained(recipe(arguments, batch=batch, totalSteps=after + 51, schedule=schedule))
        told = progress.auto_batch
        scale = "" if told is None or told.noise_scale is None else f"{float(told.noise_scale):.1f}"
        print(f"| {after} | {scale} | {told.global_batch_size if told else ''} |", flush=True)


COMPARISONS = {
    "range": compare_range,
    "plateau": compare_plateau,
    "early": compare_early,
    "batch": compare_batch,
    "noise": compare_noise,
}


def main() -> None:
    """Make one comparison, print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMPARISONS)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--short-bytes", type=int, default=10_000)
    parser.add_argument("--text", type=Path, help="a text file in place of the standard library's source")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "early" and arguments.text is None:
        parser.error("early needs --text, of which it takes a part")
    COMPARISONS[arguments.what](arguments)


if __name__ == "__main__":
    main()
