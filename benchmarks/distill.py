"""A student of half the layers beside its teacher: what it keeps, and how much faster it is.

    COSTOPT_DATA_DIR=... PYTHONPATH=.:trainer python benchmarks/distill.py [--seeds 3] [--steps 1000] [--tasks decoder]

For each seed a teacher of six layers is trained, and of it two variants are made by the steps that a job would name: a
student of every other layer that is taught (Distill), and the same student that learns from the data alone
(labelsPercent: 100), for as many steps. Each is measured beside its teacher as any variant is.

- "decoder" tells the next token of Tiny Shakespeare (`tinyshakespeare.txt` below COSTOPT_DATA_DIR), with 768 tokens.
- "encoder" tells from which of eight packages of Python's library a piece of source is, byte by byte.

Kept is how much of what the teacher has learned the student has: of a decoder, by how much its loss is below that of
guessing, to the teacher's; of an encoder, its accuracy to the teacher's. DistilBERT, with 40 % fewer parameters, keeps
97 % of its teacher's score on GLUE and is 60 % faster (arXiv 1910.01108). A teacher that has not learned its fill is
overtaken by its student, which says nothing: give it enough steps.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from costopt.schema.compression import Variant
from costopt.schema.recipe import Recipe
from costopt.schema.variant_report import VariantStatus
from costopt_trainer.compress.run import make_variant
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training

PACKAGES = ("asyncio", "concurrent", "email", "importlib", "json", "multiprocessing", "unittest", "xml")
PIECE, MOST_PIECES = 120, 700
SIZES = {"numLayers": 6, "numHeads": 4, "embeddingDim": 96}
STUDENTS: dict[str, dict[str, Any]] = {
    "taught": {"hiddenPercent": 10},
    "from the data alone": {"labelsPercent": 100},
}


def pieces_of_source() -> Iterator[dict[str, str]]:
    """Pieces of the packages' modules, as many of each as there are of the smallest, or MOST_PIECES."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for package in PACKAGES:
        found = []
        for file in sorted((library / package).rglob("*.py")):
            source = file.read_text(encoding="utf-8", errors="ignore")
            found += [source[start : start + PIECE] for start in range(0, len(source) - PIECE, PIECE)]
        every = max(1, len(found) // MOST_PIECES)
        yield from ({"text": piece, "label": package} for piece in found[::every][:MOST_PIECES] if piece.strip())


def recipe(task: str, text: Path, steps: int, seed: int) -> Recipe:
    """What a teacher is trained by."""
    models = {
        "decoder": {"type": "DecoderLM", "decoderLM": {**SIZES, "contextLength": 64}},
        "encoder": {"type": "Encoder", "encoder": {**SIZES, "contextLength": PIECE, "task": "Classification"}},
    }
    data = {
        "decoder": {
            "type": "Text",
            "text": {"path": str(text)},
            "tokenizer": {"type": "BPE", "vocabularySize": 768},
        },
        "encoder": {"type": "LabelledText", "labelledText": {"path": str(text)}},
    }
    return Recipe.model_validate(
        {
            "model": models[task],
            "data": data[task],
            "batch": {"globalBatchSize": 16, "microBatchSize": 16},
            "totalSteps": steps,
            "optimizer": {"learningRate": "2e-3"},
            "schedule": {"warmupSteps": steps // 10},
            "evaluation": {"everySteps": steps, "maxSamples": 512},
            "checkpointing": {"everySteps": steps, "mode": "Sync"},
            "seed": seed,
        }
    )


def train(settings: Recipe, folder: Path) -> None:
    """Leave a teacher in the folder."""
    training = Training(settings, folder, ALONE, Meter(), Stop(), job="benchmark")
    training.resume()
    run_steps(training)
    training.finish()


def made(settings: Recipe, folder: Path, steps: int, how: dict[str, Any]) -> VariantStatus:
    """The report on a student."""
    distill = {"student": "EveryOtherLayer", "steps": steps, "learningRate": "2e-3", **how}
    variant = Variant.model_validate(
        {"name": "student", "measureSeconds": 12, "steps": [{"type": "Distill", "distill": distill}]}
    )
    report = make_variant(variant, settings, folder)
    assert report is not None
    return report


def kept(report: VariantStatus) -> float:
    """Percent of what the teacher has learned."""
    student, teacher = report.measured, report.baseline
    if student.validation_accuracy_permille is not None and teacher.validation_accuracy_permille:
        return 100 * student.validation_accuracy_permille / teacher.validation_accuracy_permille
    guess = float(report.trivial_loss or "nan")
    return 100 * (guess - float(student.validation_loss)) / (guess - float(teacher.validation_loss))


def quality(report: VariantStatus, of: str) -> str:
    """Accuracy, or loss."""
    measured = report.baseline if of == "teacher" else report.measured
    permille = measured.validation_accuracy_permille
    return f"{measured.validation_loss}" if permille is None else f"{permille / 10:.1f} %"


def main() -> None:
    """A row for each student, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--student-steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tasks", nargs="*", default=["decoder"])
    arguments = parser.parse_args()
    shakespeare = Path(os.environ.get("COSTOPT_DATA_DIR", "../shared/data")) / "tinyshakespeare.txt"
    torch.set_num_threads(arguments.threads)
    print(
        "| task | seed | student | parameters | teacher | student's | kept | speed |\n|---|---|---|---|---|---|---|---|"
    )
    for task in arguments.tasks:
        if task == "decoder" and not shakespeare.exists():
            print(f"skipped: {shakespeare} is missing; set COSTOPT_DATA_DIR to the folder that has it")
            continue
        shares: dict[str, list[float]] = {name: [] for name in STUDENTS}
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                text = shakespeare
                if task == "encoder":
                    text = folder / "sources.jsonl"
                    text.write_text("".join(json.dumps(piece) + "\n" for piece in pieces_of_source()))
                settings = recipe(task, text, arguments.steps, seed)
                with contextlib.redirect_stdout(io.StringIO()):
                    train(settings, folder)
                for student, how in STUDENTS.items():
                    with contextlib.redirect_stdout(io.StringIO()):
                        report = made(settings, folder, arguments.student_steps, how)
                    shares[student].append(kept(report))
                    fewer = 100 * (1 - report.measured.parameters / report.baseline.parameters)
                    print(
                        f"| {task} | {seed} | {student} | {fewer:.0f} % fewer | {quality(report, 'teacher')} | "
                        f"{quality(report, 'student')} | {shares[student][-1]:.1f} % | {report.speedup} x |",
                        flush=True,
                    )
        told = ", ".join(f"{name} {statistics.mean(share):.1f} %" for name, share in shares.items())
        print(f"\n{task}: kept on average: {told}\n", flush=True)


if __name__ == "__main__":
    main()
