"""What each augmentation adds to the time of a batch, and what some of them do to a small classifier.

    PYTHONPATH=.:trainer python benchmarks/augmentations.py [--steps 250] [--threads 1]

Batches are made as training makes them, on one thread: of 32 windows of 256 tokens, of 32 functions of Python's
standard library cut to 96 tokens, and of 64 images of noise of 3 x 32 x 32, for which what is in them does not matter.
Each batch is made without and with the augmentation in turn. The classifier is that of encoder_forms.py: it tells of
which package a function is. With `--steps 0` it is left out.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from costopt.schema.augmentations import Augmentation
from costopt.schema.data import DataSettings
from costopt.schema.data_kinds import IMAGES, LABELLED_TEXT, TEXT, ChangesSamples
from costopt.schema.recipe import Recipe
from costopt.schema.unions import UNIONS, key_of_word
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.training.evaluation import ACCURACY, MACRO_F1
from encoder_forms import recipe, trained, write_documents

SIZES = {TEXT: (32, 256), LABELLED_TEXT: (32, 96), IMAGES: (64, None)}
"""Samples of a batch, and tokens of a sample."""
NEEDED: dict[str, dict[str, Any]] = {
    "Synonyms": {"groups": [["self", "cls"], ["return", "yield"], ["value", "item", "element"], ["name", "key"]]}
}
CHAINS: dict[str, tuple[dict[str, Any], ...]] = {
    "none": (),
    "TokenDropout": ({"type": "TokenDropout"},),
}
BATCHES = 40


def data_of(kind: str, folder: Path, documents: Path, *augmentations: dict[str, Any]) -> TrainingData:
    """Real text, or images of noise."""
    if kind == IMAGES:
        path = folder / "images.npz"
        if not path.exists():
            rng = np.random.default_rng(0)
            np.savez(path, images=rng.integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8), labels=np.arange(2000) % 10)
        plain: dict[str, Any] = {"type": "Images", "images": {"path": str(path)}}
    elif kind == LABELLED_TEXT:
        tokenizer = {"type": "BPE", "vocabularySize": 2048}
        plain = {"type": "LabelledText", "labelledText": {"path": str(documents)}, "tokenizer": tokenizer}
    else:
        plain = {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 2_000_000}}
    settings = DataSettings.model_validate({**plain, "augmentations": list(augmentations)})
    return load_data(settings, context_length=SIZES[kind][1], cache_dir=folder / "cache")


def milliseconds(datas: list[TrainingData], size: int) -> list[float]:
    """Median time of a batch of each, in turn."""
    times: list[list[float]] = [[] for _ in datas]
    for batch in range(BATCHES):
        for own, data in zip(times, datas, strict=True):
            began = time.perf_counter()
            data.train_batches(seed=0, position=batch * size, count=size, batch_size=size)
            own.append(1000 * (time.perf_counter() - began))
    return [statistics.median(own[2:]) for own in times]


def print_times(folder: Path, documents: Path) -> None:
    """A row for each augmentation and each kind of samples that it fits."""
    print("| augmentation | samples | ms a batch | without it |\n|---|---|---|---|")
    for member in UNIONS[Augmentation]:
        assert member.settings is not None
        assert issubclass(member.settings, ChangesSamples)
        own = {
            "type": member.word,
            **({key_of_word(member.word): NEEDED[member.word]} if member.word in NEEDED else {}),
        }
        for kind in (kind for kind in member.settings.fits if kind in SIZES):
            datas = [data_of(kind, folder, documents), data_of(kind, folder, documents, own)]
            without, with_it = milliseconds(datas, SIZES[kind][0])
            print(f"| {member.word} | {kind} | {with_it:.2f} | {without:.2f} |", flush=True)


def print_effect(folder: Path, documents: Path, steps: int) -> None:
    """A row for each chain of augmentations: how well a classifier does on held-out documents."""
    print("\n| augmentations | last training loss | accuracy | macro F1 |\n|---|---|---|---|")
    for number, (name, chain) in enumerate(CHAINS.items()):
        plain = recipe(documents, {}, steps).to_plain()
        plain["data"]["augmentations"] = list(chain)
        training = trained(Recipe.model_validate(plain), folder / f"training{number}")
        accuracy, f1 = (int(training.progress.results[key]) / 1000 for key in (ACCURACY, MACRO_F1))
        print(f"| {name} | {float(training.progress.loss or 'nan'):.3f} | {accuracy:.1%} | {f1:.1%} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = folder / "functions.jsonl"
        write_documents(documents)
        print_times(folder, documents)
        if arguments.steps:
            print_effect(folder, documents, arguments.steps)


if __name__ == "__main__":
    main()
