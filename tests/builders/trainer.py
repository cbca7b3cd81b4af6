"""Tiny trainings for tests: in this process, or by real ranks in their own processes.

    recipe, image_recipe, encoder_recipe    a DecoderLM, ConvNet or Encoder that trains in moments
    train_here              one rank, in this process
    start_ranks, wait_for   real ranks, in their own processes; train_in_gang does both
    written, losses, largest_tensor    what a training left behind

As a program, this file is one rank: it does the runs in the given JSON file, one after another.
"""

import contextlib
import json
import os
import random
import re
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from builders.ports import free_port
from costopt import names
from costopt.schema.recipe import Recipe
from costopt.schema.replica import ReplicaSettings

ROOT = Path(__file__).resolve().parents[2]


def text_file(folder: Path, *, words: int = 4000, seed: int = 0) -> Path:
    """A text with structure: random words of a small vocabulary."""
    source = random.Random(seed)
    vocabulary = ["".join(source.choices("abcdefgh", k=source.randint(2, 6))) for _ in range(60)]
    path = folder / f"text-{seed}.txt"
    path.write_text(" ".join(source.choices(vocabulary, k=words)))
    return path


def image_file(folder: Path, *, count: int = 200) -> Path:
    """Images 8x8 of two classes: bright above, or bright below."""
    source = np.random.default_rng(0)
    labels = source.integers(0, 2, count)
    images = source.integers(0, 100, (count, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[4 * label : 4 * label + 4] += 100
    path = folder / "images.npz"
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


def recipe(path: Path, **changes: Any) -> Recipe:
    """A DecoderLM of two layers; `changes` are top-level fields of the recipe as plain data."""
    plain = {
        "model": {"type": "DecoderLM", "decoderLM": {"numLayers": 2, "numHeads": 2, "embeddingDim": 16,
                                                     "contextLength": 16, "dropoutPercent": 10}},
        "data": {"type": "Text", "text": {"path": str(path)}},
        "batch": {"globalBatchSize": 8, "microBatchSize": 2},
        "totalSteps": 8,
        "schedule": {"warmupSteps": 2},
        "evaluation": {"everySteps": 4, "maxSamples": 7},
        "checkpointing": {"everySteps": 4},
        **changes,
    }  # fmt: skip
    return Recipe.model_validate(plain)


def without_dropout() -> dict[str, Any]:
    """Model settings for which the number of ranks makes no difference."""
    layers = {"numLayers": 2, "numHeads": 2, "embeddingDim": 16, "contextLength": 16}
    return {"type": "DecoderLM", "decoderLM": layers}


def image_recipe(path: Path, **changes: Any) -> Recipe:
    """A ConvNet of two stages."""
    return recipe(
        path,
        model={"type": "ConvNet", "convNet": {"numStages": 2, "baseChannels": 4}},
        data={"type": "Images", "images": {"path": str(path)}},
        **changes,
    )


def encoder_recipe(path: Path, **changes: Any) -> Recipe:
    """An Encoder of two layers; `encoder` are settings of it besides, and `path` is labelled if it ends in .jsonl."""
    labelled = path.suffix == ".jsonl"
    encoder = {
        "task": "Classification" if labelled else "MaskedLM",
        "numLayers": 2,
        "numHeads": 2,
        "embeddingDim": 16,
        "contextLength": 16,
        **changes.pop("encoder", {}),
    }
    data = {"type": "LabelledText", "labelledText": {"path": str(path)}}
    return recipe(
        path,
        **{
            "model": {"type": "Encoder", "encoder": encoder},
            "data": data if labelled else {"type": "Text", "text": {"path": str(path)}},
            **changes,
        },
    )


@dataclass(frozen=True)
class Run:
    """One training of a rank."""

    recipe: dict[str, Any]
    storage: str
    stop_after: int | None = None
    """Ask for an early end, as SIGTERM would, after this many steps."""
    signal_after: int | None = None
    """Send the signal below to rank 0 after this many steps: a real one, to the real process."""
    signal: int = signal.SIGTERM
    told_in_save: int | None = None
    """SIGTERM comes to the last rank, for real, while it writes the checkpoint of this step, and is heard there."""
    killed_in_save: int | None = None
    """The last rank is killed with SIGKILL while it writes the checkpoint of this step."""
    overflow_at: int | None = None
    """In this step, the gradients of the last rank overflow."""
    begins_as: str | None = None
    """A storage, whose oldest checkpoint this one begins with: as if that training had been killed right after it."""
    watches_tensors: bool = False
    """Each rank writes down how many elements the largest tensor had that it made: see `largest_tensor`."""
    file_limit_bytes: int | None = None
    """The last rank cannot write files larger than this: its disk is full."""


def run(recipe: Recipe, storage: Path, **how: Any) -> Run:
    """A run from a recipe."""
    storage.mkdir(parents=True, exist_ok=True)
    return Run(recipe.to_plain(), str(storage), **how)


def do(run: Run) -> None:
    """Do one run; WORLD_SIZE and so on as in the environment. Ends as `costopt_trainer.training.loop.main` does."""
    from costopt_trainer.reporting import meter
    from costopt_trainer.storage import checkpoint_files
    from costopt_trainer.training import loop as train

    is_last = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1
    write = checkpoint_files.write_tensor_file

    running: list[Any] = []

    def write_and_be_disturbed(path: Path, *arguments: Any, **keywords: Any) -> Any:
        record = write(path, *arguments, **keywords)
        (step,) = re.findall(r"step-([0-9]{8})", str(path))
        if int(step) == run.killed_in_save:
            os.kill(os.getpid(), signal.SIGKILL)
        if int(step) == run.told_in_save:
            os.kill(os.getpid(), signal.SIGTERM)
            while not running[0].stop.asked:
                time.sleep(0.001)
        return record

    class Interrupted(train.Training):  # type: ignore[name-defined]  a test may have put its own there
        def take_step(self, *step: Any) -> None:
            running[:] = [self]
            if self.step + 1 == run.overflow_at and is_last:
                with overflowing(self.strategy, self.module):
                    super().take_step(*step)
            else:
                super().take_step(*step)
            if self.step == run.stop_after:
                self.stop.asked = True
            if self.step == run.signal_after and self.gang.rank == 0:
                os.kill(os.getpid(), run.signal)

    os.environ["OMP_NUM_THREADS"] = "1"  # the number of threads affects the last bits
    os.environ[names.ENV_STORAGE_DIR] = run.storage
    if run.file_limit_bytes is not None and is_last:
        resource.setrlimit(resource.RLIMIT_FSIZE, (run.file_limit_bytes, resource.RLIM_INFINITY))
    if run.begins_as is not None and os.environ.get("RANK", "0") == "0":  # the others wait for it
        oldest = min((Path(run.begins_as) / names.CHECKPOINTS_DIR).iterdir())
        shutil.copytree(oldest, Path(run.storage) / names.CHECKPOINTS_DIR / oldest.name)
    os.environ[names.ENV_PROGRESS_FILE] = str(Path(run.storage) / f"progress-{os.environ.get('RANK', '0')}.json")
    settings = ReplicaSettings(
        job_name="test", stage="train", num_nodes=1, processes_per_node=1, recipe=Recipe.model_validate(run.recipe)
    )
    if {run.told_in_save, run.killed_in_save} != {None} and is_last:
        checkpoint_files.write_tensor_file = write_and_be_disturbed
    before = train.Training, meter.REPORT_EVERY_SECONDS
    train.Training, meter.REPORT_EVERY_SECONDS = Interrupted, 0.0  # type: ignore[misc]  metrics.jsonl gets every step
    try:
        with contextlib.ExitStack() as watching:
            if run.watches_tensors:
                from builders.largest import Largest

                largest = watching.enter_context(Largest())
                file = Path(run.storage) / f"largest-{os.environ.get('RANK', '0')}"
                watching.callback(lambda: file.write_text(str(largest.elements)))
            train.main(settings)
    finally:
        train.Training, meter.REPORT_EVERY_SECONDS = before  # type: ignore[misc]
        checkpoint_files.write_tensor_file = write
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextlib.contextmanager
def overflowing(strategy: Any, module: Any) -> Iterator[None]:
    """Gradients of a step that are infinite in one place of what this rank holds, and on this rank alone."""
    accumulate = strategy.accumulate_gradients

    def overflow(*arguments: Any) -> Any:
        total = accumulate(*arguments)
        gradient = next(parameter.grad for parameter in module.parameters() if parameter.grad is not None)
        held = gradient.to_local() if hasattr(gradient, "to_local") else gradient
        held[(-1,) * held.dim()] = float("inf")
        return total

    strategy.accumulate_gradients = overflow
    try:
        yield
    finally:
        del strategy.accumulate_gradients


def train_here(recipe: Recipe, storage: Path, **how: Any) -> int:
    """Train in this process with one rank; returns the exit code: 0, or 143 if it was asked to end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        do(run(recipe, storage, **how))
    except SystemExit as end:
        return int(str(end.code))
    finally:
        signal.set_wakeup_fd(-1)
        for number, action in before.items():
            signal.signal(number, action)
    return 0


def start_ranks(runs: list[Run], world_size: int, folder: Path, **environment: str) -> list[subprocess.Popen[str]]:
    """Start one process per rank, as if each had a node of its own; each does all `runs` in order."""
    file = folder / f"runs-{secrets.token_hex(4)}.json"
    file.write_text(json.dumps([asdict(run) for run in runs]))
    return start_as_ranks(["builders.trainer", str(file)], world_size, **environment)


def start_as_ranks(program: list[str], world_size: int, **environment: str) -> list[subprocess.Popen[str]]:
    """Start a module with its arguments once per rank, as if each had a node of its own."""
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in (".", "trainer", "tests")),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": "1",
        **environment,
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", *program],
            env={**common, "RANK": str(rank), "LOCAL_RANK": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]


def wait_for(
    ranks: list[subprocess.Popen[str]], seconds: float = 800, *, said: list[str] | None = None
) -> tuple[list[int], list[str]]:
    """Exit codes and stderr of all ranks; none stays running. `said` gets their stdout."""
    try:
        outputs = [rank.communicate(timeout=seconds) for rank in ranks]
        errors = [error for _, error in outputs]
        if said is not None:
            said += [output for output, _ in outputs]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return [rank.returncode for rank in ranks], errors


def train_in_gang(runs: list[Run], world_size: int, folder: Path, **environment: str) -> tuple[list[int], list[str]]:
    """`start_ranks`, then `wait_for` them."""
    return wait_for(start_ranks(runs, world_size, folder, **environment))


def written(storage: Path, step: int) -> dict[str, bytes]:
    """Every tensor file of a checkpoint: weights, optimizer and random states, as bytes."""
    folder = storage / names.CHECKPOINTS_DIR / f"step-{step:08d}"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def largest_tensor(storage: Path) -> int:
    """The elements of the largest tensor that any rank made, of a run that watches tensors."""
    return max(int(file.read_text()) for file in storage.glob("largest-*"))


def losses(storage: Path) -> dict[int, str]:
    """Training loss by step, from metrics.jsonl."""
    lines = (storage / names.METRICS_FILE).read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def main() -> None:
    """One rank. A run that ends early, or in NotRetryable (printed on stderr), is followed by the next.

    Nothing may be unpickled here, neither messages of other ranks nor files in the storage.
    """
    from builders.no_pickle import refuse_pickles

    refuse_pickles()
    from costopt_trainer.errors import NotRetryable
    from costopt_trainer.shutdown import leave_at_once
    from costopt_trainer.training import loop as train
    from costopt_trainer.training import process_group as gang

    class Lasting(gang.ProcessGroup):
        def leave(self) -> None:
            pass  # the next run needs it

    joined: list[gang.ProcessGroup] = []

    def join_once() -> gang.ProcessGroup:
        if not joined:
            print("joining", flush=True)
            joined.append(Lasting(**vars(gang.join_process_group())))
        return joined[0]

    train.join_process_group = join_once
    runs = [Run(**plain) for plain in json.loads(Path(sys.argv[1]).read_text())]
    for number, one in enumerate(runs):
        try:
            do(one)
        except NotRetryable as error:
            print(f"{error.reason}: {error}", file=sys.stderr)
            if number == len(runs) - 1:
                leave_at_once(78)
        except SystemExit as end:
            if number == len(runs) - 1:
                leave_at_once(int(str(end.code)))
    gang.ProcessGroup.leave(joined[0])


if __name__ == "__main__":
    main()
