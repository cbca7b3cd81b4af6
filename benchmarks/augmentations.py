"""What each augmentation adds to the time of a batch, and what it does to a small classifier of few samples.

    PYTHONPATH=.:trainer python benchmarks/augmentations.py [--only times text images unlabelled] [--seeds 3]

Times: batches are made as training makes them, on one thread: of 32 windows of 256 tokens, of 32 functions of Python's
standard library cut to 96 tokens, and of 64 images of noise of 3 x 32 x 32, for which what is in them does not matter.
Each batch is made without and with the augmentation in turn.

Effect: half of the samples are held out, and of the others only a few are trained on, so often that they are learned by
heart, which is where augmentations should pay. Text: a small Encoder tells of which package a function is. Images: a
small ConvNet tells the handwritten digits of scikit-learn (8 x 8 pixels, grey), which must be installed for it. Each
row takes the same steps from the same weights on the same samples of its seed.

Unlabelled: a DecoderLM of two layers of width 64 reads PLAIN_BYTES of `tinyshakespeare.txt` (below COSTOPT_DATA_DIR,
default ../shared/data) byte by byte, of which a half is held out, 8 samples of 64 a step. Each cell has the mean of the
seeds, half of what lies between the least and the largest, and in brackets the least and the largest difference to the
first row, seed by seed.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
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
from costopt_trainer.training.evaluation import ACCURACY
from encoder_forms import recipe, trained, write_documents
from measured.seeds import cell
from measured.texts import tiny_shakespeare

SIZES = {TEXT: (32, 256), LABELLED_TEXT: (32, 96), IMAGES: (64, None)}
"""Samples of a batch, and tokens of a sample."""
NEEDED: dict[str, dict[str, Any]] = {
    "Synonyms": {"groups": [["self", "cls"], ["return", "yield"], ["value", "item", "element"], ["name", "key"]]}
}
CHAINS: dict[str, dict[str, tuple[dict[str, Any], ...]]] = {
    "text": {
        "none": (),
        "TokenDropout": ({"type": "TokenDropout"},),
        "TokenDropout, 30 %": ({"type": "TokenDropout", "tokenDropout": {"percent": 30}},),
        "SpanCorruption": ({"type": "SpanCorruption"},),
        "Reorder": ({"type": "Reorder"},),
        "InsertWords": ({"type": "InsertWords"},),
        "Synonyms": ({"type": "Synonyms", "synonyms": NEEDED["Synonyms"]},),
        "SpanCorruption and Reorder": ({"type": "SpanCorruption"}, {"type": "Reorder"}),
    },
    "unlabelled": {
        "none": (),
        "TokenDropout": ({"type": "TokenDropout"},),
        "TokenDropout, 30 %": ({"type": "TokenDropout", "tokenDropout": {"percent": 30}},),
        "TokenDropout, `Previous`": ({"type": "TokenDropout", "tokenDropout": {"replacement": "Previous"}},),
        "SpanCorruption": ({"type": "SpanCorruption"},),
        "SpanCorruption, 30 %": ({"type": "SpanCorruption", "spanCorruption": {"percent": 30}},),
    },
    "images": {
        "none": (),
        "Flip": ({"type": "Flip"},),
        "Crop, 1 pixel": ({"type": "Crop", "crop": {"padding": 1}},),
        "Crop, 4 pixels": ({"type": "Crop"},),
        "Rotate": ({"type": "Rotate"},),
        "Color": ({"type": "Color"},),
        "Noise": ({"type": "Noise"},),
        "Cutout": ({"type": "Cutout"},),
        "Mixup": ({"type": "Mixup"},),
        "Crop, 1 pixel, and Rotate": ({"type": "Crop", "crop": {"padding": 1}}, {"type": "Rotate"}),
    },
}
"""Rows of the tables of effects. All settings that are not named are the defaults."""
KEPT_PERCENT = {"text": 50, "images": 11}
"""Of the half of the samples that is not held out."""
FUNCTIONS = 100
"""Of each package, in the table of effects."""
PLAIN_BYTES = 20_000
BATCHES = 40
TABLES = ("times", "text", "images", "unlabelled")


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


def few(kind: str, chain: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Settings of data: half is held out, and little of the rest is trained on."""
    return {
        "validationPercent": 50,
        "selection": {"type": "Random", "keepPercent": KEPT_PERCENT[kind]},
        "augmentations": list(chain),
    }


def write_few(path: Path, documents: Path) -> None:
    """The first FUNCTIONS of each package."""
    counts: Counter[str] = Counter()
    with path.open("w", encoding="utf-8") as stream:
        for line in documents.read_text(encoding="utf-8").splitlines():
            label = json.loads(line)["label"]
            counts[label] += 1
            if counts[label] <= FUNCTIONS:
                stream.write(f"{line}\n")


def of_text(documents: Path, chain: tuple[dict[str, Any], ...], steps: int, seed: int) -> Recipe:
    """A classifier of functions."""
    form = {"numHeads": 4, "embeddingDim": 64, "contextLength": 48}
    plain = recipe(documents, form, steps).to_plain()
    plain["data"] |= few("text", chain)
    return Recipe.model_validate(plain | {"batch": {"globalBatchSize": 8, "microBatchSize": 8}, "seed": seed})


