"""Fine-tuning all weights of a Hugging Face model, or adapters of some rank (LoRA): what is trained, kept and learned.

    PYTHONPATH=.:trainer python benchmarks/adapters.py [--steps 100] [--base-steps 300] [--ranks 4 16]

A Llama-shaped model of four layers learns the source of Python's library; then each way goes on from its folder on
other text, on the same samples: `tinyshakespeare.txt` below COSTOPT_DATA_DIR (../shared/data). The peak is what torch's
allocator gives out in two steps, above the model itself; times are medians of steps of one after the other, and so
only as good as the machine is quiet.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.measured.allocations import Allocations
from benchmarks.measured.llama import write_config
from costopt.schema.recipe import Recipe
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training
from measured.texts import tiny_shakespeare

CONTEXT, BATCH, WIDTH, LAYERS = 128, 8, 128, 4
FULL_RATE, ADAPTER_RATE = "3e-4", "3e-3"
"""Adapters begin at zero, and are few: they take a rate ten times as high."""


class Timed(Training):
    """A training whose steps are timed."""

    def resume(self) -> None:
        super().resume()
        self.seconds: list[float] = []

    def take_step(self, *step: Any) -> None:
        began = time.perf_counter()
        super().take_step(*step)
        self.seconds.append(time.perf_counter() - began)


def recipe_of(model: dict[str, Any], data: dict[str, Any], steps: int, rate: str) -> Recipe:
    """A recipe that evaluates and saves at its end."""
    return Recipe.model_validate(
        {
            "model": {"type": "HuggingFace", "huggingFace": {"contextLength": CONTEXT, **model}},
            "data": data,
            "batch": {"globalBatchSize": BATCH, "microBatchSize": BATCH},
            "totalSteps": steps,
            "optimizer": {"learningRate": rate},
            "schedule": {"warmupSteps": steps // 20},
            "evaluation": {"everySteps": steps, "maxSamples": 128},
            "checkpointing": {"everySteps": steps, "mode": "Sync"},
        }
    )


def trained(recipe: Recipe, storage: Path) -> Timed:
    """A training at its end."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        training = Timed(recipe, storage, ALONE, Meter(), Stop(), job="benchmark")
        training.resume()
        run_steps(training)
        training.finish()
    return training


def peak_of(recipe: Recipe, storage: Path) -> int:
    """Bytes that two steps take at most."""
    allocations = Allocations()
    short = recipe.model_copy(update={"total_steps": 2})
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        training = Timed(short, storage, ALONE, Meter(), Stop(), job="benchmark")
        training.resume()
        allocations.start()
        run_steps(training)
        return allocations.stop()


def bytes_below(folder: Path) -> int:
    """Of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Train, compare, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=100)
    options.add_argument("--base-steps", type=int, default=300)
    options.add_argument("--ranks", type=int, nargs="+", default=[4, 16])
    given = options.parse_args()
    text = tiny_shakespeare()
    torch.set_num_threads(1)
    library = {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 4_000_000}}
    other = {"type": "Text", "text": {"path": str(text.resolve())}, "validationPercent": 10}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder, "base")
        config = write_config(Path(folder, "config"), width=WIDTH, layers=LAYERS, context=CONTEXT)
        trained(recipe_of({"config": config}, library, given.base_steps, "2e-3"), base)
        model = {"path": str(base / "artifacts/model")}
        ways = {"all weights": ({}, FULL_RATE)} | {
            f"LoRA, rank {rank}": ({"lora": {"rank": rank, "alpha": 2 * rank}}, ADAPTER_RATE) for rank in given.ranks
        }
        print("| | trained | peak of a step, MiB | checkpoint | ms/step | loss before | after |")
        print("|---|---|---|---|---|---|---|")
        for name, (more, rate) in ways.items():
            recipe = recipe_of({**model, **more}, other, given.steps, rate)
            storage = Path(folder, name.replace(" ", "-"))
            peak = peak_of(recipe, storage / "peak")
            training = trained(recipe, storage)
            learned = sum(one.numel() for one in training.parameters if one.requires_grad)
            before = trained(recipe_of({**model, **more}, other, 1, "1e-9"), storage / "before")
            kept = bytes_below(storage / "checkpoints") / 2**20
            median = 1000 * statistics.median(training.seconds)
            losses = [float(one.progress.validation_loss or "nan") for one in (before, training)]
            print(
                f"| {name} | {learned:,} | {peak / 2**20:.1f} | {kept:.2f} MiB | {median:.0f} | {losses[0]:.4f} | "
                f"{losses[1]:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
