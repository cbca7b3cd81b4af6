"""What the order of samples, and the plainer ways to select them, do to the held-out loss after as many steps.

    COSTOPT_DATA_DIR=... PYTHONPATH=.:trainer python benchmarks/orders.py [--only text|classes]

The first table is of the DecoderLM of selection.py, 160 steps of 8 samples of 32 bytes: on the first 24,000 bytes of
the text, of which that is nearly two epochs, and on the same with a third of the samples in random letters. Parts are a
quarter of the samples.

The second is of a classifier that tells of which package of Python's standard library a function is, the documents of
encoder_forms.py: 150 steps of 16 documents of at most 64 tokens. Parts are a tenth of these documents.

Three seeds. Each cell has their mean, half of what lies between the least and the largest, and in brackets the least
and the largest difference to the first row, seed by seed. None of it depends on what else the machine does.

The text is `tinyshakespeare.txt` below COSTOPT_DATA_DIR (../shared/data).
"""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from encoder_forms import write_documents
from measured.seeds import cell
from measured.texts import tiny_shakespeare
from selection import BYTES, LANGUAGE_MODEL, LAYERS, Trained, of_text, train, with_noise

SEEDS = range(3)
CLASSIFIER = {
    "type": "Encoder",
    "encoder": {**LAYERS, "embeddingDim": 64, "task": "Classification", "contextLength": 64, "dropoutPercent": 10},
}
Row = dict[str, Any]
"""Fields of `data`."""


def part(percent: int, kind: str, **settings: Any) -> Row:
    """A row that trains on a part of the samples."""
    return {"selection": {"type": kind, "keepPercent": percent, **settings}}


def curriculum(steps: int, **settings: Any) -> Row:
    """A row whose share of easy samples grows for half of the training."""
    return {"order": {"type": "Curriculum", "curriculum": {"steps": steps // 2, **settings}}}


def rows_of_text(steps: int) -> dict[str, Row]:
    """The rows of the first table; losses are those of a bigram model."""
    return {
        "all, `Shuffled`": {},
        "all, `Curriculum`": curriculum(steps),
        "25 %, `Random`": part(25, "Random"),
        "25 %, `Stratified`": part(25, "Stratified"),
        "25 %, `Loss`, `Middle`": part(25, "Loss"),
    }


def rows_of_classes(steps: int) -> dict[str, Row]:
    """The rows of the second table."""
    return {
        "all, `Shuffled`": {},
        "all, `Curriculum`, by `Length`": curriculum(steps, by="Length"),
        "all, `Curriculum`, by `Loss`": curriculum(steps),
        "all, `LengthBucketed`": {"order": {"type": "LengthBucketed"}},
        "10 %, `Random`": part(10, "Random"),
        "10 %, `Stratified`": part(10, "Stratified"),
        "10 %, `Loss`, `Middle`": part(10, "Loss"),
    }


def quietly(model: Row, data: Row, steps: int, batch: int, folder: Path) -> list[Trained]:
    """A training of each seed; what they print is not shown."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return [train(model, data, steps, seed, folder, batch=batch) for seed in SEEDS]


def table(rows: Mapping[str, Row], columns: Mapping[str, int], measure: Callable[[Row], list[list[float]]]) -> None:
    """Print the rows: `measure` gives of each the figures of all seeds (S,) for each column, which has so many digits
    behind the point."""
    print(f"| samples | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    base: list[list[float]] = []
    for name, row in rows.items():
        figures = measure(row)
        base = base or figures
        cells = [cell(own, of, digits) for own, of, digits in zip(figures, base, columns.values(), strict=True)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print()


def compare_text(text: Path, folder: Path) -> None:
    """Print the first table."""
    steps, whole = 160, text.read_text()
    clean, noisy = folder / "clean.txt", folder / "noisy.txt"
    clean.write_text(whole[:BYTES])
    noisy.write_text(with_noise(whole[:BYTES]))

    def measure(row: Row) -> list[list[float]]:
        datas = [{**of_text(file), **row} for file in (clean, noisy)]
        return [[run.loss for run in quietly(LANGUAGE_MODEL, data, steps, 8, folder)] for data in datas]

    table(rows_of_text(steps), {"loss, 24,000 bytes": 3, "with noise": 3}, measure)


def compare_classes(_text: Path, folder: Path) -> None:
    """Print the second table."""
    steps, batch, documents = 150, 16, folder / "functions.jsonl"
    write_documents(documents)
    data = {
        "type": "LabelledText",
        "labelledText": {"path": str(documents)},
        "tokenizer": {"type": "BPE", "vocabularySize": 2048},
    }

    def measure(row: Row) -> list[list[float]]:
        runs = quietly(CLASSIFIER, {**data, **row}, steps, batch, folder)
        percents = [[100 * run.accuracy for run in runs], [100 * run.macro_f1 for run in runs]]
        return [*percents, [run.loss for run in runs], [run.tokens / (steps * batch) for run in runs]]

    columns = {"accuracy, %": 1, "macro F1, %": 1, "loss": 3, "tokens of a document in a batch": 0}
    table(rows_of_classes(steps), columns, measure)


TABLES = {"text": compare_text, "classes": compare_classes}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TABLES, help="one of the tables")
    arguments = parser.parse_args()
    text = tiny_shakespeare()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for word, compare in TABLES.items():
            if arguments.only in (None, word):
                compare(text, Path(folder))


if __name__ == "__main__":
    main()