def of_images(digits: Path, chain: tuple[dict[str, Any], ...], steps: int, seed: int) -> Recipe:
    """A classifier of digits, of twice as many steps: they are short."""
    steps *= 2
    return Recipe.model_validate(
        {
            "model": {"type": "ConvNet", "convNet": {"numStages": 2, "baseChannels": 16}},
            "data": {"type": "Images", "images": {"path": str(digits)}, **few("images", chain)},
            "batch": {"globalBatchSize": 32, "microBatchSize": 32},
            "totalSteps": steps,
            "optimizer": {"learningRate": "2e-3"},
            "schedule": {"warmupSteps": min(20, steps // 4)},
            "evaluation": {"everySteps": steps, "maxSamples": 10_000},
            "checkpointing": {"everySteps": steps},
            "seed": seed,
        }
    )


def of_plain_text(text: Path, chain: tuple[dict[str, Any], ...], steps: int, seed: int) -> Recipe:
    """A language model of little text."""
    shape = {"preset": "Llama", "numLayers": 2, "numHeads": 4, "embeddingDim": 64, "contextLength": 64}
    return Recipe.model_validate(
        {
            "model": {"type": "DecoderLM", "decoderLM": shape},
            "data": {
                "type": "Text",
                "text": {"path": str(text)},
                "validationPercent": 50,
                "augmentations": list(chain),
            },
            "batch": {"globalBatchSize": 8, "microBatchSize": 8},
            "totalSteps": steps,
            "optimizer": {"learningRate": "3e-3"},
            "schedule": {"warmupSteps": min(20, steps // 4)},
            "evaluation": {"everySteps": steps, "maxSamples": 10_000},
            "checkpointing": {"everySteps": steps},
            "seed": seed,
        }
    )


def print_losses(text: Path, lengths: list[int], seeds: int) -> None:
    """A row for each chain of augmentations: the held-out loss of a language model after so many steps."""
    heads = [f"{what}, {steps} steps" for steps in lengths for what in ("last training loss", "held-out loss")]
    print(f"\n| augmentations | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}", flush=True)
    base: list[list[float]] = []
    for name, chain in CHAINS["unlabelled"].items():
        figures: list[list[float]] = []
        for steps in lengths:
            found = []
            for seed in range(seeds):
                with tempfile.TemporaryDirectory() as folder:
                    progress = trained(of_plain_text(text, chain, steps, seed), Path(folder) / "storage").progress
                found.append((float(progress.loss or "nan"), float(progress.validation_loss or "nan")))
            figures += [[row[column] for row in found] for column in range(2)]
        base = base or figures
        print(f"| {name} | {' | '.join(map(cell, figures, base))} |", flush=True)


def write_digits(path: Path) -> None:
    """The 1,797 digits that scikit-learn carries (UCI, Alpaydin and Kaynak 1998)."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError:
        sys.exit("the digits are those of scikit-learn: install it, or leave `images` out of --only")
    digits = load_digits()
    np.savez(path, images=(digits.images * 255 / 16).round().astype(np.uint8), labels=digits.target.astype(np.int64))


def print_effect(kind: str, recipe_of: Callable[[tuple[dict[str, Any], ...], int], Recipe], seeds: int) -> None:
    """A row for each chain of augmentations: how well a classifier does on held-out samples, over the seeds."""
    print("\n| augmentations | last training loss | held-out loss | accuracy | lowest, highest | better than none |")
    print("|---|---|---|---|---|---|", flush=True)
    without: list[float] = []
    for name, chain in CHAINS[kind].items():
        found: list[tuple[float, float, float]] = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                training = trained(recipe_of(chain, seed), Path(folder) / "storage")
            progress = training.progress
            accuracy = int(progress.results[ACCURACY]) / 10
            found.append((float(progress.loss or "nan"), float(progress.validation_loss or "nan"), accuracy))
        losses, held_out, accuracies = ([row[column] for row in found] for column in range(3))
        without = without or accuracies
        better = sum(own > plain for own, plain in zip(accuracies, without, strict=True))
        print(
            f"| {name} | {statistics.fmean(losses):.3f} | {statistics.fmean(held_out):.3f} "
            f"| {statistics.fmean(accuracies):.1f}% | {min(accuracies):.1f}%, {max(accuracies):.1f}% "
            f"| {f'{better} of {seeds}' if chain else ''} |",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps, seeds = arguments.steps, arguments.seeds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents, digits = folder / "functions.jsonl", folder / "digits.npz"
        if {"times", "text"} & set(arguments.only):
            write_documents(documents)
        if "times" in arguments.only:
            print_times(folder, documents)
        if "text" in arguments.only:
            some = folder / "few.jsonl"
            write_few(some, documents)
            print_effect("text", lambda chain, seed: of_text(some, chain, steps, seed), seeds)
        if "images" in arguments.only:
            write_digits(digits)
            print_effect("images", lambda chain, seed: of_images(digits, chain, steps, seed), seeds)
        if "unlabelled" in arguments.only:
            little = folder / "little.txt"
            little.write_text(tiny_shakespeare().read_text()[:PLAIN_BYTES])
            print_losses(little, [steps, 2 * steps], seeds)


if __name__ == "__main__":
    main()
