"""What it costs that a model is a function's of the user's own package, and not one of ours.

    COSTOPT_DATA_DIR=... PYTHONPATH=.:trainer python benchmarks/imported.py [--steps 100]

The same DecoderLM is trained twice on the same samples from the same seed: as `model.type: DecoderLM`, and as what
`decoder` below returns for `model.type: Import`. The two take their steps in turns. Printed are whether the losses of
all steps and the trained weights are equal to the bit, and the ratio of the median steps, in the processor's own
seconds, so that little of it is what else the machine does.

The text is `tinyshakespeare.txt` below COSTOPT_DATA_DIR (../shared/data).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from costopt.schema.models import ModelSettings
from costopt.schema.recipe import Recipe
from costopt_trainer.data import load_data
from costopt_trainer.models.loss import count_targets
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model, context_length_of
from costopt_trainer.training.learner import Learner
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from measured.texts import tiny_shakespeare

OWN = {
    "type": "DecoderLM",
    "decoderLM": {"numLayers": 4, "numHeads": 4, "embeddingDim": 96, "contextLength": 64},
}
MODELS: dict[str, dict[str, Any]] = {
    "DecoderLM": OWN,
    "Import": {
        "type": "Import",
        "import": {"function": "imported:decoder", "path": str(Path(__file__).parent), "contextLength": 64},
    },
}
BATCH = 8


class Foreign(nn.Module):
    """A module of which the trainer knows nothing but that it maps tokens (B, T) to logits (B, T, V)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.inner(tokens)
        return logits


def decoder(vocabulary_size: int) -> Foreign:
    """What a package of the user's own would make."""
    return Foreign(build_model(ModelShape(ModelSettings.model_validate(OWN), vocabulary_size=vocabulary_size)))


def learner(model: dict[str, Any], steps: int, folder: Path) -> Learner:
    """A training that has taken no step."""
    recipe = Recipe.model_validate(
        {
            "model": model,
            "data": {"type": "Text", "text": {"path": str(tiny_shakespeare())}},
            "batch": {"globalBatchSize": BATCH, "microBatchSize": BATCH},
            "totalSteps": steps,
            "optimizer": {"learningRate": "2e-3"},
            "schedule": {"warmupSteps": steps // 10},
        }
    )
    data = load_data(recipe.data, context_length=context_length_of(recipe.model), cache_dir=folder)
    return Learner(recipe, ModelShape.for_data(recipe.model, data), data, ALONE, Stop(), cache_dir=folder)


def step_seconds(one: Learner) -> float:
    """Take a step; the processor's seconds that it took."""
    batches = one.batches_at(one.samples_consumed)
    begun = time.process_time()
    one.learn(batches, sum(int(count_targets(targets)) for _, targets in batches), lambda: None)
    return time.process_time() - begun


def main() -> None:
    """Train both and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        both = {name: learner(model, steps, Path(folder)) for name, model in MODELS.items()}
        seconds: dict[str, list[float]] = {name: [] for name in both}
        for number in range(steps):
            for name in sorted(both, reverse=bool(number % 2)):  # neither always goes first
                seconds[name].append(step_seconds(both[name]))
        losses = {name: [float(loss) for loss in one.losses] for name, one in both.items()}
        weights = {name: list(one.module.parameters()) for name, one in both.items()}
    equal = sum(own == other for own, other in zip(losses["DecoderLM"], losses["Import"], strict=True))
    same = all(map(torch.equal, weights["DecoderLM"], weights["Import"]))
    medians = {name: statistics.median(taken[2:]) for name, taken in seconds.items()}
    pairs = sorted(other / own for own, other in zip(seconds["DecoderLM"][2:], seconds["Import"][2:], strict=True))
    middle_half = pairs[len(pairs) // 4], pairs[-1 - len(pairs) // 4]
    print(f"losses equal to the bit: {equal} of {steps} steps; the last is {losses['Import'][-1]:.4f} nats per byte")
    print(f"trained weights equal to the bit: {'yes' if same else 'no'}")
    print(
        f"median step of Import to that of DecoderLM: {medians['Import'] / medians['DecoderLM']:.3f} "
        f"({middle_half[0]:.3f} to {middle_half[1]:.3f} for the middle half of the steps)"
    )


if __name__ == "__main__":
    main()
