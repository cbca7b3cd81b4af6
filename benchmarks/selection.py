"""What it saves, and what it costs, to train on a part of a text, easy samples first, or documents of like length.

    PYTHONPATH=.:trainer python benchmarks/selection.py --text FILE [--steps 160] [--only parts|orders] [--rows WORD]

The first table is of the first BYTES of the text, of which an epoch has 85 steps: each row trains the
same DecoderLM for as many steps from the same weights, on all of it or a quarter, with the same held-out end, and two
seeds. Once as it is, and once with a third of its samples replaced by random letters: what nobody can learn. References
are trained on the bytes after these; one of them is a GPT-2 of the Hugging Face library with a tokenizer of its own.

The second table is of an Encoder that tells from which third of the text a speech is, where speeches have very
different lengths. Tables of numbers are made anew for each row, so that each pays for its own.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from costopt.schema.recipe import Recipe
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.models.artifact import OWN_CONFIG_FILE, save_model
from costopt_trainer.models.loss import count_targets
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import context_length_of, kind_of_samples, tokenizer_of
from costopt_trainer.training.choosing import chosen
from costopt_trainer.training.evaluation import Totals, macro_f1, validation_totals
from costopt_trainer.training.learner import Learner
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop

BATCH = 8
SEEDS = 2
BYTES = 24_000
PART = 25
CONTEXT = 32
LAYERS = {"numLayers": 2, "numHeads": 4}
LANGUAGE_MODEL = {"type": "DecoderLM", "decoderLM": {**LAYERS, "embeddingDim": 32, "contextLength": CONTEXT}}
CLASSIFIER = {
    "type": "Encoder",
    "encoder": {**LAYERS, "embeddingDim": 64, "task": "Classification", "contextLength": 512},
}


def part(kind: str, **settings: Any) -> dict[str, Any]:
    """A row that trains on PART percent."""
    return {"selection": {"type": kind, "keepPercent": PART, **settings}}


def rows(own: Path, library: Path, steps: int) -> dict[str, dict[str, Any]]:
    """The rows of the first table; `own` and `library` are folders of reference models."""
    table: dict[str, dict[str, Any]] = {"all": {}, "Random": part("Random")}
    references = {"bigram": {}, "model": {"model": str(own)}, "GPT-2": {"model": str(library)}}
    for name, reference in references.items():
        table[f"Loss, Lowest, {name}"] = part("Loss", loss={"keep": "Lowest", "reference": reference})
    for keep in ("Lowest", "Highest"):
        table[f"FirstEpoch, {keep}"] = part("Loss", loss={"by": "FirstEpoch", "keep": keep})
    excess = {"by": "ExcessLoss", "keep": "Highest", "reference": references["model"]}
    table["ExcessLoss, Highest"] = part("Loss", loss=excess)
    table["Loss, Highest, bigram"] = part("Loss", loss={"keep": "Highest"})
    table["KCenter, counts"] = part("Representative")
    encoder = {"method": "Clusters", "encoder": str(library)}
    table["Clusters, GPT-2"] = part("Representative", representative=encoder)
    table["Loss, Middle, bigram"] = part("Loss")
    table["Curriculum"] = {"order": {"type": "Curriculum", "curriculum": {"steps": steps // 2}}}
    return table


@dataclass
class Trained:
    """How a training went."""

    learner: Learner
    selecting: float
    """Seconds."""
    stepping: float = 0.0
    """Seconds in steps."""
    loss: float = 0.0
    """On held-out samples, after the last step."""
    accuracy: float = 0.0
    """On the same, 0 to 1, where samples have classes; so too `macro_f1`."""
    macro_f1: float = 0.0
    tokens: int = 0
    """Tokens in the batches, with those that fill up."""


def train(
    model: dict[str, Any],
    data: dict[str, Any],
    steps: int,
    seed: int,
    folder: Path,
    *,
    batch: int = BATCH,
    rate: str = "2e-3",
) -> Trained:
    """Train from fresh weights."""
    recipe = Recipe.model_validate(
        {
            "model": model,
            "data": data,
            "batch": {"globalBatchSize": batch, "microBatchSize": batch},
            "totalSteps": steps,
            "optimizer": {"learningRate": rate},
            "schedule": {"warmupSteps": steps // 10},
            "seed": seed,
        }
    )
    whole = load_data(
        recipe.data,
        context_length=context_length_of(recipe.model),
        cache_dir=folder,
        reads=kind_of_samples(recipe.model),
        model_tokenizer=tokenizer_of(recipe.model),
    )
    for table in folder.glob("*.numbers"):  # each row pays for its own
        table.unlink()
    begun = time.perf_counter()
    selected = chosen(recipe, whole, folder, ALONE)
    selecting = time.perf_counter() - begun
    shape = ModelShape.for_data(recipe.model, selected)
    trained = Trained(Learner(recipe, shape, selected, ALONE, Stop(), cache_dir=folder), selecting)
    for _ in range(steps):
        _take_step(trained)
    totals = _evaluate(trained.learner, selected)
    trained.loss = totals.loss_sum / totals.num_targets
    if totals.class_counts is not None:
        trained.accuracy, trained.macro_f1 = totals.accuracy or 0.0, macro_f1(totals.class_counts)
    return trained


def _take_step(trained: Trained) -> None:
    learner = trained.learner
    if learner.first_epoch.is_due(learner.samples_consumed):
        begun = time.perf_counter()
        learner.module.eval()
        narrowed = learner.first_epoch.chosen(learner.data, lambda _done, _of: True)
        learner.module.train()
        assert narrowed is not None
        learner.data = narrowed
        trained.selecting += time.perf_counter() - begun
    batches = learner.batches_at(learner.samples_consumed)
    begun = time.perf_counter()
    learner.learn(batches, sum(int(count_targets(targets)) for _, targets in batches), lambda: None)
    trained.stepping += time.perf_counter() - begun
    trained.tokens += sum(inputs.numel() for inputs, _ in batches)
    learner.losses.clear()


def _evaluate(learner: Learner, data: TrainingData) -> Totals:
    learner.module.eval()
    totals = validation_totals(
        learner.module.each_logits,
        data,
        max_samples=512,
        micro_batch_size=BATCH,
        device=torch.device("cpu"),
        num_classes=data.num_classes,
    )
    assert totals is not None
    return totals


def own_reference(text: Path, steps: int, folder: Path) -> Path:
    """The folder of a model of the same kind, trained on `text`."""
    trained = train(LANGUAGE_MODEL, of_text(text), steps, 7, folder)
    save_model(folder / "own", trained.learner.module, trained.learner.shape)
    return folder / "own"


def library_reference(text: Path, steps: int, folder: Path) -> Path:
    """The folder of a GPT-2 with a tokenizer of its own, trained on `text`, as if it had never been here."""
    config = folder / "gpt2"
    config.mkdir()
    tokenizer: Any = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text.read_text()], trainer=trainer)
    tokenizer.save(str(config / "tokenizer.json"))
    (config / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 512, "eos_token_id": 0}
    (config / "config.json").write_text(json.dumps({"model_type": "gpt2", "bos_token_id": 0, **shape}))
    model = {"type": "HuggingFace", "huggingFace": {"config": str(config), "contextLength": CONTEXT}}
    trained = train(model, of_text(text), steps, 7, folder)
    save_model(folder / "library", trained.learner.module, trained.learner.shape)
    (folder / "library" / OWN_CONFIG_FILE).unlink()
    return folder / "library"


def of_text(text: Path) -> dict[str, Any]:
    """Settings of data."""
    return {"type": "Text", "text": {"path": str(text)}}


def with_noise(text: str) -> str:
    """The text with each third context, but not those at the held-out end, in random letters."""
    source, stop = random.Random(0), len(text) * 9 // 10
    stretches = [text[at : at + CONTEXT] for at in range(0, stop - CONTEXT, CONTEXT)]
    noisy = [
        "".join(source.choices("abcdefghijklmnopqrstuvwxyz \n", k=CONTEXT)) if number % 3 == 1 else stretch
        for number, stretch in enumerate(stretches)
    ]
    return "".join(noisy) + text[CONTEXT * len(stretches) :]


def compare_parts(text: Path, steps: int, folder: Path, only: str) -> None:
    """Print the first table."""
    whole = text.read_text()
    clean, noisy, later = (folder / f"{name}.txt" for name in ("clean", "noisy", "later"))
    clean.write_text(whole[:BYTES])
    noisy.write_text(with_noise(whole[:BYTES]))
    later.write_text(whole[BYTES : 2 * BYTES])
    table = rows(own_reference(later, steps, folder), library_reference(later, steps, folder), steps)
    print("| data | choosing, in steps | validation loss, nats per byte | with noise |")
    print("|---|---|---|---|")
    for row, settings in table.items():
        if only not in row:
            continue
        losses, costs = [], []
        for file in (clean, noisy):
            runs = [train(LANGUAGE_MODEL, {**of_text(file), **settings}, steps, seed, folder) for seed in range(SEEDS)]
            losses.append(", ".join(f"{run.loss:.3f}" for run in runs))
            costs += [run.selecting * steps / run.stepping for run in runs]
        print(f"| {row} | {statistics.mean(costs):.0f} | {losses[0]} | {losses[1]} |", flush=True)


def write_passages(text: Path, folder: Path) -> Path:
    """Speeches of a text with the label of the third of it that they are from, as JSON Lines."""
    path = folder / "passages.jsonl"
    speeches = [speech for speech in text.read_text().split("\n\n") if speech.strip()]
    with path.open("w") as stream:
        for number, speech in enumerate(speeches):
            stream.write(json.dumps({"text": speech, "label": f"part {3 * number // len(speeches)}"}) + "\n")
    return path


def compare_orders(text: Path, steps: int, folder: Path) -> None:
    """Print the second table."""
    documents = {"type": "LabelledText", "labelledText": {"path": str(write_passages(text, folder))}}
    print("| order | tokens in batches | time in steps | validation loss, nats per document |")
    print("|---|---|---|---|")
    base = None
    for row, settings in {"Shuffled": {}, "LengthBucketed": {"order": {"type": "LengthBucketed"}}}.items():
        run = train(CLASSIFIER, {**documents, **settings}, steps, 0, folder, batch=2 * BATCH)
        base = base or run
        share, cost = run.tokens / base.tokens, run.stepping / base.stepping
        print(f"| {row} | {share:.2f} | {cost:.2f} | {run.loss:.3f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--only", choices=["parts", "orders"], help="one of the tables")
    parser.add_argument("--rows", default="", help="rows of the first table that have this in their name")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only != "orders":
            compare_parts(arguments.text, arguments.steps, Path(folder), arguments.rows)
        if arguments.only != "parts":
            compare_orders(arguments.text, max(10, arguments.steps // 8), Path(folder))


if __name__ == "__main__":
    main()
