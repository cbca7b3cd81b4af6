"""What lighter models save and what they cost: parameters, operations, time of a step, and validation loss.

    PYTHONPATH=.:trainer python benchmarks/light_models.py [--steps 300] [--text FILE]

All train on the same samples in the same order, for the same number of steps. They take turns, a few steps each, so
that what else the machine does falls on all of them; times are medians, as ratios to the first model's. Operations are
those of a forward pass (torch's own count, two for a multiplication with an addition) for each token.
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
    seconds: list[float] = field(default_factory=list)
    step: int = 0

    def take_step(self, data: TrainingData) -> None:
        """The next step, on the samples that every model sees then."""
        indices = sample_indices(seed=0, position=self.step * BATCH, count=BATCH, num_samples=data.num_train_samples)
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


def begin(settings: dict[str, Any], data_settings: dict[str, Any], steps: int, folder: Path) -> tuple[Trained, Any]:
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
    torch.manual_seed(0)
    model = build_model(ModelShape.for_data(recipe.model, data))
    return Trained(model, make_optimizer(recipe.optimizer, model), recipe), data


def weights_in_use(model: LayeredModel) -> int:
    """Parameters that are not zero."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in model.parameters())


def operations(model: LayeredModel, data: TrainingData) -> int:
    """Of a forward pass, for each token."""
    inputs, _ = data.validation_batch(np.arange(1, dtype=np.int64))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs)
    return counter.get_total_flops() // inputs.numel()


def main() -> None:
    """Train all, print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--turn", type=int, default=10, help="steps before the next model's turn")
    parser.add_argument("--text", help="a text file in place of the standard library's source")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    library = {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 2_000_000}}
    source = {"type": "Text", "text": {"path": arguments.text}} if arguments.text else library
    with tempfile.TemporaryDirectory() as folder:
        trained = {}
        for name, settings in MODELS.items():
            trained[name], data = begin(settings, source, arguments.steps, Path(folder))
        for _ in range(0, arguments.steps, arguments.turn):
            for one in trained.values():
                for _ in range(min(arguments.turn, arguments.steps - one.step)):
                    one.take_step(data)
        first = next(iter(trained.values()))
        base = weights_in_use(first.model), operations(first.model, data), statistics.median(first.seconds)
        print("| settings | weights | operations per token | time of a step | validation loss, nats per byte |")
        print("|---|---|---|---|---|")
        for name, one in trained.items():
            one.model.eval()
            totals = validation_totals(
                one.model.each_logits, data, max_samples=256, micro_batch_size=BATCH, device=torch.device("cpu")
            )
            assert totals is not None
            figures = weights_in_use(one.model), operations(one.model, data), statistics.median(one.seconds)
            ratios = " | ".join(f"{figure / of:.2f}" for figure, of in zip(figures, base, strict=True))
            print(f"| `{name}` | {ratios} | {totals.loss_sum / totals.num_targets:.3f} |", flush=True)
        print(f"\n1.00 is {base[0]:,} weights, {base[1]:,} operations and {base[2] * 1000:.1f} ms")


if __name__ == "__main__":
    main()
