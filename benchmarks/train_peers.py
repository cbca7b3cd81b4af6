"""The same Hugging Face model, samples and batch under our trainer and its peers: tokens per second and peak memory.

    make bench-train, or: PYTHONPATH=.:trainer:tests python benchmarks/train_peers.py [--rounds 3] [--steps 30]
        [--threads 1 2] [--ranks 1] [--width 128] [--layers 4]

Peers: a loop written by hand for this one case, Trainer of transformers, and Fabric of Lightning; all with the same
fused AdamW, clipping and batches, without evaluations, checkpoints and logs. In each round all run in one process, each
on a thread of its own, and take turns of a few steps: one computes at a time. Tokens per second are of the median step.
Alone in a process, each takes a few steps more: the first begins so many seconds after everything is imported and the
tokens are made, and the peak is what torch's allocator gave out. Last losses must be near each other, or the
comparison is refused: Trainer and Fabric get whole windows, as the library shifts labels by itself, and so one target
less for each.

With `--ranks 2` each peer has two processes (DDP over gloo), which share out each batch; give them a thread each.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measured.llama import write_config

PEERS = ("costopt", "by hand", "transformers Trainer", "Lightning Fabric")
BATCH, CONTEXT = 8, 128
LEARNING_RATE, CLIP = 1e-3, 1.0
WARM_UP = 5
TURN = 5
"""Steps that each takes before it is the next one's turn."""
MEMORY_STEPS = 3
"""Of a run alone, which is slow, since it counts memory."""
LOSS_TOLERANCE = 0.15


class Turns:
    """Who computes; the others wait."""

    def __init__(self, *peers: str) -> None:
        self._waiting, self._changed = list(peers), threading.Condition()

    def wait_for(self, peer: str) -> None:
        """Return when it is the turn of `peer`."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting[0] == peer)

    def pass_on(self, *, leave: bool = False) -> None:
        """It is the turn of the next one; who leaves gets none any more."""
        with self._changed:
            peer = self._waiting.pop(0)
            if not leave:
                self._waiting.append(peer)
            self._changed.notify_all()


class Steps:
    """When the steps of one peer begin, and how long they take."""

    def __init__(self, peer: str, turns: Turns) -> None:
        self._peer, self._turns = peer, turns
        self.seconds: list[float] = []
        self.first: float | None = None
        self._since = time.perf_counter()

    def begins(self) -> None:
        """Called at the beginning of each step; waits for the others when their turn has come."""
        now = time.perf_counter()
        if self.first is None:
            self.first = now - self._since
        else:
            self.seconds.append(now - self._since)
            if len(self.seconds) % TURN == 0:
                self._turns.pass_on()
                self._turns.wait_for(self._peer)
        self._since = time.perf_counter()


def ranks() -> tuple[int, int]:
    """Which of how many processes this one is."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def shared(model: Any) -> Any:
    """The model, whose gradients all ranks have the mean of."""
    from torch.nn.parallel import DistributedDataParallel

    return model if ranks()[1] == 1 else DistributedDataParallel(model)


def recipe_of(config: Path, steps: int) -> Any:
    """The recipe of it."""
    from costopt.schema.recipe import Recipe

    return Recipe.model_validate(
        {
            "model": {"type": "HuggingFace", "huggingFace": {"config": str(config), "contextLength": CONTEXT}},
            "data": {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 2_000_000}},
            "batch": {"globalBatchSize": BATCH, "microBatchSize": BATCH // ranks()[1]},
            "totalSteps": steps,
            "optimizer": {"learningRate": str(LEARNING_RATE), "weightDecay": "0", "adamW": {"beta2": "0.999"}},
            "schedule": {"minLearningRate": str(LEARNING_RATE)},
            "evaluation": {"everySteps": steps, "maxSamples": 1},
            "checkpointing": {"everySteps": steps},
        }
    )


def run_costopt(recipe: Any, storage: Path, steps: Steps, gang: Any) -> float:
    """Our loop, from the start; the last loss."""
    from costopt_trainer.reporting.meter import Meter
    from costopt_trainer.training.loop import run_steps
    from costopt_trainer.training.stopping import Stop
    from costopt_trainer.training.training import Training

    class Observed(Training):
        def take_step(self, *step: Any) -> None:
            steps.begins()
            super().take_step(*step)

        def save(self) -> None:
            """Nobody else saves either."""

    training = Observed(recipe, storage, gang, Meter(), Stop(), job="benchmark")
    training.resume()
    run_steps(training)
    return float(training.progress.loss or "nan")


