"""The same model to the same loss, with and without what makes training lean: steps, seconds and money of both.

    make bench-lean, or: PYTHONPATH=.:trainer python benchmarks/lean.py [--seeds 3] [--steps 1200]

The text is that of somebody who gathered it: Tiny Shakespeare in documents of some 2,000 bytes, two thirds of them
twice more (once equal, once with a word in a hundred changed), and as many bytes of Python's standard library as noise.
The last tenth of Shakespeare is held out from all of it; on HELD_OUT samples of it, spread evenly, models are measured
after every EVERY steps.

- "as it is" trains on all of that: AdamW, a cosine to the last of its steps.
- "cleaned" drops what is no prose (FilterQuality), and what is there twice (RemoveDuplicates).
- "selected" keeps, of that, the middle 70 % of the samples by how hard a bigram model finds them.
- "lean" lowers its rate when the loss no longer falls (ReduceOnPlateau), too, and may stop early.

Seconds are those of the one processor that a training has, whatever else the machine does meanwhile. They, and the
money, have the cleaning and the selecting in them.

The loss to reach is the best that the training as it is comes to. All take turns, seed by seed. Money is of the sample
prices in manifests/samples/quickstart.yaml, for one vCPU and 2 GiB.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
import yaml

from costopt.schema.recipe import Recipe
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training
from measured.texts import documents_of, tiny_shakespeare

ROOT = Path(__file__).resolve().parents[1]
CONTEXT, BATCH, EVERY = 64, 12, 50
MEMORY_GIB = 2
HELD_OUT = 400
DOCUMENT_BYTES = 2000
MOST_PERCENT = 70
"""Of the cost as it is, that the lean training may have."""

CLEAN = [
    # Words of code are long; `costopt data` shows what is left.
    {"type": "FilterQuality", "filterQuality": {"maxMeanWordLength": 6, "maxRepeatedLinesPercent": 50}},
    {"type": "RemoveDuplicates"},
]
SELECTED = {"transforms": CLEAN, "selection": {"type": "Loss", "keepPercent": 70, "loss": {"keep": "Middle"}}}
FORMS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "cleaned": {"data": {"transforms": CLEAN}},
    "selected": {"data": SELECTED},
    "lean": {
        "data": SELECTED,
        "schedule": {
            "type": "ReduceOnPlateau",
            "warmupSteps": 50,
            "minLearningRate": "1e-4",
            "reduceOnPlateau": {"patienceEvaluations": 2, "leastImprovement": "0.01"},
        },
        "earlyStopping": {"patienceEvaluations": 6, "leastImprovement": "0.002"},
    },
}


def changed(document: str, chance: random.Random) -> str:
    """One word in a hundred is another."""
    words = document.split(" ")
    for place in chance.sample(range(len(words)), max(1, len(words) // 100)):
        words[place] = chance.choice(words)
    return " ".join(words)


def write_text(folder: Path, text: str) -> None:
    """What was gathered, in an order that says nothing about what a document is."""
    chance = random.Random(0)
    documents = documents_of(text, DOCUMENT_BYTES)
    gathered = list(documents)
    for document in documents[: 2 * len(documents) // 3]:
        gathered += [document, changed(document, chance)]
    wanted = sum(map(len, gathered))
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if wanted <= 0:
            break
        code = path.read_text(encoding="utf-8", errors="replace")
        gathered.append(code)
        wanted -= len(code)
    folder.mkdir()
    for number, document in enumerate(gathered):
        name = hashlib.sha256(f"{number}".encode()).hexdigest()[:16]
        (folder / f"{name}.txt").write_text(document, encoding="utf-8")


def recipe_of(folder: Path, form: str, steps: int, seed: int) -> Recipe:
    """The recipe of a form."""
    own = FORMS[form]
    data = {"type": "Text", "text": {"path": str(folder)}, "validationPercent": 5, **own.get("data", {})}
    return Recipe.model_validate(
        {
            "model": {
                "type": "DecoderLM",
                "decoderLM": {
                    "preset": "Llama",
                    "tiedEmbeddings": True,
                    "numLayers": 4,
                    "numHeads": 4,
                    "embeddingDim": 128,
                    "contextLength": CONTEXT,
                },
            },
            "batch": {"globalBatchSize": BATCH, "microBatchSize": BATCH},
            "totalSteps": steps,
            "optimizer": {"learningRate": "2e-3", "adamW": {"beta2": "0.99"}},
            "schedule": {"warmupSteps": 50, "minLearningRate": "1e-4"},
            "evaluation": {"everySteps": EVERY, "maxSamples": 512},
            "checkpointing": {"everySteps": EVERY},
            "seed": seed,
            **{key: value for key, value in own.items() if key != "data"},
            "data": data,
        }
    )


class Watched(Training):
    """A training whose loss on the text that both are measured on is looked at, outside its time."""

    held_out: torch.Tensor
    began: float
    outside: float
    curve: list[tuple[int, float, float]]

    def evaluate(self) -> None:
        super().evaluate()
        since = time.process_time()
        with torch.no_grad(), self.averaged.in_place(self.before_change):
            self.module.eval()
            sums = [float(loss_sum(self.module(part[:, :-1]), part[:, 1:])) for part in self.held_out.split(64)]
            self.module.train()
        loss = sum(sums) / self.held_out[:, 1:].numel()
        now = time.process_time()
        self.curve.append((self.step, since - self.began - self.outside, loss))
        self.outside += now - since


def child(folder: Path, held_out: Path, form: str, steps: int, seed: int) -> None:
    """One training, from reading its text on; prints a line of JSON."""
    tokens = torch.tensor(list(held_out.read_bytes()))
    windows = tokens[: len(tokens) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    windows = windows[:: max(1, len(windows) // HELD_OUT)]
    with tempfile.TemporaryDirectory() as storage, contextlib.redirect_stdout(io.StringIO()):
        began = time.process_time()
        recipe = recipe_of(folder, form, steps, seed)
        training = Watched(recipe, Path(storage), ALONE, Meter(), Stop(), job="benchmark")
        training.held_out, training.began, training.outside, training.curve = windows, began, 0.0, []
        training.resume()
        ready = time.process_time() - began
        run_steps(training)
        notes, stopped = training.data.notes, training.step
    print("result " + json.dumps({"curve": training.curve, "ready": ready, "notes": notes, "end": stopped}), flush=True)


def measured(folder: Path, held_out: Path, form: str, steps: int, seed: int) -> dict[str, Any]:
    """What `child` prints."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(folder), str(held_out), form, str(steps), str(seed)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("result ")]
    if not lines:
        sys.exit(f"{form} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("result "))
    return found


def price_of_an_hour() -> tuple[Decimal, str]:
    """One vCPU and MEMORY_GIB, by the sample's prices; and the currency."""
    documents = yaml.safe_load_all((ROOT / "manifests" / "samples" / "quickstart.yaml").read_text())
    book = next(document for document in documents if document["kind"] == "PriceBook")["spec"]
    units = {price["resource"]: Decimal(price["listUnitPrice"]) for price in book["prices"] if "product" not in price}
    return units["cpu"] + MEMORY_GIB * units["memory"], book["currency"]


def reached(curve: list[list[float]], loss: float) -> list[float] | None:
    """The first evaluation that is as good."""
    return next((point for point in curve if point[2] <= loss), None)


def main() -> None:
    """Measure, compare, print."""
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
        return
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=1200)
    given = options.parse_args()
    source = tiny_shakespeare()
    text = source.read_text()
    cut = text.index("\n\n", int(0.9 * len(text)))
    hourly, currency = price_of_an_hour()
    costs: dict[str, list[Decimal]] = {form: [] for form in FORMS}
    with tempfile.TemporaryDirectory() as place:
        folder, held_out = Path(place, "text"), Path(place, "held-out.txt")
        write_text(folder, text[:cut])
        held_out.write_text(text[cut:])
        print(f"| seed | training | steps to the loss | seconds | {currency} | best loss | ended after |")
        print("|---|---|---|---|---|---|---|")
        notes: list[str] = []
        for seed in range(given.seeds):
            found = {form: measured(folder, held_out, form, given.steps, seed) for form in FORMS}
            loss = min(point[2] for point in found["as it is"]["curve"])
            notes = found["lean"]["notes"]
            for form, result in found.items():
                point = reached(result["curve"], loss)
                best = min(each[2] for each in result["curve"])
                if point is None:
                    print(f"| {seed} | {form} | not reached | | | {best:.4f} | {result['end']} |", flush=True)
                    continue
                cost = Decimal(point[1]) * hourly / 3600
                costs[form].append(cost)
                print(
                    f"| {seed} | {form} | {point[0]:,} | {point[1]:.0f} | {cost:.5f} | {best:.4f} | {result['end']} |",
                    flush=True,
                )
    for note in notes:
        print(note)
    for form in list(FORMS)[1:]:
        pairs = zip(costs["as it is"], costs[form], strict=False)
        if len(costs[form]) < given.seeds:
            print(f"{form}: not every seed reached the loss")
            continue
        percent = 100 * statistics.fmean(float(lean / whole) for whole, lean in pairs)
        print(
            f"{form}: {percent:.0f} % of the cost, averaged over {given.seeds} seeds (at most {MOST_PERCENT} % asked)"
        )


if __name__ == "__main__":
    main()
