"""What a checkpoint costs the training that goes on: written by a thread (Async), or by the loop itself (Sync).

    PYTHONPATH=.:trainer python benchmarks/checkpoint_stall.py [--dim 512] [--layers 4] [--batch 1] [--context 32]
        [--every 100] [--saves 3] [--rounds 1] [--megabytes-per-second 10]

Both modes train the same model on the same samples, in turns within one run, and must end with the same weights. Told
apart are

    held        the time in which the loop's thread works for a checkpoint or waits for one: it takes the snapshot,
                waits until that is copied, and notes that the checkpoint is complete
    slowed      how much longer the steps take that run while the thread writes

`--megabytes-per-second` bounds the pace at which tensors are written: that of a volume which many ranks share. 0 is the
disk as it is. `--every` steps must leave a checkpoint the time to be complete before the next is due. The steps before
the first checkpoint warm up; the first, for which memory is taken, and the last, for which a training waits, are not
counted.
"""

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from costopt.schema.recipe import Recipe
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.storage import checkpoint_files
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ProcessGroup, join_process_group
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training


@dataclass
class Figures:
    """Of one mode, in seconds."""

    alone: list[float] = field(default_factory=list)
    """Steps while nothing is written."""
    beside: list[float] = field(default_factory=list)
    """Steps while the thread writes."""
    held: list[float] = field(default_factory=list)
    """Of each checkpoint that counts."""
    written: list[float] = field(default_factory=list)
    """Of these, from the beginning until the loop saw that it was complete."""


class Observed(Training):
    """A training that notes how long its steps take and for how long checkpoints hold it."""

    def resume(self) -> None:
        super().resume()
        self.figures = Figures()
        self.held: dict[int, float] = {}  # by the step of the checkpoint
        self.began: dict[int, float] = {}
        self.is_held = False
        wait = self.saves.before_change
        self.saves.before_change = lambda: self.holding(wait)  # type: ignore[method-assign]

    def end(self) -> None:
        """Choose what counts."""
        counted = sorted(self.held)[1:-1]
        self.figures.held = [self.held[step] for step in counted]

    def holding(self, act: Any) -> None:
        """Do something for the checkpoint that was begun last; its time counts once."""
        if self.is_held:
            act()
            return
        self.is_held, start = True, time.perf_counter()
        act()
        self.is_held = False
        step = self.saves.step or 0
        self.held[step] = self.held.get(step, 0.0) + time.perf_counter() - start

    def take_step(self, *step: Any) -> None:
        busy = self.saves.step != self.saved_step
        before, start = sum(self.held.values()), time.perf_counter()
        super().take_step(*step)
        took = time.perf_counter() - start - (sum(self.held.values()) - before)
        if self.saves.step is not None:
            (self.figures.beside if busy else self.figures.alone).append(took)

    def save(self) -> None:
        self.began[self.step] = time.perf_counter()
        self.holding(super().save)

    def settle(self) -> None:
        before = self.saved_step
        if self.saves.step != before:
            self.holding(super().settle)
        if self.saved_step != before and len(self.began) > 1 and self.step < self.recipe.steps:
            self.figures.written.append(time.perf_counter() - self.began[self.saved_step or 0])


def make_recipe(given: argparse.Namespace, mode: Literal["Async", "Sync"]) -> Recipe:
    """A GPT on the text of Python's own standard library."""
    total_steps = given.every * (given.saves + 2)
    layers = {"numLayers": given.layers, "numHeads": 4, "embeddingDim": given.dim, "contextLength": given.context}
    return Recipe.model_validate(
        {
            "model": {"type": "DecoderLM", "decoderLM": layers},
            "data": {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 1_000_000}},
            "batch": {"globalBatchSize": given.batch, "microBatchSize": given.batch},
            "totalSteps": total_steps,
            "evaluation": {"everySteps": total_steps, "maxSamples": 4},
            "checkpointing": {"everySteps": given.every, "mode": mode},
        }
    )


@contextlib.contextmanager
def paced(megabytes_per_second: float) -> Iterator[None]:
    """Files of tensors are written no faster than this."""
    write = checkpoint_files.write_tensor_file

    def slowly(path: Path, *tensors: Any, **how: Any) -> Any:
        start = time.perf_counter()
        record = write(path, *tensors, **how)
        due = int(record["size"]) / 1e6 / megabytes_per_second if megabytes_per_second else 0.0
        time.sleep(max(0.0, due - (time.perf_counter() - start)))
        return record

    checkpoint_files.write_tensor_file = slowly
    try:
        yield
    finally:
        checkpoint_files.write_tensor_file = write


def trained(recipe: Recipe, gang: ProcessGroup) -> Observed:
    """A whole training of its own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        training = Observed(recipe, Path(folder), gang, Meter(), Stop(), job="benchmark")
        training.resume()
        run_steps(training)
        training.end()
    return training


def main() -> None:
    """Measure, compare, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dim", type=int, default=512)
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--batch", type=int, default=1)
    options.add_argument("--context", type=int, default=32)
    options.add_argument("--every", type=int, default=100)
    options.add_argument("--saves", type=int, default=3)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--megabytes-per-second", type=float, default=10)
    given = options.parse_args()
    gang = join_process_group()
    modes: dict[Literal["Async", "Sync"], list[Figures]] = {"Sync": [], "Async": []}
    with paced(given.megabytes_per_second):
        for number in range(given.rounds):
            ends = []
            for mode, figures in modes.items():
                training = trained(make_recipe(given, mode), gang)
                figures.append(training.figures)
                ends.append(list(training.module.parameters()))
            for one, other in zip(*ends, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0)
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    parameters = sum(parameter.numel() for parameter in ends[0])
    step = statistics.median(time for each in modes["Sync"] for time in each.alone)
    sync = statistics.median(time for each in modes["Sync"] for time in each.held)
    held = statistics.median(time for each in modes["Async"] for time in each.held)
    beside = statistics.median(time for each in modes["Async"] for time in each.beside)
    written = statistics.median(time for each in modes["Async"] for time in each.written)
    print(f"{parameters / 1e6:.1f} million parameters, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"a step                       {1000 * step:9.1f} ms")
    print(f"Sync: the loop is held       {1000 * sync:9.1f} ms, {sync / step:.1f} steps")
    print(f"Async: the loop is held      {1000 * held:9.1f} ms, {100 * held / step:.1f} % of a step")
    print(f"Async: written after         {1000 * written:9.1f} ms, {written / step:.1f} steps")
    print(f"Async: a step meanwhile      {1000 * beside:9.1f} ms, slowed by {100 * (beside / step - 1):.1f} %")
    print(f"Async: the loop loses in all {1000 * (held + (beside - step) * written / beside):9.1f} ms per checkpoint")


if __name__ == "__main__":
    main()
