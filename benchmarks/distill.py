"""Students beside their teacher: what they keep of it, and how much smaller and faster they are.

    COSTOPT_DATA_DIR=... PYTHONPATH=.:trainer python benchmarks/distill.py [--tasks decoder encoder forms] [--seeds 3]
        [--students taught ...] [--steps 400] [--folder FOLDER]

For each task and seed a teacher is trained until it has learned its fill: of "decoder" the rate follows the held-out
loss, and early stopping gives the best model; of "encoder" the rate falls to zero over so many steps that as many more
as a student has do not help. All its students have as many optimizer steps, at the same rates and on the same data, and
each is measured beside its teacher as a variant is (`compress.making`).

- "decoder" tells the next byte of Tiny Shakespeare (`tinyshakespeare.txt` below COSTOPT_DATA_DIR).
- "encoder" tells from which of ten packages of Python's library a piece of source is, of 80 characters.
- "forms" trains nothing: size and speed of BERT-base and of a model of MobileBERT's form and widths.

"taught" is every other layer of the teacher, which answers, under the defaults of the Distill step. Others differ from
it in one thing each: see STUDENTS. "from scratch" is a model of as many layers that never saw a teacher. "the teacher
goes on" is the teacher itself, trained on for as many steps as a student: what it gains it had not learned before.
A bottleneck is built as MobileBERT is, with about as many times fewer parameters: three MLPs in a layer of 12 channels,
and what passes between layers half as wide as the teacher's.

Kept is how much of what the teacher has learned the student has: of an encoder its accuracy to the teacher's, of a
decoder by how much its loss is below that of guessing by frequency, to the teacher's. DistilBERT, with 40 % fewer
parameters, keeps 97 % of its teacher's score on GLUE and is 60 % faster (Sanh et al., arXiv 1910.01108); MobileBERT is
4.3 times smaller and 5.5 times faster than BERT-base (Sun et al., arXiv 2004.02984).

Each row is printed as it comes. With --folder teachers and rows stay there, and what is there is not done again.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from costopt.names import ARTIFACTS_DIR, MODEL_DIR
from costopt.schema.compression import Variant
from costopt.schema.models import ModelSettings
from costopt.schema.optimization import Schedule
from costopt.schema.recipe import Recipe
from costopt_trainer.compress import measure
from costopt_trainer.compress.distill import WARMUP_SHARE
from costopt_trainer.compress.making import Making
from costopt_trainer.compress.measure import Measured
from costopt_trainer.compress.origin import of_recipe
from costopt_trainer.models.artifact import load_model, read_config
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training
from encoder_forms import PACKAGES
from measured.texts import tiny_shakespeare

BATCH = 32
CHARACTERS, MOST = 80, 4000
"""Of a piece of source; and pieces of a package."""
BOTTLENECK = {"embeddingDim": 24, "bottleneckDim": 12, "mlpsPerLayer": 3}
FORMS: dict[str, dict[str, int]] = {
    "BERT-base": {"numLayers": 12, "numHeads": 12, "embeddingDim": 768},
    "MobileBERT": {"numLayers": 24, "numHeads": 4, "embeddingDim": 512, "bottleneckDim": 128, "mlpsPerLayer": 4},
}
"""Published ones; MobileBERT's embeddings are only 128 wide, its layers have no layer norms, and ReLU for GELU."""
STUDENTS: dict[str, dict[str, Any]] = {
    "taught": {},
    "half of the layers, labels alone": {"labelsPercent": 100},
    "bottleneck, taught": {"student": "Lighter", "lighter": BOTTLENECK},
    "bottleneck, taught, hidden 100 %": {"student": "Lighter", "lighter": BOTTLENECK, "hiddenPercent": 100},
}
"""Settings of a Distill step that is not EveryOtherLayer with its defaults."""
FRESH = ("from scratch", "bottleneck, from scratch")
GOES_ON = "the teacher goes on"


@dataclass(frozen=True)
class Plan:
    """How a task's models learn."""

    model: dict[str, Any]
    tokenizer: dict[str, Any]
    every: int
    """Steps between evaluations of the teacher."""
    most: int
    """Steps of the teacher, should early stopping not end it."""
    student_steps: int
    learning_rate: str
    follows_loss: bool
    """Whether the teacher's rate does, and early stopping ends it; else it falls to zero at the last step."""


PLANS = {
    "decoder": Plan(
        {"numLayers": 6, "numHeads": 2, "embeddingDim": 16, "contextLength": 32, "tiedEmbeddings": True},
        {"type": "Byte"},
        every=250,
        most=6000,
        student_steps=1000,
        learning_rate="5e-3",
        follows_loss=True,
    ),
    "encoder": Plan(
        {"numLayers": 4, "numHeads": 2, "embeddingDim": 48, "contextLength": 32, "task": "Classification"},
        {"type": "BPE", "vocabularySize": 512},
        every=250,
        most=3000,
        student_steps=400,
        learning_rate="3e-3",
        follows_loss=False,
    ),
}


