"""Half of the channels removed and the rest fine-tuned: the Prune step against torch-pruning used by hand.

    PYTHONPATH=.:trainer:tests python benchmarks/prune.py [--steps 200] [--seeds 2]

Each model is trained once for each seed; both sides then begin with these weights, cut the same layers by L1 to the
same widths, and take as many steps of AdamW on samples of the same data at the same falling rate. Their latencies are
measured in turns. Besides: what rounds and other criteria give on the same models.
"""

import argparse
import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning
from torch import nn

from builders.data import write_digits
from costopt.schema.compression import Prune
from costopt.schema.recipe import Recipe
from costopt_trainer.compress.prune import prune
from costopt_trainer.compress.step import StepRun
from costopt_trainer.data import TrainingData, load_data, sample_indices
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from costopt_trainer.phases import VOICE, Pieces
from costopt_trainer.training.checkpoint import Checkpoints
from costopt_trainer.training.evaluation import validation_totals
from costopt_trainer.training.process_group import ALONE

RATE = 1e-3
"""Of fine-tuning, at its first step."""
TURNS = 40
MODELS: dict[str, dict[str, Any]] = {
    "ConvNet": {"type": "ConvNet", "convNet": {"numStages": 2, "baseChannels": 32}},
    "ResNet": {"type": "ResNet", "resNet": {"numBlocks": 3, "numStages": 3, "baseChannels": 16}},
    "DecoderLM": {
        "type": "DecoderLM",
        "decoderLM": {"numLayers": 2, "numHeads": 4, "embeddingDim": 64, "contextLength": 32},
    },
}
OTHER_WAYS: dict[str, dict[str, Any]] = {
    "Taylor": {"criterion": "Taylor"},
    "Activation": {"criterion": "Activation"},
    "Random": {"criterion": "Random"},
    "4 rounds": {"rounds": 4},
}


def recipe_of(name: str, digits: Path, steps: int) -> Recipe:
    """The recipe that a model is trained by."""
    library = {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 500_000}}
    images = {"type": "Images", "images": {"path": str(digits)}, "validationPercent": 20}
    return Recipe.model_validate(
        {
            "model": MODELS[name],
            "data": library if name == "DecoderLM" else images,
            "batch": {"globalBatchSize": 32, "microBatchSize": 32},
            "totalSteps": steps,
            "optimizer": {"learningRate": "3e-3"},
        }
    )


def take_steps(model: LayeredModel, data: TrainingData, *, rate: float, steps: int, seed: int) -> None:
    """A training loop by hand: AdamW at a rate that falls to zero on a straight line."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=rate)
    for step in range(steps):
        indices = sample_indices(seed=seed, position=step * 32, count=32, num_samples=data.num_train_samples)
        inputs, targets = data.train_batch(indices)
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        (model.loss_sum(inputs, targets) / targets.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval()


def by_hand(model: LayeredModel, data: TrainingData, steps: int, seed: int) -> LayeredModel:
    """torch-pruning as its README has it, and the loop above."""
    layers: list[Any] = list(model.layers.values())
    cut: dict[str, Callable[[Any], nn.Module]] = {
        "ConvNet": lambda layer: layer.conv,
        "ResNet": lambda layer: layer.conv1,
        "DecoderLM": lambda layer: layer.mlp.expand,
    }
    roots = [cut[type(model).__name__](layer) for layer in layers]
    ignored = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d) and layer not in roots]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = torch_pruning.pruner.BasePruner(
            model.requires_grad_(True).eval(),
            data.validation_batch(np.arange(1))[0],
            importance=torch_pruning.importance.MagnitudeImportance(p=1),
            pruning_ratio=0.5,
            ignored_layers=ignored,
        )
        pruner.step()
    take_steps(model, data, rate=RATE, steps=steps, seed=seed + 1000)
    return model


def by_step(
    model: LayeredModel, recipe: Recipe, data: TrainingData, steps: int, folder: Path, **choice: Any
) -> LayeredModel:
    """The Prune step with its fine-tuning."""
    checkpoints = Checkpoints(folder, job="benchmark", keep_last=1, gang=ALONE)
    checkpoints.prepare()
    rounds = choice.get("rounds", 1)
    settings = Prune(
        structure="Structured",
        of=["Channels"],
        percent=50,
        fine_tune_steps=steps // rounds,
        learning_rate=str(RATE) if steps else None,
        **choice,
    )
    run = StepRun(
        data.validation_batch(np.arange(1))[0],
        Pieces(VOICE, "Pruning", aloud=False),
        recipe=recipe,
        data=data,
        checkpoints=checkpoints,
    )
    prune(model, settings, run)
    return model.eval()


def quality(model: LayeredModel, data: TrainingData) -> float:
    """The validation loss, nats per sample or byte."""
    totals = validation_totals(
        model.each_logits, data, max_samples=256, micro_batch_size=32, device=torch.device("cpu")
    )
    assert totals is not None
    return totals.loss_sum / totals.num_targets


def latencies(models: list[LayeredModel], data: TrainingData) -> list[float]:
    """Median milliseconds of a forward pass of 32 samples, in turns."""
    inputs, _ = data.validation_batch(np.arange(32))
    seconds: list[list[float]] = [[] for _ in models]
    with torch.no_grad():
        for _ in range(TURNS):
            for model, of_model in zip(models, seconds, strict=True):
                begun = time.perf_counter()
                model(inputs)
                of_model.append(time.perf_counter() - begun)
    return [1000 * statistics.median(of_model) for of_model in seconds]


def compare(name: str, seed: int, arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """All figures of one model and seed."""
    recipe = recipe_of(name, folder / "digits.npz", arguments.train)
    length = 32 if name == "DecoderLM" else None
    data = load_data(recipe.data, context_length=length, cache_dir=folder / "cache")
    torch.manual_seed(seed)
    trained = build_model(ModelShape.for_data(recipe.model, data))
    take_steps(trained, data, rate=3e-3, steps=arguments.train, seed=seed)

    def ours(label: str, **choice: Any) -> LayeredModel:
        place = folder / f"{name}-{seed}-{label}"
        return by_step(copy.deepcopy(trained), recipe, data, arguments.steps, place, seed=seed, **choice)

    cut = by_hand(copy.deepcopy(trained), data, 0, seed)
    hand, own = by_hand(copy.deepcopy(trained), data, arguments.steps, seed), ours("own")
    before, after, after_own = latencies([trained, hand, own], data)
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (trained, hand, own)]
    assert counts[1] == counts[2], "both leave the same widths"
    return {
        "parameters": counts[0] / counts[2],
        "trained": quality(trained, data),
        "cut": quality(cut, data),
        "by hand": quality(hand, data),
        "Prune": quality(own, data),
        "faster": before / after_own,
        "latency to by hand": after_own / after,
        **{label: quality(ours(label, **choice), data) for label, choice in OTHER_WAYS.items()},
    }


def main() -> None:
    """Print a row for each model: medians over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning")
    parser.add_argument("--train", type=int, default=300, help="steps before pruning")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    arguments = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_digits(folder / "digits.npz")
        for name in arguments.models:
            figures = [compare(name, seed, arguments, folder) for seed in range(arguments.seeds)]
            rows[name] = {key: statistics.median(one[key] for one in figures) for key in figures[0]}
            if len(rows) == 1:
                print("| model | " + " | ".join(rows[name]) + " |")
                print("|---" * (len(rows[name]) + 1) + "|")
            print(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in rows[name].values()) + " |", flush=True)


if __name__ == "__main__":
    main()
