"""What it is worth to keep the most sensitive layers in more bits: `keepLayersPercent` of Quantize.

    PYTHONPATH=.:trainer:tests python benchmarks/keep_layers.py [--scheme Int4WeightOnly]

A small decoder is trained on the source of Python's library and quantized with all layers alike and with some kept.
Printed are bytes, what the validation loss rises by, and the layers that were kept.
"""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path

import torch

from auto import made, recipe_of
from builders.trainer import train_here
from costopt.schema.compression import Quantize, Step, Variant
from costopt_trainer.compress import making, measure

STEPS = 600
"""Of training."""
PERCENTS = (None, 10, 20, 40)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scheme", default="Int4WeightOnly")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure.DECODING_BUDGET_SECONDS = 0.1
    measure.MIN_RUNS = measure.MAX_RUNS = 3  # latencies are not looked at
    making.verify_in_fresh_process = lambda *_: None
    with tempfile.TemporaryDirectory() as name:
        recipe, storage = recipe_of("text", Path(name), STEPS), Path(name) / "storage"
        with contextlib.redirect_stdout(io.StringIO()):
            assert train_here(recipe, storage) == 0
        for percent in PERCENTS:
            settings = Quantize(scheme=options.scheme, keep_layers_percent=percent)
            step = Step(type="Quantize", quantize=settings)
            report = made(Variant(name="kept", steps=[step], measure_seconds=6), recipe, storage)
            if report is None:
                continue
            layers = report.sensitivity.layers if report.sensitivity else []
            kept = ", ".join(f"{each.layer} ({float(each.loss_increase):+.2g})" for each in layers if each.kept)
            print(
                f"{percent or 0:3} % kept: {report.measured.size_bytes:>9,} bytes, loss "
                f"{report.baseline.validation_loss} {float(report.validation_loss_increase):+.5f}; {kept or 'none'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
