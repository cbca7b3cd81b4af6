"""Students beside their teacher: what they keep of it, and how much smaller and faster they are.

    COSTOPT_DATA_DIR=... PYTHONPATH=.:trainer python benchmarks/distill.py [--seeds 3] [--tasks encoder decoder]
        [--students taught ...] [--batch 16] [--learning-rate 2e-3] [--folder FOLDER]

For each task and seed a teacher of six layers is trained. All its students have as many optimizer steps, at the same
rates and on the same data, and each is measured beside its teacher as a variant is (`compress.making`).

- "encoder" tells from which of ten packages of Python's library a function is, by its beginning.
- "decoder" tells the next token of Tiny Shakespeare (`tinyshakespeare.txt` below COSTOPT_DATA_DIR).

"taught" is every other layer of the teacher, which answers, under the defaults of the Distill step. Others differ from
it in one thing each: see STUDENTS. "from scratch" is a model of as many layers that never saw a teacher, "twice the
steps" the same with as many steps again: about what the teacher's answers cost. A bottleneck is built as MobileBERT is.

Kept is how much of what the teacher has learned the student has: of an encoder its accuracy to the teacher's, of a
decoder by how much its loss is below that of guessing, to the teacher's. DistilBERT, with 40 % fewer parameters, keeps
97 % of its teacher's score on GLUE and is 60 % faster (Sanh et al., arXiv 1910.01108); MobileBERT is 4.3 times smaller
and 5.5 times faster than BERT-base (Sun et al., arXiv 2004.02984).

Each row is printed as it comes. With --folder teachers and rows stay there, and what is there is not done again.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from costopt.names import ARTIFACTS_DIR, MODEL_DIR
from costopt.schema.compression import Variant
from costopt.schema.recipe import Recipe
from costopt_trainer.compress import measure
from costopt_trainer.compress.making import Making
from costopt_trainer.compress.measure import Measured
from costopt_trainer.compress.origin import of_recipe
from costopt_trainer.models.artifact import load_model, read_config
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training
from encoder_forms import PACKAGES, functions
from measured.texts import tiny_shakespeare

LAYERS = 6
CHARACTERS, MOST = 160, 400
"""Of a function; and functions of a package."""
STUDENTS: dict[str, dict[str, Any]] = {
    "taught": {},
    "half of the layers, labels alone": {"labelsPercent": 100},
    "answers alone": {"labelsPercent": 0},
    "temperature 1": {"temperature": 1},
    "temperature 4": {"temperature": 4},
    "hidden 10 %": {"hiddenPercent": 10},
    "hidden 100 %": {"hiddenPercent": 100},
    "bottleneck, taught": {"student": "Lighter", "lighter": {"bottleneckDim": 16, "mlpsPerLayer": 4}},
    "bottleneck, taught, hidden 100 %": {
        "student": "Lighter",
        "lighter": {"bottleneckDim": 16, "mlpsPerLayer": 4},
        "hiddenPercent": 100,
    },
}
"""Settings of a Distill step that is not EveryOtherLayer with its defaults."""
FRESH: dict[str, tuple[dict[str, Any], int]] = {
    "from scratch": ({"numLayers": LAYERS // 2}, 1),
    "from scratch, twice the steps": ({"numLayers": LAYERS // 2}, 2),
    "bottleneck, from scratch": ({"bottleneckDim": 16, "mlpsPerLayer": 4}, 1),
}
"""Settings of a model that is trained without a teacher, and how many times a student's steps it has."""
USUAL = ("taught", "half of the layers, labels alone", "from scratch", "bottleneck, taught", "bottleneck, from scratch")
STEPS = {"encoder": (500, 200), "decoder": (1200, 300)}
"""Of a teacher, and of a student."""


@dataclass(frozen=True)
class Plan:
    """How long teachers and students learn, and how: both alike."""

    teacher_steps: int
    student_steps: int
    batch: int
    learning_rate: str


