"""What fewer weights, and fewer bits, cost a trained model: low-rank factors, shared and quantized weights, measured as
variants are.

    PYTHONPATH=.:trainer python benchmarks/compress_weights.py [--steps 400] [--only LowRank]

One DecoderLM (4 layers of width 96, contexts of 64 bytes) is trained on the source of Python's library; each row is a
variant made of it by the same code that makes those of a job, beside the model in the same process. Bytes, weights and
multiplications are ratios to the model's, the loss is in nats per byte on held-out text, and the interval is that of
the report (95 percent, paired bootstrap over samples). Speed is as good as the machine is quiet.
"""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from costopt.schema.compression import Variant
from costopt.schema.recipe import Recipe
from costopt_trainer.compress.run import make_variant
from costopt_trainer.data import load_data, sample_indices
from costopt_trainer.models.artifact import save_model
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from costopt_trainer.training.optimizers import make_optimizer
from costopt_trainer.training.schedules import learning_rate

BATCH = 16
ANY = {"maxQualityDropPercent": "1000", "minSpeedup": "0"}


def row(step: str, **settings: Any) -> dict[str, Any]:
    """A step as a document has it."""
    return {"type": step, step[0].lower() + step[1:]: settings}


INT4 = {"scheme": "Int4WeightOnly", "groupSize": 128}
"""A scale for each output of most matrices here, so that rounding is felt in so small a model."""

ROWS: dict[str, list[dict[str, Any]]] = {
    "LowRank `percent: 30`": [row("LowRank", percent=30)],
    "LowRank `percent: 30, calibrationSamples: 0`": [row("LowRank", percent=30, calibrationSamples=0)],
    "LowRank `percent: 60`": [row("LowRank", percent=60)],
    "LowRank `percent: 60, calibrationSamples: 0`": [row("LowRank", percent=60, calibrationSamples=0)],
    "LowRank `energyPercent: 99`": [row("LowRank", energyPercent=99)],
    "LowRank `energyPercent: 90`": [row("LowRank", energyPercent=90)],
    "LowRank `energyPercent: 90`, Quantize Int8WeightOnly": [
        row("LowRank", energyPercent=90),
        row("Quantize", scheme="Int8WeightOnly"),
    ],
    "ShareWeights `clusterBits: 6`": [row("ShareWeights", clusterBits=6)],
    "ShareWeights `clusterBits: 4`": [row("ShareWeights", clusterBits=4)],
    "ShareWeights `clusterBits: 3`": [row("ShareWeights", clusterBits=3)],
    "ShareWeights `clusterBits: 2`": [row("ShareWeights", clusterBits=2)],
    "ShareWeights `layers: 2`": [row("ShareWeights", layers=2)],
    "ShareWeights `layers: 2`, FineTune `steps: 100`": [row("ShareWeights", layers=2), row("FineTune", steps=100)],
    "Quantize Int4WeightOnly": [row("Quantize", **INT4)],
    "Quantize Int4WeightOnly, `fineTuneSteps: 100`": [row("Quantize", **INT4, fineTuneSteps=100)],
    "Quantize Int4WeightOnly after FineTune `steps: 100`": [row("FineTune", steps=100), row("Quantize", **INT4)],
    "Quantize Int4WeightOnly, `rounding: GPTQ`": [row("Quantize", **INT4, rounding="GPTQ")],
    "Quantize Int8Static": [row("Quantize", scheme="Int8Static")],
    "Quantize Int8Static, `smoothPercent: 50`": [row("Quantize", scheme="Int8Static", smoothPercent=50)],
    "Quantize Float8WeightOnly": [row("Quantize", scheme="Float8WeightOnly")],
}


def recipe(steps: int) -> Recipe:
    """Of the model."""
    sizes = {"numLayers": 4, "numHeads": 4, "embeddingDim": 96, "contextLength": 64}
    return Recipe.model_validate(
        {
            "model": {"type": "DecoderLM", "decoderLM": sizes},
            "data": {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 2_000_000}},
            "batch": {"globalBatchSize": BATCH, "microBatchSize": BATCH},
            "totalSteps": steps,
            "optimizer": {"learningRate": "2e-3"},
            "schedule": {"warmupSteps": steps // 10},
        }
    )


def train(settings: Recipe, storage: Path) -> None:
    """Leave a trained model in `storage`, as the train stage does."""
    data = load_data(settings.data, context_length=64, cache_dir=storage / "cache")
    shape = ModelShape.for_data(settings.model, data)
    torch.manual_seed(0)
    model = build_model(shape)
    optimizer = make_optimizer(settings.optimizer, model)
    for step in range(settings.total_steps or 0):
        indices = sample_indices(seed=0, position=step * BATCH, count=BATCH, num_samples=data.num_train_samples)
        inputs, targets = data.train_batch(np.asarray(indices))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step + 1)
        (loss_sum(model(inputs), targets) / targets.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    save_model(storage / "artifacts" / "model", model, shape)


def main() -> None:
    """Train, make all variants, print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--only", default="", help="rows that begin with this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        settings, storage = recipe(arguments.steps), Path(folder)
        train(settings, storage)
        print("| steps | bytes | weights | multiplications | speed | loss | change, 95 % between |")
        print("|---|---|---|---|---|---|---|")
        for name, steps in ROWS.items():
            if not name.startswith(arguments.only):
                continue
            variant = Variant.model_validate({"name": "small", "steps": steps, "accept": ANY, "measureSeconds": 20})
            with contextlib.redirect_stdout(io.StringIO()):
                report = make_variant(variant, settings, storage)
            assert report is not None
            assert report.details is not None
            assert report.quality_change is not None
            change = report.quality_change
            macs = [side.footprint.macs_per_sample or 0 for side in (report.details.variant, report.details.baseline)]
            figures = (
                f"{1 / float(report.size_ratio):.2f}",
                f"{report.measured.parameters / report.baseline.parameters:.2f}",
                f"{macs[0] / macs[1]:.2f}" if all(macs) else "-",  # no one counts those of a graph
                f"{float(report.speedup):.2f}",
                f"{float(report.measured.validation_loss):.4f}",
                f"{float(change.change):+.4f}, {float(change.low):+.4f} to {float(change.high):+.4f}",
            )
            print(f"| {name} | {' | '.join(figures)} |", flush=True)
        print(f"\nThe model: {report.baseline.parameters:,} weights, {report.baseline.validation_loss} nats per byte")


if __name__ == "__main__":
    main()
