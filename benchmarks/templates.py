"""What it costs, and what it is worth, to write each record in one of several templates.

    PYTHONPATH=.:trainer python benchmarks/templates.py [--only times wordings] [--records 30000] [--steps 300]

Times: the records that are read in a second, and how often each template is used.

Wordings: records are functions of Python's standard library, the first SIGNS signs of each, and the package that it is
from. A DecoderLM of two layers of width 64 reads them byte by byte in one wording or in three, 8 samples of 128 bytes a
step, each record for itself (`packing.boundaries: Attention`). The last tenth of them is held out, and asked in a
wording that may be one of those or another: the loss is that of the bytes of the package's name behind all that stands
before it, in nats for a name. Each cell has the mean of three seeds, half of what lies between the least and the
largest, and in brackets the least and the largest difference to the first row, seed by seed. None of it depends on
what else the machine does.
"""

import argparse
import json
import math
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from costopt.schema.data import DataSettings
from costopt_trainer.data.sources.records import Records
from costopt_trainer.models.loss import IGNORED_TARGET, loss_sum
from costopt_trainer.training.training import Training
from encoder_forms import write_documents
from measured.seeds import cell
from optimizers import recipe
from regularizers import trained

TEMPLATES = [
    "1 Question: {question}\nAnswer: {answer}",
    "2 {answer} is the answer to {question}",
    "3 {question} {answer}",
]
ROWS: dict[str, dict[str, Any]] = {
    "textField": {"textField": "question"},
    "template": {"template": TEMPLATES[0]},
    "templates, 3 of them": {"templates": TEMPLATES},
}
ROUNDS = 3
BARE = "{code} {package}\n"
NAMED = "Function: {code}\nPackage: {package}\n"
OTHERS = "{code} is in the package {package}.\n", "In which package is {code}? In {package}.\n"
UNSEEN = "{code} -> {package}\n"
WORDINGS: dict[str, dict[str, Any]] = {
    "`template`, bare": {"template": BARE},
    "`template`, with names of fields": {"template": NAMED},
    "`templates`, that and two others": {"templates": [NAMED, *OTHERS]},
}
ASKED = {"asked bare": BARE, "with names of fields": NAMED, "in a wording that no row has": UNSEEN}
CONTEXT, SIGNS, SEEDS = 128, 60, range(3)


def print_times(count: int) -> None:
    """A row for each way to write records."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        with path.open("w") as stream:
            for number in range(count):
                stream.write(json.dumps({"question": f"what is {number} + {number}?", "answer": 2 * number}) + "\n")
        best: dict[str, float] = {}
        used: Counter[str] = Counter()
        for _ in range(ROUNDS):
            for row, how in ROWS.items():
                settings = {"type": "Records", "records": {"path": str(path), **how}}
                source, begun = Records(DataSettings.model_validate(settings)), time.perf_counter()
                texts = [b"".join(document.pieces()) for document in source.documents()]
                best[row] = min(best.get(row, float("inf")), time.perf_counter() - begun)
                if "templates" in how:
                    used = Counter(text[:1].decode() for text in texts)
    for row, seconds in best.items():
        share = seconds / best["template"]
        print(f"{row}: {count / seconds:,.0f} records a second, {share:.2f} of the time of one template")
    print(", ".join(f"template {number}: {times:,} records" for number, times in sorted(used.items())))


def functions(folder: Path) -> list[dict[str, str]]:
    """The records, in random order."""
    write_documents(folder / "functions.jsonl")
    lines = map(json.loads, (folder / "functions.jsonl").read_text(encoding="utf-8").splitlines())
    texts = {(" ".join(line["text"].split())[:SIGNS], line["label"]): None for line in lines}
    found = [{"code": code, "package": package} for code, package in texts if code.isascii()]
    random.Random(0).shuffle(found)
    return found


def loss_of(training: Training, wording: str, records: list[dict[str, str]]) -> float:
    """Nats of a package's name, asked in `wording`: the mean over the records."""
    inputs = torch.zeros(len(records), CONTEXT, dtype=torch.long)
    targets = torch.full((len(records), CONTEXT), IGNORED_TARGET)
    for place, record in enumerate(records):
        asked = wording.partition("{package}")[0].format(**record).encode()
        tokens = torch.tensor(list(asked + record["package"].encode()))
        inputs[place, : len(tokens) - 1] = tokens[:-1]
        targets[place, len(asked) - 1 : len(tokens) - 1] = tokens[len(asked) :]
    training.module.eval()
    with torch.no_grad():
        parts = zip(inputs.split(64), targets.split(64), strict=True)
        return sum(float(loss_sum(training.module(some), told)) for some, told in parts) / len(records)


def print_wordings(steps: int) -> None:
    """A row for each way to write records: the loss of answers that are asked for in several ways."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = functions(folder)
        stop, file = len(records) * 9 // 10, folder / "records.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in records[:stop]))
        shares = Counter(record["package"] for record in records[:stop])
        guess = -sum(math.log(shares[record["package"]] / stop) for record in records[stop:]) / (len(records) - stop)
        print(f"{stop:,} records to train on, {len(records) - stop:,} held out; by the shares of packages: {guess:.3f}")
        print(f"| records | {' | '.join(ASKED)} |\n|{'---|' * (len(ASKED) + 1)}", flush=True)
        shape = {"preset": "Llama", "numLayers": 2, "numHeads": 4, "embeddingDim": 64, "contextLength": CONTEXT}
        base: list[tuple[float, ...]] = []
        for row, how in WORDINGS.items():
            data = {"type": "Records", "records": {"path": str(file), **how}, "packing": {"boundaries": "Attention"}}
            own = {
                "model": {"type": "DecoderLM", "decoderLM": shape},
                "data": data,
                "batch": {"globalBatchSize": 8, "microBatchSize": 8},
                "optimizer": {"learningRate": "3e-3"},
            }
            runs = (trained(recipe(file, steps, **own, seed=seed), folder) for seed in SEEDS)
            each = [[loss_of(run, wording, records[stop:]) for wording in ASKED.values()] for run in runs]
            figures = list(zip(*each, strict=True))
            base = base or figures
            print(f"| {row} | {' | '.join(map(cell, figures, base))} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("times", "wordings"), nargs="+", default=["times", "wordings"])
    parser.add_argument("--records", type=int, default=30_000)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    if "times" in arguments.only:
        print_times(arguments.records)
    if "wordings" in arguments.only:
        torch.set_num_threads(1)
        print_wordings(arguments.steps)


if __name__ == "__main__":
    main()
