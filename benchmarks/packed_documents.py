"""What it costs, and what it is worth, that attention stays within documents.

    COSTOPT_DATA_DIR=... PYTHONPATH=.:trainer python benchmarks/packed_documents.py [--only times loss] [--rounds 5]

Times: a training step where attention stays within documents, against one where it does not. Both have the same
weights, tokens and number of targets; they take turns, step by step, so that what else the machine does falls on both.
Documents have 100 tokens on average. The times are medians.

Loss: a DecoderLM of two layers of width 64, byte by byte, takes the same steps of 4 samples of 256 bytes with each
setting of `packing.boundaries`, on documents of 40 to 200 bytes: speeches of `tinyshakespeare.txt` (below
COSTOPT_DATA_DIR), which follow each other as in the play, and functions of Python's standard library in random order.
The last tenth is held out, and asked in two ways: each document alone, and each behind those before it, as packed
samples have it. The bytes that are told are the same: all but a document's first, and its end. Nats per byte; the mean
of three seeds, half of what lies between the least and the largest, and in brackets the least and the largest
difference to the first row, seed by seed. None of it depends on what else the machine does.
"""

import argparse
import json
import random
import statistics
import sysconfig
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

import encoder_forms
from costopt.schema.models import ModelSettings
from costopt_trainer.models.loss import IGNORED_TARGET, loss_sum
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from costopt_trainer.training.training import Training
from measured.seeds import cell
from measured.texts import tiny_shakespeare
from optimizers import recipe
from regularizers import trained

MODEL = {"preset": "Llama", "numLayers": 2, "numHeads": 4, "embeddingDim": 128}
VOCABULARY, TOKENS, DOCUMENT, SEPARATOR = 512, 2048, 100, 0
CONTEXT, SHORTEST, LONGEST = 256, 40, 200
"""Of the documents that are trained on, in bytes."""
SEEDS = range(3)


def seconds(context_length: int, rounds: int) -> dict[str, float]:
    """Of a step of TOKENS tokens in samples of `context_length`: the median, by name."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plain = {"type": "DecoderLM", "decoderLM": {**MODEL, "contextLength": context_length}}
    settings = ModelSettings.model_validate(plain)
    models = {}
    for name, separator in (("Ignore", None), ("Attention", SEPARATOR)):
        torch.manual_seed(0)
        models[name] = build_model(ModelShape(settings, vocabulary_size=VOCABULARY, separator_id=separator)).to(device)
    tokens = torch.randint(1, VOCABULARY, (TOKENS // context_length, context_length + 1), device=device)
    tokens[torch.rand(tokens.shape, device=device) < 1 / DOCUMENT] = SEPARATOR
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            began = time.perf_counter()
            loss_sum(model(tokens[:, :-1]), tokens[:, 1:]).backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - began)
            model.zero_grad(set_to_none=True)
    return {name: statistics.median(own[1:]) for name, own in times.items()}  # the first step takes memory


def print_times(rounds: int) -> None:
    """A row for each context length."""
    print(f"{'contextLength':>13} {'Ignore':>9} {'Attention':>9} {'ratio':>6}")
    for context_length in (128, 512, 2048):
        found = seconds(context_length, rounds)
        ratio = found["Attention"] / found["Ignore"]
        print(f"{context_length:>13} {found['Ignore']:>7.3f} s {found['Attention']:>7.3f} s {ratio:>6.2f}")


def speeches() -> list[str]:
    """Of Shakespeare, in order."""
    return tiny_shakespeare().read_text().split("\n\n")


def functions() -> list[str]:
    """Of Python's standard library, each once, in random order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    packages = [root / name for name in encoder_forms.PACKAGES]
    found = list(dict.fromkeys(text for package in packages for text in encoder_forms.functions(package)))
    random.Random(0).shuffle(found)
    return found


def windows(documents: list[str], context: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets (N, CONTEXT) for each document, which stands at the end with its separator, behind at most
    `context` bytes of those before it. Targets are the bytes of the document but its first."""
    inputs, targets, before = [], [], b""
    for document in documents:
        own = document.encode() + bytes([SEPARATOR])
        tokens = (before[len(before) - min(context, CONTEXT + 1 - len(own)) :] if context else b"") + own
        row, told = torch.zeros(CONTEXT, dtype=torch.long), torch.full((CONTEXT,), IGNORED_TARGET)
        row[: len(tokens) - 1] = torch.tensor(list(tokens[:-1]))
        told[len(tokens) - len(own) : len(tokens) - 1] = torch.tensor(list(own[1:]))
        inputs.append(row)
        targets.append(told)
        before = (before + own)[-CONTEXT:]
    return torch.stack(inputs), torch.stack(targets)


def loss_on(training: Training, inputs: Tensor, targets: Tensor) -> float:
    """Nats for each target."""
    training.module.eval()
    with torch.no_grad():
        parts = zip(inputs.split(64), targets.split(64), strict=True)
        total = sum(float(loss_sum(training.module(some), told)) for some, told in parts)
    return total / int((targets != IGNORED_TARGET).sum())


def print_losses(title: str, documents: list[str], steps: int, folder: Path) -> None:
    """A row for each setting of `packing.boundaries`."""
    fitting = [text for text in documents if SHORTEST <= len(text.encode()) <= LONGEST and "\0" not in text]
    file, stop = folder / "documents.jsonl", len(fitting) * 9 // 10
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in fitting[:stop]))
    ways = [windows(fitting[stop:], context) for context in (0, CONTEXT)]
    print(f"\n{stop:,} {title} to train on, {len(fitting) - stop:,} held out")
    print("| `boundaries` | loss, each alone | behind others |\n|---|---|---|", flush=True)
    shape = {**MODEL, "embeddingDim": 64, "contextLength": CONTEXT}
    base: list[tuple[float, ...]] = []
    for boundaries in ("Ignore", "Loss", "Attention"):
        data = {"type": "Records", "records": {"path": str(file)}, "packing": {"boundaries": boundaries}}
        own = {
            "model": {"type": "DecoderLM", "decoderLM": shape},
            "data": data,
            "batch": {"globalBatchSize": 4, "microBatchSize": 4},
            "optimizer": {"learningRate": "3e-3"},
        }
        each = []
        for seed in SEEDS:
            training = trained(recipe(file, steps, **own, seed=seed), folder)
            each.append([loss_on(training, inputs, targets) for inputs, targets in ways])
        figures = list(zip(*each, strict=True))
        base = base or figures
        print(f"| {boundaries} | {' | '.join(map(cell, figures, base))} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", choices=("times", "loss"), nargs="+", default=["times", "loss"])
    arguments = parser.parse_args()
    if "times" in arguments.only:
        print_times(arguments.rounds)
    if "loss" in arguments.only:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            print_losses("speeches", speeches(), arguments.steps, Path(folder))
        with tempfile.TemporaryDirectory() as folder:
            print_losses("functions", functions(), arguments.steps, Path(folder))


if __name__ == "__main__":
    main()
