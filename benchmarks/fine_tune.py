"""What FineTune brings back of a model that was pruned: cut, cut and healed, and only trained on.

    PYTHONPATH=.:trainer:tests python benchmarks/fine_tune.py [--seeds 3]

A small decoder is trained on the source of Python's library, for each seed anew; three quarters of the channels and
heads of its layers go, by L1. "Trained on" is the whole model after the same FineTune step: what that gains is no
healing.
"""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch

from auto import made, recipe_of
from builders.trainer import train_here
from costopt.schema.compression import Variant
from costopt_trainer.compress import making, measure

STEPS, HEALING = 300, 100
CUT: dict[str, Any] = {"type": "Prune", "prune": {"structure": "Structured", "percent": 75}}
HEAL: dict[str, Any] = {
    "type": "FineTune",
    "fineTune": {"steps": HEALING, "learningRate": "1e-3", "warmupSteps": HEALING // 10},
}
VARIANTS = {"cut": [CUT], "cut and healed": [CUT, HEAL], "trained on": [HEAL]}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure.DECODING_BUDGET_SECONDS = 0.1
    making.verify_in_fresh_process = lambda *_: None
    print("| seed | variant | fewer bytes | as fast | loss as trained | loss | rise | verdict |\n" + "|---" * 8 + "|")
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as name:
            recipe, storage = recipe_of("text", Path(name), STEPS), Path(name) / "storage"
            recipe = recipe.model_copy(update={"seed": seed})
            with contextlib.redirect_stdout(io.StringIO()):
                assert train_here(recipe, storage) == 0
            for called, steps in VARIANTS.items():
                variant = Variant.model_validate({"name": "variant", "measureSeconds": 60, "steps": steps})
                report = made(variant, recipe, storage)
                assert report is not None
                print(
                    f"| {seed} | {called} | {report.baseline.size_bytes / report.measured.size_bytes:.2f} x "
                    f"| {report.speedup} x | {float(report.baseline.validation_loss):.3f} "
                    f"| {float(report.measured.validation_loss):.3f} | {float(report.validation_loss_increase):+.3f} "
                    f"| {report.verdict} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
