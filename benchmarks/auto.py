"""`auto` beside every list of steps of its table: which of them would have been better?

    PYTHONPATH=.:trainer:tests nice -n 10 python benchmarks/auto.py [--tasks images text documents]

Three tasks: text is the source of Python's library, for a decoder; documents are functions of it with their package for
a class, for an encoder (as in encoder_forms.py); images are drawn digits, for a convolutional network. Each trains a
small model and searches once. Then each list of the table is made in full, in the same process and with as many
optimizer steps as the search takes at last. All are judged by the same gate. Printed are the figures of each, and those
that were accepted and beat what the search chose by what is minimized: in latency, beside the model's in the same
process, by more than MARGIN percent, since latencies differ by some percent from one time to the next.

A task takes `--seconds` at most, nearly half of it the search; lists that time did not suffice for are named. So that
it does, torch.compile is no engine here unless `--compiled` is given, for the search and the lists alike, and lists are
not loaded again by a fresh process.
"""

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from builders.data import write_digits
from builders.trainer import train_here
from costopt.schema.compression import Auto, Variant
from costopt.schema.recipe import Recipe
from costopt.schema.variant_details import VariantReport
from costopt_trainer.compress import auto, making, measure, run
from costopt_trainer.compress.candidates import candidates_for, with_training
from costopt_trainer.compress.engines import engines_for
from costopt_trainer.compress.origin import of_recipe
from costopt_trainer.errors import NotRetryable
from encoder_forms import recipe as documents_recipe
from encoder_forms import write_documents

SEARCH_PERCENT = 45
"""Of a task's seconds that its search may take before its last list."""
MARGIN = {"Latency": 5, "Bytes": 0}
MEASURE_SECONDS = 6
"""What `measureSeconds` of each variant is."""
DECODER: dict[str, Any] = {"numLayers": 2, "numHeads": 4, "embeddingDim": 64, "contextLength": 64}


def recipe_of(task: str, folder: Path, steps: int, channels: int = 16) -> Recipe:
    """A small model and its data; `channels` of the first stage of that of images."""
    net = {"type": "ConvNet", "convNet": {"numStages": 3, "baseChannels": channels}}
    if task == "documents":
        write_documents(folder / "documents.jsonl")
        return documents_recipe(folder / "documents.jsonl", {"embeddingDim": 64}, steps)
    library = {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 1_000_000}}
    digits = {"type": "Images", "images": {"path": str(folder / "digits.npz")}, "validationPercent": 20}
    if task == "images":
        write_digits(folder / "digits.npz")
    return Recipe.model_validate(
        {
            "model": {"type": "DecoderLM", "decoderLM": DECODER} if task == "text" else net,
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
            return run.make_variant(variant, recipe, storage)
    except NotRetryable as error:
        print(f"  refused: {error}")
        return None


def figure(report: VariantReport, minimize: str) -> float:
    """What is minimized: bytes, or the latency as a part of that of the model beside it, since lists are not measured
    at one time."""
    if minimize == "Bytes":
        return report.measured.size_bytes
    return report.measured.latency_microseconds / report.baseline.latency_microseconds


def shown(name: str, report: VariantReport) -> str:
    """One line."""
    return (
        f"  {name:50} {report.measured.latency_microseconds / 1000:8.2f} ms  {report.speedup:>6}x  "
        f"{report.measured.size_bytes:>9,} bytes  loss {float(report.validation_loss_increase):+.4f}  "
        f"{report.verdict} ({report.measured.engine})"
    )


def compare(task: str, options: argparse.Namespace) -> None:
    """One task."""
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe, storage = recipe_of(task, folder, options.steps, options.channels), folder / "storage"
        with contextlib.redirect_stdout(io.StringIO()):
            assert train_here(recipe, storage) == 0
        settings = Auto(
            minimize=options.minimize,
            trials=options.trials,
            seconds=options.seconds * SEARCH_PERCENT // 100,
            fine_tune_steps=options.fine_tune_steps,
        )
        begun = time.monotonic()
        found = made(Variant(name="found", auto=settings, measure_seconds=MEASURE_SECONDS), recipe, storage)
        if found is None or found.search is None:
            return
        print(
            f"{task}: {found.search.chosen}, {found.search.trials} trials in {time.monotonic() - begun:.0f} s", end=""
        )
        print(f", paid back after {found.search.payback_batches} passes", flush=True)
        print(shown("auto", found), flush=True)
        with contextlib.redirect_stdout(io.StringIO()):
            rows = candidates_for(of_recipe(recipe, storage).load(), may_train=True, graphs=True)
        making.verify_in_fresh_process = lambda *_: None
        begun, better, left = time.monotonic(), [], []
        for row in rows:
            if time.monotonic() > end:
                left.append(row.name)
                continue
            steps = with_training(row.steps, options.fine_tune_steps)
            variant = Variant(name="fixed", steps=steps, measure_seconds=MEASURE_SECONDS)
            report = made(variant, recipe, storage)
            if report is None:
                continue
            print(shown(row.name, report), flush=True)
            least = figure(found, options.minimize) * (100 - MARGIN[options.minimize]) / 100
            if report.verdict == "Accepted" and figure(report, options.minimize) < least:
                better.append(row.name)
        print(f"{task}: {len(rows) - len(left)} lists in full took {time.monotonic() - begun:.0f} s; ", end="")
        print(f"better than auto's choice: {', '.join(better) or 'none'}", end="")
        print(f"; time did not suffice for: {', '.join(left)}" if left else "", flush=True)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", nargs="+", default=["images", "text", "documents"])
    parser.add_argument("--minimize", choices=("Latency", "Bytes"), default="Latency")
    parser.add_argument("--seconds", type=int, default=480)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--fine-tune-steps", type=int, default=24)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure.DECODING_BUDGET_SECONDS = 0.5  # of figures that nothing is chosen by
    if not options.compiled:
        for module in (auto, run):
            module.engines_for = lambda variant, device: tuple(
                engine for engine in engines_for(variant, device) if engine != "TorchCompiled"
            )
    for task in options.tasks:
        compare(task, options)


if __name__ == "__main__":
    main()
