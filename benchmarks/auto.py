"""`auto` beside every list of steps of its table: which of them would have been better?

    PYTHONPATH=.:trainer:tests python benchmarks/auto.py [--tasks images text documents] [--minimize Latency]

Each task trains a small model and searches once. Then each list of the table is made in full, in the same process and
with as many optimizer steps as the search takes at last. All are judged by the same gate. Printed are the figures of
each, and those that were accepted and beat what the search chose by what is minimized. Text is the source of Python's
library, documents are functions of it with their package for a class (as in encoder_forms.py), images are drawn digits.
"""

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path

import torch

from builders.data import write_digits
from builders.trainer import train_here
from costopt.schema.compression import Auto, Variant
from costopt.schema.recipe import Recipe
from costopt.schema.variant_details import VariantReport
from costopt_trainer.compress.candidates import candidates_for, with_training
from costopt_trainer.compress.origin import of_recipe
from costopt_trainer.compress.run import make_variant
from costopt_trainer.errors import NotRetryable
from encoder_forms import recipe as documents_recipe
from encoder_forms import write_documents


def recipe_of(task: str, folder: Path, steps: int) -> Recipe:
    """A small model and its data."""
    if task == "documents":
        write_documents(folder / "documents.jsonl")
        return documents_recipe(folder / "documents.jsonl", {"embeddingDim": 64}, steps)
    decoder = {"numLayers": 4, "numHeads": 4, "embeddingDim": 96, "contextLength": 64}
    library = {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 1_000_000}}
    digits = {"type": "Images", "images": {"path": str(folder / "digits.npz")}, "validationPercent": 20}
    if task == "images":
        write_digits(folder / "digits.npz")
    net = {"numStages": 3, "baseChannels": 32}
    return Recipe.model_validate(
        {
            "model": {"type": "DecoderLM", "decoderLM": decoder}
            if task == "text"
            else {"type": "ConvNet", "convNet": net},
            "data": library if task == "text" else digits,
            "batch": {"globalBatchSize": 32, "microBatchSize": 32},
            "totalSteps": steps,
            "optimizer": {"learningRate": "3e-3"},
            "checkpointing": {"everySteps": steps},
        }
    )


def made(variant: Variant, recipe: Recipe, storage: Path) -> VariantReport | None:
    """The variant's report; None if the model refuses its steps."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return make_variant(variant, recipe, storage)
    except NotRetryable as error:
        print(f"  refused: {error}")
        return None


def figure(report: VariantReport, minimize: str) -> int:
    """What is minimized."""
    return report.measured.size_bytes if minimize == "Bytes" else report.measured.latency_microseconds


def shown(name: str, report: VariantReport) -> str:
    """One line."""
    return (
        f"  {name:34} {report.measured.latency_microseconds / 1000:8.2f} ms  {report.speedup:>6}x  "
        f"{report.measured.size_bytes:>9,} bytes  loss {float(report.validation_loss_increase):+.4f}  "
        f"{report.verdict} ({report.measured.engine})"
    )


def compare(task: str, options: argparse.Namespace) -> None:
    """One task."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe, storage = recipe_of(task, folder, options.steps), folder / "storage"
        with contextlib.redirect_stdout(io.StringIO()):
            assert train_here(recipe, storage) == 0
        settings = Auto(minimize=options.minimize, trials=options.trials, fine_tune_steps=options.fine_tune_steps)
        begun = time.monotonic()
        found = made(Variant(name="found", auto=settings, measure_seconds=options.measure_seconds), recipe, storage)
        if found is None or found.search is None:
            return
        print(
            f"{task}: {found.search.chosen}, {found.search.trials} trials in {time.monotonic() - begun:.0f} s", end=""
        )
        print(f", paid back after {found.search.payback_batches} passes", flush=True)
        print(shown("auto", found), flush=True)
        with contextlib.redirect_stdout(io.StringIO()):
            rows = candidates_for(of_recipe(recipe, storage).load(), may_train=True, graphs=True)
        begun, better = time.monotonic(), []
        for row in rows:
            steps = with_training(row.steps, options.fine_tune_steps)
            variant = Variant(name="fixed", steps=steps, measure_seconds=options.measure_seconds)
            report = made(variant, recipe, storage)
            if report is None:
                continue
            print(shown(row.name, report), flush=True)
            if report.verdict == "Accepted" and figure(report, options.minimize) < figure(found, options.minimize):
                better.append(row.name)
        print(
            f"{task}: {len(rows)} lists in full took {time.monotonic() - begun:.0f} s; better than auto's choice: ",
            end="",
        )
        print(", ".join(better) or "none", flush=True)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", nargs="+", default=["images", "text", "documents"])
    parser.add_argument("--minimize", choices=("Latency", "Bytes"), default="Latency")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--fine-tune-steps", type=int, default=60)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--measure-seconds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for task in options.tasks:
        compare(task, options)


if __name__ == "__main__":
    main()
