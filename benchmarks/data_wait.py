"""How long a step waits for its samples: read when asked for, or ahead by one and by four threads.

    make bench, or: PYTHONPATH=.:trainer python benchmarks/data_wait.py [--steps 40] [--step-ms 20]

Windows of 1,025 tokens are read at random places of a file of 256 MiB, which is put out of the system's cache before
each turn, as on the first epoch. Between two steps the consumer sleeps, as a host does whose device computes.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from costopt_trainer.data import Batch, sample_indices
from costopt_trainer.data.prefetch import prepared_ahead
from costopt_trainer.data.windows import windows_at

CONTEXT, SAMPLES, TOKENS = 1024, 64, 2**27


def make_tokens(path: Path) -> None:
    """Random tokens, two bytes each."""
    source = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(TOKENS // 2**22):
            file.write(source.integers(0, 50000, 2**22, dtype=np.uint16).tobytes())
        file.flush()
        os.fsync(file.fileno())


def forget(path: Path) -> None:
    """Put the file out of the system's cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reader(path: Path, turn: int) -> Callable[[int], Batch]:
    """Reads the samples of a step, from a fresh map."""
    tokens = np.memmap(path, dtype=np.uint16, mode="r")
    count = (TOKENS - 1) // CONTEXT
    return lambda step: windows_at(
        tokens,
        CONTEXT,
        sample_indices(seed=turn, position=step * SAMPLES, count=SAMPLES, num_samples=count),
        CONTEXT + 1,
    )


def waits(path: Path, turn: int, workers: int, steps: int, step_s: float) -> list[float]:
    """Seconds that each step but the first waited; workers 0: read when asked for."""
    forget(path)
    read = reader(path, turn)
    found = []
    if workers == 0:
        for step in range(steps):
            began = time.perf_counter()
            read(step)
            found.append(time.perf_counter() - began)
            time.sleep(step_s)
    else:
        with prepared_ahead(read, range(steps), workers=workers) as prepared:
            for _ in range(steps):
                began = time.perf_counter()
                next(prepared)
                found.append(time.perf_counter() - began)
                time.sleep(step_s)
    return found[1:]


def main() -> None:
    """Measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--step-ms", type=float, default=20)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    found: dict[int, list[float]] = {0: [], 1: [], 4: []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens"
        make_tokens(path)
        for turn in range(given.rounds):
            for workers, results in found.items():
                results.extend(waits(path, turn, workers, given.steps, given.step_ms / 1000))
    print(f"steps of {given.step_ms:g} ms; a step waits for its samples, ms: median, 90 of 100, longest")
    for workers, results in found.items():
        name = f"{workers} ahead" if workers else "when asked for"
        ninth = statistics.quantiles(results, n=10)[-1]
        print(f"{name:15} {1000 * statistics.median(results):8.2f} {1000 * ninth:8.2f} {1000 * max(results):8.2f}")


if __name__ == "__main__":
    main()