def recipe(task: str, text: Path, seed: int, **changes: Any) -> Recipe:
    """What a teacher is trained by; `changes` of its model."""
    plan = PLANS[task]
    size = {**plan.model, **changes}
    models = {
        "decoder": {"type": "DecoderLM", "decoderLM": size},
        "encoder": {"type": "Encoder", "encoder": size},
    }
    data: dict[str, dict[str, Any]] = {
        "decoder": {"type": "Text", "text": {"path": str(text)}},
        "encoder": {"type": "LabelledText", "labelledText": {"path": str(text)}, "validationPercent": 20},
    }
    schedule: dict[str, Any] = {"type": "Linear"}
    early_stopping = None
    if plan.follows_loss:
        schedule = {
            "type": "ReduceOnPlateau",
            "reduceOnPlateau": {"factor": "0.3", "patienceEvaluations": 1, "leastImprovement": "0.01"},
        }
        early_stopping = {"patienceEvaluations": 4, "leastImprovement": "0.003"}
    return Recipe.model_validate(
        {
            "model": models[task],
            "data": {**data[task], "tokenizer": plan.tokenizer},
            "batch": {"globalBatchSize": BATCH, "microBatchSize": BATCH},
            "totalSteps": plan.most,
            "optimizer": {"learningRate": plan.learning_rate},
            "schedule": {**schedule, "warmupSteps": plan.every},
            "evaluation": {"everySteps": plan.every, "maxSamples": 2048},
            "earlyStopping": early_stopping,
            "checkpointing": {"everySteps": plan.every, "mode": "Sync"},
            "seed": seed,
        }
    )