def batches_of(recipe: Any, storage: Path) -> Iterator[tuple[Any, Any]]:
    """The same samples in the same order, one batch a step, or this rank's part of it."""
    from costopt_trainer.data import load_data

    rank, size = ranks()

    data = load_data(recipe.data, context_length=CONTEXT, cache_dir=storage / "cache", own_folder=storage)
    for step in range(recipe.steps):
        whole = data.train_batches(seed=recipe.seed, position=step * BATCH, count=BATCH, batch_size=BATCH)[0]
        yield whole[0].chunk(size)[rank], whole[1].chunk(size)[rank]


def fresh_model(config: Path) -> Any:
    """The library's own, with fresh weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(config))


def run_by_hand(recipe: Any, storage: Path, steps: Steps, config: Path) -> float:
    """A loop for this one case."""
    import torch
    import torch.nn.functional as F

    model = shared(fresh_model(config))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    loss = torch.zeros(())
    for inputs, targets in batches_of(recipe, storage):
        steps.begins()
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss)


def run_trainer(recipe: Any, storage: Path, steps: Steps, config: Path) -> float:
    """Trainer of transformers."""
    from torch.utils.data import IterableDataset
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Samples(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[dict[str, Any]]:
            # It takes every second batch of each rank's samples by itself.
            for inputs, _ in batches_of(recipe, storage):
                for _ in range(ranks()[1]):
                    yield from ({"input_ids": row, "labels": row} for row in inputs)

    class Notes(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            steps.begins()

    arguments = TrainingArguments(
        output_dir=str(storage / "trainer"),
        per_device_train_batch_size=BATCH // ranks()[1],
        max_steps=recipe.steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=CLIP,
        optim="adamw_torch_fused",
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        ddp_find_unused_parameters=False,
        accelerator_config={"dispatch_batches": False, "split_batches": False},
    )
    trainer = Trainer(model=fresh_model(config), args=arguments, train_dataset=Samples(), callbacks=[Notes()])
    trainer.train()
    return _last_loss(trainer.model, recipe, storage)


def run_fabric(recipe: Any, storage: Path, steps: Steps, config: Path) -> float:
    """Fabric of Lightning."""
    import torch
    from lightning.fabric import Fabric

    size = ranks()[1]
    fabric = Fabric(accelerator="cpu", devices=size, strategy="auto" if size == 1 else "ddp")
    fabric.launch()
    model = fresh_model(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    model, optimizer = fabric.setup(model, optimizer)
    for inputs, _ in batches_of(recipe, storage):
        steps.begins()
        loss = model(input_ids=inputs, labels=inputs, use_cache=False).loss
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=CLIP, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return _last_loss(model, recipe, storage)


def _last_loss(model: Any, recipe: Any, storage: Path) -> float:
    import torch

    inputs = list(batches_of(recipe, storage))[-1][0]
    model.eval()
    with torch.no_grad():
        return float(model(input_ids=inputs, labels=inputs).loss)


def child(peers: list[str], threads: int, num_steps: int, config: Path, storage: Path) -> None:
    """These peers in this process, or one of several; the first prints a line of JSON."""
    # Imported, and used once, before anything is measured.
    import lightning.fabric  # noqa: F401
    import torch
    from transformers import Trainer  # noqa: F401

    import costopt_trainer.training.loop  # noqa: F401
    from benchmarks.measured.allocations import Allocations
    from costopt_trainer.training.process_group import ALONE, join_process_group

    torch.set_num_threads(threads)
    gang = ALONE if ranks()[1] == 1 else join_process_group()  # all peers find torch's group there
    recipe = recipe_of(config, num_steps)
    fresh_model(config)
    runs: dict[str, Callable[..., float]] = {
        "costopt": lambda recipe, folder, steps, _config: run_costopt(recipe, folder, steps, gang),
        "by hand": run_by_hand,
        "transformers Trainer": run_trainer,
        "Lightning Fabric": run_fabric,
    }
    if gang.rank == 0:
        next(batches_of(recipe, storage))  # tokens are made
    gang.sum_integers(1)
    alone, allocations, turns = len(peers) == 1, Allocations(), Turns(*peers)
    found: dict[str, dict[str, Any]] = {}

    def run(peer: str) -> None:
        turns.wait_for(peer)
        steps = Steps(peer, turns)
        loss = runs[peer](recipe, storage, steps, config)
        found[peer] = {"first": steps.first, "seconds": steps.seconds[WARM_UP:], "loss": loss}
        turns.pass_on(leave=True)

    if alone:
        allocations.start()
        run(peers[0])
        found[peers[0]]["peak"] = allocations.stop()
    else:
        threading.excepthook = lambda failed: os._exit(_told(failed))
        running = [threading.Thread(target=run, args=(peer,)) for peer in peers]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    if gang.rank == 0:
        print("result " + json.dumps(found), flush=True)
    gang.sum_integers(1)
    os._exit(0)


def _told(failed: threading.ExceptHookArgs) -> int:
    sys.excepthook(failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback)
    return 1


def measure(
    peers: list[str], threads: int, steps: int, config: Path, storage: Path, *, size: int
) -> dict[str, dict[str, Any]]:
    """What the first `child` of `size` prints, by peer."""
    arguments = [",".join(peers), str(threads), str(steps), str(config), str(storage)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TRANSFORMERS_OFFLINE": "1"}
    storage.mkdir()
    running = [
        subprocess.Popen(
            [sys.executable, __file__, "--child", *arguments],
            env={**environment, **place},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in places(size)
    ]
    printed = [process.communicate() for process in running]
    lines = [line for line in printed[0][0].splitlines() if line.startswith("result ")]
    if not lines:
        sys.exit(f"{', '.join(peers)} failed: {printed[0][1][-2000:]}")
    found: dict[str, dict[str, Any]] = json.loads(lines[-1].removeprefix("result "))
    return found


def places(size: int) -> list[dict[str, str]]:
    """Variables of each of `size` ranks, as torch's launcher sets them."""
    if size == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    same = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "peers"}
    same |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**same, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def main() -> None:
    """Measure, compare, print."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2].split(","), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]), Path(sys.argv[6]))
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--steps", type=int, default=30)
    options.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    options.add_argument("--ranks", type=int, default=1)
    options.add_argument("--width", type=int, default=128)
    options.add_argument("--layers", type=int, default=4)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "model")
        write_config(config, width=given.width, layers=given.layers, context=CONTEXT)
        for threads in given.threads:
            found: dict[str, list[dict[str, Any]]] = {peer: [] for peer in PEERS}
            for number in range(given.rounds):
                in_turns = [*PEERS[number % len(PEERS) :], *PEERS[: number % len(PEERS)]]
                storage = Path(folder, f"turns-{threads}-{number}")
                measured = measure(in_turns, threads, given.steps, config, storage, size=given.ranks)
                for peer, rounds in found.items():
                    rounds.append(measured[peer])
            for peer, rounds in found.items():
                storage = Path(folder, f"alone-{threads}-{PEERS.index(peer)}")
                alone = measure([peer], threads, MEMORY_STEPS, config, storage, size=given.ranks)[peer]
                rounds[:] = [{**each, "peak": alone["peak"], "first": alone["first"]} for each in rounds]
            table(found, f"{given.ranks} ranks, {threads} threads" if given.ranks > 1 else f"{threads} threads")


def table(found: dict[str, list[dict[str, Any]]], where: str) -> None:
    """Print it; exits if a peer learns something else."""
    losses = {peer: statistics.median(each["loss"] for each in rounds) for peer, rounds in found.items()}
    if max(losses.values()) - min(losses.values()) > LOSS_TOLERANCE:
        sys.exit(f"the losses differ: {losses}")
    by_hand = statistics.median(second for each in found["by hand"] for second in each["seconds"])
    print(f"| {where} | tokens/s | to the loop by hand | first step after, s | peak memory, MiB | last loss |")
    print("|---|---|---|---|---|---|")
    for peer, rounds in found.items():
        seconds = statistics.median(second for each in rounds for second in each["seconds"])
        peak = statistics.median(each["peak"] for each in rounds) / 2**20
        first = statistics.median(each["first"] for each in rounds)
        print(
            f"| {peer} | {BATCH * CONTEXT / seconds:,.0f} | {by_hand / seconds:.3f} | {first:.2f} | {peak:.0f} | "
            f"{losses[peer]:.3f} |"
        )


if __name__ == "__main__":
    main()