def recipe(task: str, text: Path, steps: int, seed: int, plan: Plan, **changes: Any) -> Recipe:
    """What a model is trained by."""
    size = {"numLayers": LAYERS, "numHeads": 4, "embeddingDim": 48, **changes}
    models = {
        "decoder": {"type": "DecoderLM", "decoderLM": {**size, "contextLength": 32}},
        "encoder": {"type": "Encoder", "encoder": {**size, "contextLength": 48, "task": "Classification"}},
    }
    data = {
        "decoder": {"type": "Text", "text": {"path": str(text)}},
        "encoder": {"type": "LabelledText", "labelledText": {"path": str(text)}, "validationPercent": 20},
    }
    return Recipe.model_validate(
        {
            "model": models[task],
            "data": {**data[task], "tokenizer": {"type": "BPE", "vocabularySize": 512}},
            "batch": {"globalBatchSize": plan.batch, "microBatchSize": plan.batch},
            "totalSteps": steps,
            "optimizer": {"learningRate": plan.learning_rate},
            "schedule": {"warmupSteps": steps // 20},
            "evaluation": {"everySteps": steps, "maxSamples": 1024},
            "checkpointing": {"everySteps": steps, "mode": "Sync"},
            "seed": seed,
        }
    )


def write_beginnings(path: Path) -> None:
    """One line for each function: its first characters, and the package that it is from."""
    root = Path(sysconfig.get_paths()["stdlib"])
    begun = path.with_name(f".{os.getpid()}")  # seeds may be run beside each other
    with begun.open("w", encoding="utf-8") as stream:
        for package in PACKAGES:
            found = [text[:CHARACTERS] for text in functions(root / package) if len(text) > CHARACTERS // 2]
            stream.writelines(json.dumps({"text": text, "label": package}) + "\n" for text in found[:MOST])
    begun.replace(path)


def trained(settings: Recipe, folder: Path) -> Path:
    """The folder with the model that the recipe makes, in `folder`; one that is there is not made again."""
    artifact = folder / ARTIFACTS_DIR / MODEL_DIR
    if not artifact.exists():
        folder.mkdir(parents=True, exist_ok=True)
        training = Training(settings, folder, ALONE, Meter(), Stop(), job="benchmark")
        training.resume()
        run_steps(training)
        training.finish()
    return artifact


def measured(name: str, task: str, folder: Path, *, text: Path, plan: Plan, seed: int) -> Measured:
    """A student beside its teacher, whose storage is in `folder`."""
    storage = folder / "teacher"
    settings = recipe(task, text, plan.teacher_steps, seed, plan)
    trained(settings, storage)
    making = Making(of_recipe(settings, storage), storage)
    distill = {
        "student": "EveryOtherLayer",
        "steps": plan.student_steps,
        "learningRate": plan.learning_rate,
        **STUDENTS.get(name, {}),
    }
    variant = Variant.model_validate(
        {"name": "student", "measureSeconds": 600, "steps": [{"type": "Distill", "distill": distill}]}
    )
    if name in STUDENTS:
        model = making.apply(variant)
    else:
        changes, times = FRESH[name]
        steps = plan.student_steps * times
        storage_of_it = folder / f"{name.replace(' ', '-')}-{steps}"
        model = fresh(recipe(task, text, steps, seed, plan, **changes), storage_of_it)
    saved = making.save(variant, model, ["TorchEager"])
    making.checkpoints(variant).remove()
    return making.measure(variant, saved, torch.device("cpu"))


def fresh(settings: Recipe, storage: Path) -> LayeredModel:
    """A model that had no teacher."""
    # Its rate is a Distill step's: up in a twentieth of the steps, and then down to zero on a straight line.
    schedule = settings.schedule.model_copy(update={"type": "Linear"})
    artifact = trained(settings.model_copy(update={"schedule": schedule}), storage)
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


def main() -> None:
    """A row for each student, and the means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="*", default=["encoder", "decoder"], choices=["encoder", "decoder"])
    parser.add_argument("--students", nargs="*", default=list(USUAL), choices=[*STUDENTS, *FRESH])
    parser.add_argument("--teacher-steps", type=int, help="of each task's teacher, in place of those of STEPS")
    parser.add_argument("--student-steps", type=int)
    parser.add_argument("--batch", type=int, default=16, help="samples of a step")
    parser.add_argument("--learning-rate", default="2e-3", help="its peak")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where teachers and rows stay")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    measure.DECODING_BUDGET_SECONDS = 0.5  # of figures that are not printed
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for task in arguments.tasks:
            one_task(task, arguments, folder.resolve())


def one_task(task: str, arguments: argparse.Namespace, folder: Path) -> None:
    """Its rows, and their means."""
    text = tiny_shakespeare() if task == "decoder" else folder / "functions.jsonl"
    if task == "encoder":
        folder.mkdir(parents=True, exist_ok=True)
        if not text.exists():
            write_beginnings(text)
    of_teacher, of_student = arguments.teacher_steps or STEPS[task][0], arguments.student_steps or STEPS[task][1]
    plan = Plan(of_teacher, of_student, arguments.batch, arguments.learning_rate)
    students = [name for name in arguments.students if task == "encoder" or not name.startswith("bottleneck")]
    all_rows: dict[str, list[dict[str, float]]] = {name: [] for name in students}
    print(f"\n{task}: {of_teacher} steps of the teacher, {of_student} of a student", flush=True)
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        place = folder / f"{task}-{seed}-{of_teacher}-{plan.batch}-{plan.learning_rate}"
        for name in students:
            kept = place / f"{name.replace(' ', '-')}-{of_student}.json"
            if kept.exists():
                figures = json.loads(kept.read_text())
            else:
                with contextlib.redirect_stdout(io.StringIO()):
                    figures = row(measured(name, task, place, text=text, plan=plan, seed=seed))
                kept.write_text(json.dumps(figures))
            if not any(all_rows.values()):
                print("| seed | student | " + " | ".join(figures) + " |" + "\n|" + "---|" * (len(figures) + 2))
            all_rows[name].append(figures)
            print(
                f"| {seed} | {name} | " + " | ".join(f"{figure:.4g}" for figure in figures.values()) + " |", flush=True
            )
    print(f"\n{task}, means of {arguments.seeds} seeds (kept: from, to)")
    for name, rows in all_rows.items():
        means = " | ".join(f"{statistics.mean(one[key] for one in rows):.4g}" for key in rows[0])
        shares = [one["kept, %"] for one in rows]
        print(f"| {name} | {means} | {min(shares):.1f} to {max(shares):.1f} |", flush=True)


if __name__ == "__main__":
    main()
