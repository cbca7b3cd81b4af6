"""What each way to share a model takes of a rank's memory, and of its time, at equal loss: two ranks on one machine.

    PYTHONPATH=.:trainer:tests python benchmarks/parallel_memory.py [--width 512] [--layers 6] [--steps 6] [--rounds 3]

Each layout trains the same model on the same samples, in processes of its own; they take turns in rounds. What is
counted of a rank are the bytes that torch's allocator has given out and not got back, at their highest from before the
model is built to the end of the second step: weights, gradients, optimizer state, activations, and what is exchanged.
(Resident memory would count what the C library keeps of freed blocks too.) The steps after these are timed. The losses
of all layouts must agree, or the comparison is refused. On one machine the ranks share its cores and exchange through
memory: times tell what a layout costs in work, not what a network would.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from builders.trainer import start_as_ranks
from costopt.schema.recipe import Recipe

LAYOUTS: dict[str, dict[str, Any]] = {
    "dataParallel 2": {"parallelism": {"dataParallel": 2}},
    "shard 2": {"parallelism": {"shard": 2}},
    "shard 2, activation checkpointing": {
        "parallelism": {"shard": 2},
        "memory": {"activationCheckpointing": "Full"},
    },
    "tensor 2, sequence parallel": {"parallelism": {"tensor": 2, "sequenceParallel": True}},
    "pipeline 2": {"parallelism": {"pipeline": 2}},
}
TOLERANCE = 1e-3
OBSERVED_STEPS = 2
"""The second has all that later ones have: the first makes the optimizer's state only at its end."""


def make_recipe(name: str, width: int, layers: int, steps: int) -> Recipe:
    """A decoder on the text of Python's own library."""
    model = {"numLayers": layers, "numHeads": 8, "embeddingDim": width, "contextLength": 256}
    return Recipe.model_validate(
        {
            "model": {"type": "DecoderLM", "decoderLM": model},
            "data": {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 2_000_000}},
            "batch": {"globalBatchSize": 8, "microBatchSize": 2},
            "totalSteps": steps,
            "evaluation": {"everySteps": steps, "maxSamples": 2},
            "checkpointing": {"everySteps": 10**6},
            **LAYOUTS[name],
        }
    )


def rank_main(recipe: Recipe, storage: Path) -> None:
    """One rank's part; prints its peak in bytes, the median time of a step and the last loss."""
    import torch

    from benchmarks.measured.allocations import Allocations
    from costopt_trainer.reporting.meter import Meter
    from costopt_trainer.training.process_group import join_process_group
    from costopt_trainer.training.stopping import Stop
    from costopt_trainer.training.training import Training

    torch.set_num_threads(1)
    gang = join_process_group()
    gang.sum_integers(1)
    allocations, peak = Allocations(), 0
    allocations.start()
    training = Training(recipe, storage, gang, Meter(), Stop(), job="benchmark")
    training.resume()
    times = []
    for step in range(recipe.steps):
        batches = training.batches_at(step * recipe.batch.global_batch_size)
        targets = sum(batch[1].numel() for batch in batches) if training.strategy.holds_loss else 0
        [num_targets] = gang.sum_integers(targets)
        began = time.perf_counter()
        training.take_step(batches, num_targets)
        times.append(time.perf_counter() - began)
        if step + 1 == OBSERVED_STEPS:
            peak = allocations.stop()
    training.read_losses()
    result = {
        "peak": peak,
        "seconds": statistics.median(times[OBSERVED_STEPS:]),
        "loss": float(training.progress.loss or "nan"),
    }
    print("result " + json.dumps(result), flush=True)
    gang.leave()


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    """One round of one layout: the larger peak of both ranks, the slower's time, the loss."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [name, str(options.width), str(options.layers), str(options.steps), folder]
        ranks = start_as_ranks(["benchmarks.parallel_memory", "--rank", *arguments], 2)
        outputs = [rank.communicate(timeout=1800)[0] for rank in ranks]
    results = [
        json.loads(line.removeprefix("result "))
        for output in outputs
        for line in output.splitlines()
        if line.startswith("result ")
    ]
    if len(results) != 2:
        sys.exit(f"{name}: a rank failed")
    return {key: max(result[key] for result in results) for key in ("peak", "seconds", "loss")}


def main() -> None:
    """Measure all layouts in turns, and print the table."""
    if sys.argv[1:2] == ["--rank"]:
        name, width, layers, steps, folder = sys.argv[2:]
        rank_main(make_recipe(name, int(width), int(layers), int(steps)), Path(folder))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in LAYOUTS}
    for _ in range(options.rounds):
        for name, rounds in found.items():
            rounds.append(measure(name, options))
    first = next(iter(LAYOUTS))
    loss = found[first][0]["loss"]
    if any(abs(each["loss"] - loss) > TOLERANCE for rounds in found.values() for each in rounds):
        sys.exit(f"the losses differ: {found}")
    peaks, seconds = (
        {name: statistics.median(each[key] for each in rounds) for name, rounds in found.items()}
        for key in ("peak", "seconds")
    )
    print(f"loss after {options.steps} steps: {loss:.4f} in all, to {TOLERANCE}; {os.cpu_count()} cores")
    print("| layout of two ranks | peak of a rank, MiB | to the first | seconds per step | to the first |")
    print("|---|---|---|---|---|")
    for name in LAYOUTS:
        peak, step = peaks[name], seconds[name]
        ratios = f"{peak / peaks[first]:.2f} | {step:.2f} | {step / seconds[first]:.2f}"
        print(f"| {name} | {peak / 2**20:.0f} | {ratios} |")


if __name__ == "__main__":
    main()
