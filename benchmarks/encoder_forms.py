"""An Encoder with and without a bottleneck as a classifier, beside naive Bayes on the same documents.

    make bench, or: PYTHONPATH=.:trainer python benchmarks/encoder_forms.py [--steps 250] [--threads 1]

The documents are the functions of Python's own standard library, and the label of each is the package that it is from:
labelled text that every machine has. Naive Bayes (multinomial, on words, add-one smoothing) sees the same training
documents and is asked of the same held-out ones; a model that does no better has learned nothing but which words are
whose. Times are of whole training steps on one batch, the two forms in turn, so that what else the machine does falls
on both.
"""

import argparse
import ast
import contextlib
import io
import json
import re
import statistics
import sysconfig
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from costopt.schema.recipe import Recipe
from costopt_trainer.models.table import build_model
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.evaluation import ACCURACY, MACRO_F1, class_counts, macro_f1
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training

PACKAGES = ("asyncio", "email", "multiprocessing", "unittest", "xml", "idlelib", "tkinter", "lib2to3", "http", "ctypes")
FEWEST, MOST = 100, 400
"""Functions of a package: one with fewer is left out, of one with more the first are taken."""
FORMS: dict[str, dict[str, Any]] = {"plain": {}, "bottleneck": {"bottleneckDim": 32, "mlpsPerLayer": 4}}
TIMED_STEPS = 15


def functions(package: Path) -> Iterator[str]:
    """The source of each function of a package, in a fixed order."""
    for path in sorted(package.rglob("*.py")):
        source = path.read_text(encoding="utf-8", errors="replace")
        lines = source.splitlines()  # ast.get_source_segment would split the source again for each function
        with contextlib.suppress(SyntaxError):
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield "\n".join(lines[node.lineno - 1 : node.end_lineno])[node.col_offset :]


def write_documents(path: Path) -> None:
    """One line for each function: its source, and the package that it is from."""
    root = Path(sysconfig.get_paths()["stdlib"])
    with path.open("w", encoding="utf-8") as stream:
        for package in PACKAGES:
            found = [text for text in functions(root / package) if len(text) > 80]
            for text in found[:MOST] if len(found) >= FEWEST else ():
                stream.write(json.dumps({"text": text, "label": package}) + "\n")


def recipe(documents: Path, form: dict[str, Any], steps: int) -> Recipe:
    """A small classifier."""
    encoder = {"task": "Classification", "numLayers": 2, "contextLength": 96, "dropoutPercent": 10, **form}
    return Recipe.model_validate(
        {
            "model": {"type": "Encoder", "encoder": encoder},
            "data": {
                "type": "LabelledText",
                "labelledText": {"path": str(documents)},
                "tokenizer": {"type": "BPE", "vocabularySize": 2048},
            },
            "batch": {"globalBatchSize": 32, "microBatchSize": 32},
            "totalSteps": steps,
            "optimizer": {"learningRate": "2e-3"},
            "schedule": {"warmupSteps": min(40, steps // 4)},
            "evaluation": {"everySteps": steps, "maxSamples": 10_000},
            "checkpointing": {"everySteps": steps},
        }
    )


def naive_bayes(training: Training) -> tuple[float, float]:
    """Accuracy and macro F1, 0 to 1, on the documents that `training` holds out."""
    from costopt_trainer.data.sources.table import LabelledSource, open_source

    source = open_source(training.recipe.data)
    assert isinstance(source, LabelledSource)
    words: dict[int, Counter[str]] = defaultdict(Counter)
    sizes: Counter[int] = Counter()
    asked: list[tuple[int, list[str]]] = []
    for document in source.documents():
        label = source.class_of(document.name)
        found = re.findall(r"\w+", b"".join(document.pieces()).decode())
        if source.is_held_out(document.name):
            asked.append((label, found))
        else:
            words[label].update(found)
            sizes[label] += 1
    known = len(set().union(*words.values()))
    logits = torch.zeros(len(asked), len(source.class_names), dtype=torch.float64)
    for row, (_, found) in enumerate(asked):
        for label, counts in words.items():
            total = counts.total() + known
            shares = torch.tensor([(counts[word] + 1) / total for word in found], dtype=torch.float64)
            logits[row, label] = shares.log().sum() + torch.tensor(float(sizes[label])).log()
    counted = class_counts(logits, torch.tensor([label for label, _ in asked]))
    print(f"{sizes.total():,} training and {len(asked):,} held-out functions of {len(words)} packages")
    return float(counted[0].sum()) / len(asked), macro_f1(counted)


def trained(settings: Recipe, storage: Path) -> Training:
    """The training, done and evaluated; what it prints is not shown."""
    storage.mkdir()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        training = Training(settings, storage, ALONE, Meter(), Stop(), job="benchmark")
        training.resume()
        run_steps(training)
    return training


def milliseconds_per_step(trainings: dict[str, Training]) -> dict[str, float]:
    """Median time of a step of each, in turn."""
    ready = {}
    for name, training in trainings.items():
        model = build_model(training.shape)
        ready[name] = (model, torch.optim.AdamW(model.parameters()), training.batches_at(0)[0])
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(TIMED_STEPS):
        for name, (model, optimizer, (inputs, targets)) in ready.items():
            began = time.perf_counter()
            model.loss_sum(inputs, targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(taken[2:]) for name, taken in times.items()}


def main() -> None:
    """Print one line for each way to tell the packages apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        documents = Path(folder) / "functions.jsonl"
        write_documents(documents)
        done = {
            name: trained(recipe(documents, form, arguments.steps), Path(folder) / name) for name, form in FORMS.items()
        }
        accuracy, f1 = naive_bayes(done["plain"])
        times = milliseconds_per_step(done)
        print(f"naive Bayes: accuracy {accuracy:.1%}, macro F1 {f1:.1%}")
        for name, training in done.items():
            results = {key: int(training.progress.results[key]) / 1000 for key in (ACCURACY, MACRO_F1)}
            parameters = sum(parameter.numel() for parameter in training.module.parameters())
            blocks = sum(parameter.numel() for block in training.module.blocks() for parameter in block.parameters())  # type: ignore[operator]
            print(
                f"Encoder, {name}: accuracy {results[ACCURACY]:.1%}, macro F1 {results[MACRO_F1]:.1%}, "
                f"{parameters:,} parameters ({blocks:,} in its blocks), {times[name]:.1f} ms a step "
                f"({times['plain'] / times[name]:.2f} x as fast as plain)"
            )


if __name__ == "__main__":
    main()
