"""What a model of the Hugging Face library that was trained before is worth beside the same one from scratch.

    PYTHONPATH=.:trainer python benchmarks/pretrained.py [--steps 40]

all-MiniLM-L6-v2 (22.7 million weights, of a package of PyPI: extra dev) learns to tell of which package of Python's
standard library a function is (the documents of encoder_forms.py): from its folder, and from its config.json alone,
with the same tokenizer, samples and steps: 8 documents of at most 32 tokens. From scratch it is trained at two learning
rates. Three seeds; each cell has their mean, half of what lies between the least and the largest, and in brackets the
least and the largest difference to the first row, seed by seed. None of it depends on what else the machine does.
"""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch

from encoder_forms import write_documents
from measured.seeds import cell
from minilm import extracted
from selection import Trained, train

SEEDS, BATCH, CONTEXT = range(3), 8, 32
ROWS: dict[str, tuple[str, str]] = {
    "`path`, trained before, rate 3e-4": ("path", "3e-4"),
    "`config`, from scratch, rate 3e-4": ("config", "3e-4"),
    "`config`, from scratch, rate 1e-3": ("config", "1e-3"),
}
"""Where the model is from, and its learning rate."""


def runs_of(model: dict[str, Any], data: dict[str, Any], steps: int, rate: str, folder: Path) -> list[Trained]:
    """A training of each seed; what they print is not shown."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return [train(model, data, steps, seed, folder, batch=BATCH, rate=rate) for seed in SEEDS]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, documents = extracted(folder / "model"), folder / "functions.jsonl"
        write_documents(documents)
        data = {"type": "LabelledText", "labelledText": {"path": str(documents)}}
        print("| model | accuracy, % | macro F1, % | loss |\n|---|---|---|---|", flush=True)
        base: list[list[float]] = []
        for row, (source, rate) in ROWS.items():
            settings = {source: str(model), "task": "SequenceClassification", "contextLength": CONTEXT}
            of = {"type": "HuggingFace", "huggingFace": settings}
            runs = runs_of(of, data, steps, rate, folder)
            figures = [
                [100 * run.accuracy for run in runs],
                [100 * run.macro_f1 for run in runs],
                [run.loss for run in runs],
            ]
            base = base or figures
            cells = [cell(own, first, digits) for own, first, digits in zip(figures, base, (1, 1, 3), strict=True)]
            print(f"| {row} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
