"""How long a gang takes to train again after a rank was killed, and whether its weights come out the same.

    python benchmarks/restart_times.py [--kills 20] [--seed 0]

Two replicas with a rank each, as real launchers on this machine, train a small DecoderLM. Again and again a random rank
is killed with SIGKILL at a random moment of training, in a quarter of all cases another one at a random moment of the
start-up that follows, and the time is taken from there until the gang reports steps again. At the end the model is
compared, bit for bit, with that of an undisturbed run of the same launchers, made first.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "trainer"), str(ROOT / "tests")]

from builders.launch import Replica, replica  # noqa: E402
from builders.ports import free_port  # noqa: E402
from builders.trainer import recipe, text_file  # noqa: E402
from builders.waiting import wait_for  # noqa: E402

IN_PLACE = 100
"""Restarts in a row that are allowed: kills are what is measured here."""
TRAINS_SECONDS = 3.0
"""A kill comes within so many seconds of training, at a random moment."""
STARTS_SECONDS = 4.0
"""Another one, in a quarter of all cases, within so many seconds of the start-up that follows."""
AGAIN = 0.25


@dataclass(frozen=True)
class Kill:
    """One kill."""

    rank: int
    trained: bool
    """Whether the ranks took steps already; else they were starting up."""
    seconds: float
    """Until steps were reported again."""


@dataclass(frozen=True)
class Result:
    """All of it."""

    kills: list[Kill]
    restarts: int
    """As the replicas themselves count."""
    same_weights: bool

    @property
    def median_seconds(self) -> float:
        """From a kill to the next report of steps."""
        return statistics.median(kill.seconds for kill in self.kills)


@contextmanager
def gang(folder: Path, training: dict[str, Any], replicas: int = 2) -> Iterator[list[Replica]]:
    """Running launchers with one storage."""
    settings = {
        "jobName": "demo",
        "stage": "train",
        "numNodes": replicas,
        "processesPerNode": 1,
        "recipe": training,
        "inPlaceRestarts": IN_PLACE,
    }
    storage, port = {"COSTOPT_STORAGE_DIR": str(folder / "storage")}, free_port()
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                replica(folder / str(index), None, index=index, port=port, settings=settings, environment=storage)
            )
            for index in range(replicas)
        ]


def rank_of(launcher: Replica) -> int | None:
    """Process id of the launcher's rank; None: it has none now."""
    children = Path(f"/proc/{launcher.process.pid}/task/{launcher.process.pid}/children").read_text().split()
    return int(children[0]) if children else None


def restarts_told(launcher: Replica) -> int:
    """Restarts in place that the ranks have reported steps after; -1: they have reported none at all."""
    try:
        told = json.loads((launcher.folder / "progress.json").read_text())
    except OSError:
        return -1
    return int(told.get("inPlaceRestarts", 0))


def kill_again_and_again(launchers: list[Replica], kills: int, chance: random.Random) -> list[Kill]:
    """Kill `kills` ranks, each at a random moment of training, or of the start-up that follows a kill."""
    done: list[Kill] = []
    wait_for(lambda: restarts_told(launchers[0]) == 0)
    while len(done) < kills:
        time.sleep(chance.uniform(0, TRAINS_SECONDS))
        number, rounds, trained = kill_one(launchers, chance)
        killed = time.monotonic()
        if chance.random() < AGAIN:  # and another, while they start up: what counts is the time from the last one
            wait_for(lambda number=number, rounds=rounds: rounds_of(launchers[number]) > rounds)
            time.sleep(chance.uniform(0, STARTS_SECONDS))
            number, rounds, trained = kill_one(launchers, chance)
            killed = time.monotonic()
        wait_for(lambda rounds=rounds: is_over(launchers) or restarts_told(launchers[0]) > rounds)
        if is_over(launchers):
            raise SystemExit(f"training ended after {len(done)} kills; raise --steps. {launchers[0].notes[-2000:]}")
        done.append(Kill(number, trained, time.monotonic() - killed))
    return done


def kill_one(launchers: list[Replica], chance: random.Random) -> tuple[int, int, bool]:
    """Kill a random rank: which one, after how many restarts, and whether it took steps already."""
    number = chance.randrange(len(launchers))
    rank = wait_for(lambda: rank_of(launchers[number]))
    rounds = rounds_of(launchers[number])
    trained = restarts_told(launchers[0]) >= rounds
    os.kill(rank, signal.SIGKILL)
    return number, rounds, trained


def is_over(launchers: list[Replica]) -> bool:
    """Whether a launcher has ended."""
    return any(launcher.process.poll() is not None for launcher in launchers)


def rounds_of(launcher: Replica) -> int:
    """How often it has started its ranks anew."""
    return launcher.notes.count("starting all ranks anew in place")


def measure(kills: int, seed: int, folder: Path, *, steps: int) -> Result:
    """Train undisturbed, and with `kills` kills."""
    training = recipe(
        text_file(folder),
        totalSteps=steps,
        evaluation={"everySteps": 50, "maxSamples": 8},
        checkpointing={"everySteps": 25},
    ).to_plain()
    with gang(folder / "whole", training) as launchers:
        ended(launchers)
    with gang(folder / "killed", training) as launchers:
        found = kill_again_and_again(launchers, kills, random.Random(seed))
        ended(launchers)
        restarts = restarts_told(launchers[0])
    whole, killed = (
        (folder / name / "storage/artifacts/model/model.safetensors").read_bytes() for name in ("whole", "killed")
    )
    return Result(found, restarts, whole == killed)


def ended(launchers: list[Replica]) -> None:
    """All end well."""
    codes = [launcher.wait(3600) for launcher in launchers]
    if any(codes):
        raise SystemExit(f"launchers ended with {codes}: {launchers[0].notes[-2000:]}")


def main() -> None:
    """Measure, and print a line per kill and the median."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000, help="of each run: enough that it outlasts the kills")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.kills, options.seed, Path(folder), steps=options.steps)
    for kill in result.kills:
        when = "training" if kill.trained else "starting up"
        print(f"rank {kill.rank} killed while {when}: training again after {kill.seconds:.1f} s")
    print(f"median {result.median_seconds:.1f} s, longest {max(kill.seconds for kill in result.kills):.1f} s")
    print(
        f"restarts in place: {result.restarts}; weights {'equal' if result.same_weights else 'DIFFERENT'}, bit for bit"
    )
    if not result.same_weights:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