def write_pieces(path: Path) -> None:
    """One line for each piece of source, and the package that it is from."""
    root = Path(sysconfig.get_paths()["stdlib"])
    begun = path.with_name(f".{os.getpid()}")  # seeds may be run beside each other
    with begun.open("w", encoding="utf-8") as stream:
        for package in PACKAGES:
            files = sorted((root / package).rglob("*.py"))
            source = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
            begins = range(0, len(source) - CHARACTERS, max(CHARACTERS, len(source) // MOST))
            pieces = [source[begin : begin + CHARACTERS] for begin in begins]
            stream.writelines(json.dumps({"text": piece, "label": package}) + "\n" for piece in pieces[:MOST])
    begun.replace(path)


def trained(settings: Recipe, folder: Path) -> Path:
    """The folder with the model that the recipe makes, in `folder`; one that is there is not made again."""
    artifact = folder / ARTIFACTS_DIR / MODEL_DIR
    if not artifact.exists():
        folder.mkdir(parents=True, exist_ok=True)
        training = Training(settings, folder, ALONE, Meter(), Stop(), job="benchmark")
        training.resume()
        run_steps(training)
        print(f"{folder.name}: {training.progress.step} steps", file=sys.stderr, flush=True)
        training.finish()
    return artifact


def measured(name: str, task: str, folder: Path, *, text: Path, seed: int, steps: int) -> Measured:
    """A student of so many steps beside its teacher, whose storage is in `folder`."""
    storage, plan = folder / "teacher", PLANS[task]
    settings = recipe(task, text, seed)
    trained(settings, storage)
    making = Making(of_recipe(settings, storage), storage)
    of_student = {"steps": steps, "learningRate": plan.learning_rate}
    step: dict[str, Any] = {
        "type": "Distill",
        "distill": {"student": "EveryOtherLayer", **of_student, **STUDENTS.get(name, {})},
    }
    if name == GOES_ON:
        step = {"type": "FineTune", "fineTune": {**of_student, "warmupSteps": steps // WARMUP_SHARE}}
    variant = Variant.model_validate({"name": "student", "measureSeconds": 600, "steps": [step]})
    if name in FRESH:
        changes = BOTTLENECK if "bottleneck" in name else {"numLayers": plan.model["numLayers"] // 2}
        model = fresh(recipe(task, text, seed, **changes), steps, folder / f"{name.replace(' ', '-')}-{steps}")
    else:
        model = making.apply(variant)
    saved = making.save(variant, model, ["TorchEager"])
    making.checkpoints(variant).remove()
    return making.measure(variant, saved, torch.device("cpu"))


def fresh(settings: Recipe, steps: int, storage: Path) -> LayeredModel:
    """A model that had no teacher, and as many steps at the same rates as one that a Distill step has taught."""
    changes = {
        "total_steps": steps,
        "schedule": Schedule(type="Linear", warmup_steps=steps // WARMUP_SHARE),
        "early_stopping": None,
        "evaluation": settings.evaluation.model_copy(update={"every_steps": steps}),
        "checkpointing": settings.checkpointing.model_copy(update={"every_steps": steps}),
    }
    artifact = trained(settings.model_copy(update=changes), storage)
    model = load_model(artifact)
    model.built_as = read_config(artifact).shape
    return model.requires_grad_(False).eval()


def row(both: Measured) -> dict[str, float]:
    """The figures of a student."""
    student, teacher, guess = both.variant, both.baseline, both.comparison.trivial_loss
    loss, before = float(student.validation_loss), float(teacher.validation_loss)
    kept, quality, beside = 100 * (guess - loss) / (guess - before), loss, before
    if student.validation_accuracy_permille is not None and teacher.validation_accuracy_permille:
        quality, beside = student.validation_accuracy_permille / 10, teacher.validation_accuracy_permille / 10
        kept = 100 * quality / beside
    return {
        "fewer parameters, %": 100 * (1 - student.parameters / teacher.parameters),
        "times smaller": teacher.size_bytes / student.size_bytes,
        "times as fast": teacher.latency_microseconds / student.latency_microseconds,
        "teacher": beside,
        "student": quality,
        "kept, %": kept,
        "held-out samples": both.comparison.samples,
    }


def published_forms() -> None:
    """Size and speed of models as large as the published ones, untrained: a text of 128 tokens, in turns."""
    models = [
        build_model(
            ModelShape(
                ModelSettings.model_validate({"type": "Encoder", "encoder": {"task": "Classification", **form}}),
                vocabulary_size=30522,
                num_classes=2,
                pad_id=0,
            )
        ).eval()
        for form in FORMS.values()
    ]
    tokens = torch.randint(1, 30522, (1, 128))
    seconds: list[list[float]] = [[] for _ in models]
    with torch.no_grad():
        for _ in range(12):
            for model, of_model in zip(models, seconds, strict=True):
                begun = time.process_time()
                model(tokens)
                of_model.append(time.process_time() - begun)
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    times = [statistics.median(of_model[2:]) for of_model in seconds]
    for name, size, taken in zip(FORMS, sizes, times, strict=True):
        print(f"| {name} | {size / 1e6:.1f} M | {sizes[0] / size:.2f} x | {times[0] / taken:.2f} x |")


def main() -> None:
    """A row for each student, and the means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=[*PLANS, "forms"], choices=[*PLANS, "forms"])
    parser.add_argument("--students", nargs="*", default=[*STUDENTS, *FRESH, GOES_ON], help="names of rows")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of a student, where not as many as the plan of its task says")
    parser.add_argument("--folder", type=Path, help="where teachers and rows stay")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measure.DECODING_BUDGET_SECONDS = 0.5  # of figures that are not printed
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for task in arguments.tasks:
            if task == "forms":
                published_forms()
                continue
            students = [name for name in arguments.students if task == "encoder" or "bottleneck" not in name]
            steps = arguments.steps or PLANS[task].student_steps
            one_task(task, students, arguments.seeds, folder.resolve(), steps)


def one_task(task: str, students: list[str], seeds: int, folder: Path, steps: int) -> None:
    """Its rows, and their means."""
    text = tiny_shakespeare() if task == "decoder" else folder / "pieces.jsonl"
    if task == "encoder" and not text.exists():
        write_pieces(text)
    all_rows: dict[str, list[dict[str, float]]] = {name: [] for name in students}
    print(f"\n{task}: {steps} steps of a student", flush=True)
    for seed in range(seeds):
        place = folder / f"{task}-{seed}"
        for name in students:
            kept = place / f"{name.replace(' ', '-')}-{steps}.json"
            if kept.exists():
                figures = json.loads(kept.read_text())
            else:
                with contextlib.redirect_stdout(io.StringIO()):
                    figures = row(measured(name, task, place, text=text, seed=seed, steps=steps))
                kept.write_text(json.dumps(figures))
            if not any(all_rows.values()):
                print("| seed | student | " + " | ".join(figures) + " |" + "\n|" + "---|" * (len(figures) + 2))
            all_rows[name].append(figures)
            print(
                f"| {seed} | {name} | " + " | ".join(f"{figure:.4g}" for figure in figures.values()) + " |", flush=True
            )
    print(f"\n{task}, means of {seeds} seeds (kept: from, to)")
    for name, rows in all_rows.items():
        means = " | ".join(f"{statistics.mean(one[key] for one in rows):.4g}" for key in rows[0])
        shares = [one["kept, %"] for one in rows]
        print(f"| {name} | {means} | {min(shares):.1f} to {max(shares):.1f} |", flush=True)


if __name__ == "__main__":
    main()
