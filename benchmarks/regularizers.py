"""What label smoothing, clipped gradients and groups of parameters do to the held-out loss after as many steps.

    COSTOPT_DATA_DIR=... PYTHONPATH=.:trainer python benchmarks/regularizers.py [--only smoothing clipping groups]

A DecoderLM of two layers of width 32, byte by byte, 8 samples of 32 a step, 150 steps of AdamW at 3e-3, three seeds. It
reads Tiny Shakespeare, of which so many steps are a twenty-fifth ("much text"), or 1,500 of its bytes 25 times over,
with as many held out ("little text"): there it learns by heart, which label smoothing and weight decay are against. The
classifier of encoder_forms.py, smaller, tells of which package of Python's standard library a function is.

Each cell has the mean of the seeds, half of what lies between the least and the largest, and in brackets the least and
the largest difference to the first row, seed by seed. None of it depends on what else the machine does.

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

import encoder_forms
import optimizers
from costopt.schema.recipe import Recipe
from costopt_trainer.errors import NotRetryable
from costopt_trainer.training.evaluation import ACCURACY, MACRO_F1
from costopt_trainer.training.training import Training
from measured.seeds import cell
from measured.texts import tiny_shakespeare

SEEDS = range(3)
MODEL = {
    "type": "DecoderLM",
    "decoderLM": {"numLayers": 2, "numHeads": 4, "embeddingDim": 32, "contextLength": 32},
}
LITTLE = 3_000
"""Bytes of little text; half of them are held out."""
RATE = "3e-3"
ADAMW = {"learningRate": RATE}

Row = dict[str, Any]
"""Top-level fields of a recipe."""
Measure = Callable[[Row, int], list[float]]
"""A row and a seed -> the figures of its columns."""

SMOOTHING: dict[str, Row] = {
    "none": {},
    "`labelSmoothingPercent: 10`": {"labelSmoothingPercent": 10},
}
CLIPPING: dict[str, Row] = {
    '`gradientClipNorm: "1.0"`, the default': {},
    '`gradientClipNorm: "0"`, none': {"gradientClipNorm": "0"},
    '`gradientClipValue: "0.01"`': {"gradientClipValue": "0.01"},
}
"""Settings of an optimizer."""
STEEP: dict[str, dict[str, str]] = {
    f"AdamW, {RATE}": ADAMW,
    "AdamW, 3e-2": {"learningRate": "3e-2"},
    "SGD, 1": {"type": "SGD", "learningRate": "1", "weightDecay": "0"},
}
"""The optimizers of the columns of clipping."""
OF_TEXTS = {"loss, much text": 3, "loss, little text": 3}


def _groups(decay: str, *groups: dict[str, Any]) -> Row:
    return {"optimizer": {**ADAMW, "weightDecay": decay, "groups": list(groups)}}


GROUPS: dict[str, Row] = {
    'none, `weightDecay: "0.1"`': _groups("0.1"),
    'none, `weightDecay: "3"`': _groups("3"),
    '`weightDecay: "3"`, embedding without': _groups("3", {"parameters": ["*embedding*"], "weightDecay": "0"}),
    "embedding at 0.1 of the rate": _groups("0.1", {"parameters": ["*embedding*"], "learningRateFactor": "0.1"}),
}


def trained(settings: Recipe, folder: Path) -> Training:
    """A training that has taken all its steps; what it prints is not shown."""
    with contextlib.redirect_stderr(io.StringIO()):
        return optimizers.trained(settings, folder)


def language_model(text: Path, steps: int, **changes: Any) -> Recipe:
    """A training on `text`, a part of which is held out: of little text a half."""
    little = text.stat().st_size <= LITTLE
    data = {"type": "Text", "text": {"path": str(text)}, "validationPercent": 50 if little else 10}
    fixed = {"model": MODEL, "data": data, "batch": {"globalBatchSize": 8, "microBatchSize": 8}, "optimizer": ADAMW}
    return optimizers.recipe(text, steps, **fixed | changes)


def classifier(documents: Path, steps: int, **changes: Any) -> Recipe:
    """A smaller classifier than that of encoder_forms.py."""
    form = {"embeddingDim": 64, "numHeads": 4, "contextLength": 64}
    batch = {"globalBatchSize": 16, "microBatchSize": 16}
    return Recipe.model_validate(encoder_forms.recipe(documents, form, steps).to_plain() | {"batch": batch} | changes)


def table(rows: Mapping[str, Row], columns: Mapping[str, int], measure: Measure) -> None:
    """Print a row for each setting: for each seed `measure` gives its columns, which have so many digits behind the
    point."""
    print(f"| setting | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    base: list[tuple[float, ...]] = []
    for name, row in rows.items():
        figures = list(zip(*(measure(row, seed) for seed in SEEDS), strict=True))
        base = base or figures
        cells = [cell(own, of, digits) for own, of, digits in zip(figures, base, columns.values(), strict=True)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print()


def compare_smoothing(texts: list[Path], steps: int, folder: Path) -> None:
    """Print the table of label smoothing."""
    documents = folder / "functions.jsonl"
    encoder_forms.write_documents(documents)

    def measure(row: Row, seed: int) -> list[float]:
        told = trained(classifier(documents, steps, **row, seed=seed), folder).progress.results
        percents = [int(told[name]) / 10 for name in (ACCURACY, MACRO_F1)]
        return [*losses(texts, steps, folder, {**row, "seed": seed}), *percents]

    table(SMOOTHING, {**OF_TEXTS, "classifier: accuracy, %": 2, "macro F1, %": 2}, measure)


def compare_clipping(texts: list[Path], steps: int, folder: Path) -> None:
    """Print the table of clipping."""

    def measure(row: Row, seed: int) -> list[float]:
        each = [{"optimizer": {**optimizer, **row}, "seed": seed} for optimizer in STEEP.values()]
        return [losses(texts[:1], steps, folder, changes)[0] for changes in each]

    table(CLIPPING, dict.fromkeys(STEEP, 3), measure)


def compare_groups(texts: list[Path], steps: int, folder: Path) -> None:
    """Print the table of groups."""
    table(GROUPS, OF_TEXTS, lambda row, seed: losses(texts, steps, folder, {**row, "seed": seed}))


def losses(texts: list[Path], steps: int, folder: Path, changes: Row) -> list[float]:
    """Nats per byte of what each text holds out; nan of a training that diverges."""
    found = []
    for text in texts:
        try:
            found.append(optimizers.loss_of(trained(language_model(text, steps, **changes), folder)))
        except NotRetryable:
            found.append(float("nan"))
    return found


TABLES = {"smoothing": compare_smoothing, "clipping": compare_clipping, "groups": compare_groups}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--only", choices=TABLES, nargs="+", default=list(TABLES), help="some of the tables")
    arguments = parser.parse_args()
    text = tiny_shakespeare()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        little = folder / "little.txt"
        little.write_text(text.read_text()[:LITTLE])
        for word, compare in TABLES.items():
            if word in arguments.only:
                compare([text, little], arguments.steps, folder)


if __name__ == "__main__":
    main()
