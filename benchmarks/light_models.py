"""What lighter models save and what they cost: parameters, operations, time of a step, and validation loss.

    PYTHONPATH=.:trainer python benchmarks/light_models.py [--steps 300] [--seeds 3] [--text FILE]

All train on the same samples in the same order, for the same number of steps. They take turns, a few steps each, so
that what else the machine does falls on all of them; times are medians over all seeds, as ratios to the first model's.
Operations are those of a forward pass (torch's own count, two for a multiplication with an addition) for each token.
Each loss has the mean of the seeds, half of what lies between the least and the largest, and in brackets the least and
the largest difference to the first row, seed by seed.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from costopt.schema.recipe import Recipe
from costopt_trainer.data import TrainingData, load_data, sample_indices
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from costopt_trainer.training.evaluation import validation_totals
from costopt_trainer.training.optimizers import make_optimizer
from costopt_trainer.training.schedules import learning_rate
from measured.seeds import cell

SIZES = {"numLayers": 4, "numHeads": 4, "embeddingDim": 96, "contextLength": 64}
BATCH = 16
MODELS: dict[str, dict[str, Any]] = {
    "numLayers: 4, embeddingDim: 96": {},
    "numLayers: 2": {"numLayers": 2},
    "embeddingDim: 64": {"embeddingDim": 64},
    "rank: 16": {"rank": 16},
    "numLayers: 2, layerRepeats: 2": {"numLayers": 2, "layerRepeats": 2},
    "sparsity: {percent: 80}": {"sparsity": {"percent": 80}},
    "sparsity: {percent: 80, mask: Magnitude}": {"sparsity": {"percent": 80, "mask": "Magnitude"}},
    "tiedEmbeddings: true": {"tiedEmbeddings": True},
    "preset: GPT2": {"preset": "GPT2"},
    "preset: Llama": {"preset": "Llama"},
    "preset: Llama, numKeyValueHeads: 1": {"preset": "Llama", "numKeyValueHeads": 1},
}


@dataclass
class Trained:
    """A model on its way."""

    model: LayeredModel
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    seed: int
    seconds: list[float] = field(default_factory=list)
    step: int = 0

    def take_step(self, data: TrainingData) -> None:
        """The next step, on the samples that every model sees then."""
        indices = sample_indices(
            seed=self.seed, position=self.step * BATCH, count=BATCH, num_samples=data.num_train_samples
        )
        inputs, targets = data.train_batch(indices)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step + 1)
        begun = time.perf_counter()
        (loss_sum(self.model(inputs), targets) / targets.numel()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.seconds.append(time.perf_counter() - begun)
        self.step += 1


def begin(
    settings: dict[str, Any], data_settings: dict[str, Any], steps: int, seed: int, folder: Path
) -> tuple[Trained, TrainingData]:
    """A fresh model, and its data."""
    recipe = Recipe.model_validate(
        {
            "model": {"type": "DecoderLM", "decoderLM": {**SIZES, **settings}},
            "data": data_settings,
            "batch": {"globalBatchSize": BATCH, "microBatchSize": BATCH},
            "totalSteps": steps,
            "optimizer": {"learningRate": "2e-3"},
            "schedule": {"warmupSteps": steps // 10},
        }
    )
    data = load_data(recipe.data, context_length=SIZES["contextLength"], cache_dir=folder)
    torch.manual_seed(seed)
    model = build_model(ModelShape.for_data(recipe.model, data))
    return Trained(model, make_optimizer(recipe.optimizer, model), recipe, seed), data


def weights_in_use(model: LayeredModel) -> int:
    """Parameters that are not zero."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in model.parameters())


def operations(model: LayeredModel, data: TrainingData) -> int:
    """Of a forward pass, for each token."""
    inputs, _ = data.validation_batch(np.arange(1, dtype=np.int64))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs)
    return counter.get_total_flops() // inputs.numel()


def train_in_turns(
    source: dict[str, Any], steps: int, turn: int, seed: int, folder: Path
) -> tuple[dict[str, Trained], TrainingData]:
    """All models after `steps` steps, of which each takes `turn` at a time, and their data."""
    begun = {name: begin(settings, source, steps, seed, folder) for name, settings in MODELS.items()}
    trained = {name: one for name, (one, _) in begun.items()}
    data = next(data for _, data in begun.values())
    for _ in range(0, steps, turn):
        for one in trained.values():
            for _ in range(min(turn, steps - one.step)):
                one.take_step(data)
    return trained, data


def loss_of(one: Trained, data: TrainingData) -> float:
    """Nats per byte of the held-out samples."""
    one.model.eval()
    totals = validation_totals(
        one.model.each_logits, data, max_samples=256, micro_batch_size=BATCH, device=torch.device("cpu")
    )
    assert totals is not None
    return totals.loss_sum / totals.num_targets


def main() -> None:
    """Train all, print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--turn", type=int, default=10, help="steps before the next model's turn")
    parser.add_argument("--text", help="a text file in place of the standard library's source")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    library = {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 2_000_000}}
    source = {"type": "Text", "text": {"path": arguments.text}} if arguments.text else library
    losses: dict[str, list[float]] = {name: [] for name in MODELS}
    seconds: dict[str, list[float]] = {name: [] for name in MODELS}
    sizes: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            trained, data = train_in_turns(source, arguments.steps, arguments.turn, seed, Path(folder))
            for name, one in trained.items():
                losses[name].append(loss_of(one, data))
                seconds[name] += one.seconds
                sizes[name] = weights_in_use(one.model), operations(one.model, data)
    print("| settings | weights | operations per token | time of a step | validation loss, nats per byte |")
    print("|---|---|---|---|---|")
    first = next(iter(MODELS))
    base = *sizes[first], statistics.median(seconds[first])
    for name in MODELS:
        figures = *sizes[name], statistics.median(seconds[name])
        ratios = " | ".join(f"{figure / of:.2f}" for figure, of in zip(figures, base, strict=True))
        print(f"| `{name}` | {ratios} | {cell(losses[name], losses[first])} |")
    print(f"\n1.00 is {base[0]:,} weights, {base[1]:,} operations and {base[2] * 1000:.1f} ms")


if __name__ == "__main__":
    main()
