"""Memory and time of a training step: plain, with activation checkpointing, with the chunked loss, in micro-batches, in
BF16, and compiled.

    make bench, or: PYTHONPATH=.:trainer python benchmarks/step_memory.py [--rounds 3] [--steps 4] [--only plain full]

Each measurement is a process of its own, forked from one that has imported all and computed nothing: it makes the same
model with the same weights and takes the same steps. Variants take turns in rounds, so that what else the machine does
falls on all. Memory is what torch's allocator has given out in the first two steps, at its peak, above what the model
takes; the time is the median of the steps after these. The loss after the last step must be that of the plain variant
(of BF16 within a hundredth), or the comparison is refused.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.measured.allocations import Allocations
from costopt.schema.memory import Memory
from costopt.schema.models import ModelSettings
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from costopt_trainer.training.compiling import compile_blocks
from costopt_trainer.training.memory import save_memory

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"memory": {"chunkedLoss": "Never"}},
    "selective": {"memory": {"chunkedLoss": "Never", "activationCheckpointing": "Selective"}},
    "full": {"memory": {"chunkedLoss": "Never", "activationCheckpointing": "Full"}},
    "chunked": {"memory": {"chunkedLoss": "Always"}},
    "full, chunked": {"memory": {"chunkedLoss": "Always", "activationCheckpointing": "Full"}},
    "micro-batches of 1": {"memory": {"chunkedLoss": "Never"}, "micro": 1},
    "BF16": {"memory": {"chunkedLoss": "Never"}, "precision": "BF16"},
    "compiled": {"memory": {"chunkedLoss": "Never"}, "compile": True},
}
MODEL = {"numLayers": 6, "numHeads": 4, "embeddingDim": 128, "contextLength": 256}
VOCABULARY, SAMPLES = 8192, 4
OBSERVED_STEPS = 2
"""The second has all that later ones have: the first makes the optimizer's state only at its end."""


def measure(variant: str, steps: int, cache: Path) -> dict[str, Any]:
    """In this process: seconds of each step, MiB at the peak, and the last loss."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    settings = ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": MODEL})
    model = build_model(ModelShape(settings, vocabulary_size=VOCABULARY)).to(device)
    given = VARIANTS[variant]
    save_memory(model, Memory.model_validate(given["memory"]))
    if given.get("compile"):
        compile_blocks(model, cache, aloud=True)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.randint(0, VOCABULARY, (SAMPLES, MODEL["contextLength"] + 1), device=device)
    allocations, peak = Allocations(), 0
    allocations.start()
    times = []
    for step in range(OBSERVED_STEPS + steps):
        began = time.perf_counter()
        value = 0.0
        for own in tokens.split(given.get("micro", SAMPLES)):
            with torch.autocast(device.type, torch.bfloat16, enabled=given.get("precision") == "BF16"):
                loss = model.loss_sum(own[:, :-1].contiguous(), own[:, 1:].contiguous()) / tokens[:, 1:].numel()
            loss.backward()
            value += loss.item()  # waits for the device
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - began)
        if step + 1 == OBSERVED_STEPS:
            peak = allocations.stop()
    return {"seconds": times[OBSERVED_STEPS:], "first": times[0], "mib": peak / 2**20, "loss": value}


def main() -> None:
    """Measure, compare, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    given = options.parse_args()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in given.only}
    with tempfile.TemporaryDirectory() as cache:
        for number in range(given.rounds):
            for name, results in found.items():
                with multiprocessing.get_context("fork").Pool(1) as process:
                    results.append(process.apply(measure, (name, given.steps, Path(cache))))
                print(f"round {number + 1} of {given.rounds}: {name}, {results[-1]}", file=sys.stderr, flush=True)
    base = found[given.only[0]]
    seconds = {name: statistics.median(t for one in results for t in one["seconds"]) for name, results in found.items()}
    mib = {name: statistics.median(one["mib"] for one in results) for name, results in found.items()}
    print(f"{'':18} {'ms/step':>8} {'ratio':>6} {'MiB':>7} {'ratio':>6} {'first step, s':>30}")
    for name, results in found.items():
        tolerance = 1e-2 if name == "BF16" else 1e-3
        if abs(results[0]["loss"] - base[0]["loss"]) > tolerance * base[0]["loss"]:
            raise SystemExit(f"{name} ends with another loss: {results[0]['loss']}, not {base[0]['loss']}")
        first = ", ".join(f"{one['first']:.1f}" for one in results)
        print(
            f"{name:18} {1000 * seconds[name]:8.0f} {seconds[name] / seconds[given.only[0]]:6.2f} "
            f"{mib[name]:7.0f} {mib[name] / mib[given.only[0]]:6.2f} {first:>30}"
        )


if __name__ == "__main__":
    main()
