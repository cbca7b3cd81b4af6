"""What the trainer's loop costs over a bare PyTorch loop: the same model, samples and optimizer, one process.

    make bench, or: PYTHONPATH=.:trainer python benchmarks/train_loop_overhead.py [--steps 40] [--rounds 7]

The bare loop does what any training must (sample, forward, backward, clip, step) and nothing else. The two take turns
in rounds of `--steps` steps, so that what else the machine does falls on both; the ratio is of the median step times.
Both loops must end with the same weights to rounding, or the comparison is refused. Evaluation, checkpoints and
start-up are not steps and not measured here.
"""

import argparse
import contextlib
import io
import shutil
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from costopt.names import CHECKPOINTS_DIR
from costopt.schema.recipe import Recipe
from costopt_trainer.data import TrainingData, sample_indices
from costopt_trainer.models.table import build_model
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.optimizers import make_optimizer
from costopt_trainer.training.parallel.strategy import Batch
from costopt_trainer.training.process_group import ProcessGroup, join_process_group
from costopt_trainer.training.schedules import learning_rate
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training


def make_recipe(total_steps: int) -> Recipe:
    """The quickstart's kind of model: a small GPT on the text of Python's own standard library."""
    return Recipe.model_validate(
        {
            "model": {"type": "DecoderLM"},
            "data": {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 4_000_000}},
            "batch": {"globalBatchSize": 16, "microBatchSize": 16},
            "totalSteps": total_steps,
            "evaluation": {"everySteps": total_steps},
            "checkpointing": {"everySteps": total_steps},
        }
    )


def bare_loop(recipe: Recipe, data: TrainingData, model: nn.Module, device: torch.device) -> list[float]:
    """The loop as one would write it for this one case; returns when each step began, in seconds."""
    optimizer = make_optimizer(recipe.optimizer, model)
    batch_size = recipe.batch.global_batch_size
    began = []
    for step in range(recipe.steps):
        began.append(time.perf_counter())
        indices = sample_indices(
            seed=recipe.seed, position=step * batch_size, count=batch_size, num_samples=data.num_train_samples
        )
        inputs, targets = (tensor.to(device) for tensor in data.train_batch(indices))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step + 1)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return began


class Observed(Training):
    """A training that notes when each step begins."""

    def resume(self) -> None:
        super().resume()
        self.began: list[float] = []

    def take_step(self, batches: list[Batch], num_targets: int) -> None:
        self.began.append(time.perf_counter())
        super().take_step(batches, num_targets)


def our_loop(recipe: Recipe, storage: Path, gang: ProcessGroup) -> Observed:
    """The trainer's own loop, from the start, reports and all."""
    shutil.rmtree(storage / CHECKPOINTS_DIR, ignore_errors=True)
    training = Observed(recipe, storage, gang, Meter(), Stop(), job="benchmark")
    with contextlib.redirect_stdout(io.StringIO()):
        training.resume()
        run_steps(training)
    return training


def step_times(began: list[float]) -> list[float]:
    """Seconds from the beginning of each step to that of the next; the first two warm up."""
    return [later - earlier for earlier, later in pairwise(began)][2:]


def main() -> None:
    """Measure, compare, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--rounds", type=int, default=7)
    given = options.parse_args()
    recipe = make_recipe(given.steps)
    gang = join_process_group()
    bare: list[float] = []
    ours: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            training = our_loop(recipe, Path(folder), gang)
            ours += step_times(training.began)
            torch.manual_seed(recipe.seed)
            model = build_model(training.shape).to(gang.device)
            bare += step_times(bare_loop(recipe, training.data, model, gang.device))
            for one, other in zip(training.module.parameters(), model.parameters(), strict=True):
                torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    bare_ms, our_ms = (1000 * statistics.median(times) for times in (bare, ours))
    print(f"bare loop   {bare_ms:8.2f} ms/step (median of {len(bare)})")
    print(f"costopt     {our_ms:8.2f} ms/step (median of {len(ours)})")
    print(f"ratio       {our_ms / bare_ms:8.3f}   {torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
