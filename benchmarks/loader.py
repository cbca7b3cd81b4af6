"""Samples a second of our loader against datasets with torch's DataLoader and mosaicml-streaming, and their resumes.

    make bench-data, or: PYTHONPATH=.:trainer python benchmarks/loader.py [--megabytes 16] [--rounds 7]

All give the same work: windows of a text's tokens, shuffled, as inputs and targets (int64, shifted by one) in batches,
from disk. They run in one process and take turns of so many batches; the ratio is of medians. A resume is timed from
a new loader to its first batch at a sample. mosaicml-streaming is a peer where it can be imported: it asks for
numpy < 2.2 and transformers < 5, so that it does not install beside ours, but it can be imported all the same:

    pip install --no-deps --target FOLDER mosaicml-streaming torchvision Brotli zstd python-snappy cramjam catalogue \\
        boto3 botocore jmespath s3transfer paramiko matplotlib google-cloud-storage oci azure-core azure-identity
    PYTHONPATH=.:trainer:FOLDER python benchmarks/loader.py
"""

import argparse
import contextlib
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from costopt.schema.data import DataSettings
from costopt_trainer.data import load_data
from costopt_trainer.data.prefetch import prepared_ahead

CONTEXT, BATCH, SEED = 128, 64, 7
RESUMES = (10, 10_000_000)
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


def text(path: Path, num_bytes: int) -> None:
    """The files of Python's own standard library, as often as need be."""
    files = [file.read_bytes() for file in sorted(Path(os.__file__).parent.glob("*.py"))]
    whole = b"\n".join(files)
    path.write_bytes((whole * (num_bytes // len(whole) + 1))[:num_bytes].decode(errors="ignore").encode())


class Costopt:
    """`load_data`, and steps prepared ahead as the training does."""

    def __init__(self, path: Path, folder: Path) -> None:
        plain = {"type": "Text", "text": {"path": str(path)}, "validationPercent": 1}
        self._settings, self._cache = DataSettings.model_validate(plain), folder / "cache"
        self.data = load_data(self._settings, context_length=CONTEXT, cache_dir=self._cache)
        (self.tokens,) = self._cache.glob("*/train.bin")

    def batches(self, start: int) -> Batches:
        def step(position: int) -> Any:
            return self.data.train_batches(seed=SEED, position=position, count=BATCH, batch_size=BATCH)[0]

        with prepared_ahead(step, count(start, BATCH)) as prepared:
            yield from prepared


class Datasets:
    """A dataset of windows in Arrow, mapped into memory, shuffled by torch's own sampler."""

    def __init__(self, tokens: np.ndarray, folder: Path, workers: int) -> None:
        import datasets
        import pyarrow as pa

        datasets.disable_progress_bars()
        self._workers, where = workers, folder / "arrow"
        if not where.exists():
            column = pa.FixedSizeListArray.from_arrays(pa.array(windows(tokens).reshape(-1)), CONTEXT + 1)
            datasets.Dataset(pa.table({"tokens": column})).save_to_disk(str(where))
        self._data = datasets.load_from_disk(str(where)).with_format("numpy")

    def batches(self, start: int) -> Batches:
        from torch.utils.data import BatchSampler, DataLoader, RandomSampler

        size, batches_in_epoch = len(self._data), len(self._data) // BATCH
        for epoch in count(start // size):
            order = RandomSampler(self._data, generator=torch.Generator().manual_seed(SEED + epoch))
            skipped = (start % size) // BATCH if epoch == start // size else 0
            numbers = islice(BatchSampler(order, BATCH, drop_last=True), skipped, batches_in_epoch)
            # A batch is asked for as a whole: twice as fast as by samples.
            loader: Any = DataLoader(
                self._data, sampler=numbers, batch_size=None, collate_fn=shifted, num_workers=self._workers
            )
            yield from loader


class Streaming:
    """mosaicml-streaming's own files, on this machine, shuffled by its default algorithm."""

    def __init__(self, tokens: np.ndarray, folder: Path, workers: int) -> None:
        from streaming import MDSWriter

        self._workers, self._folder = workers, folder / "mds"
        if not self._folder.exists():
            with MDSWriter(out=str(self._folder), columns={"tokens": f"ndarray:{tokens.dtype}"}) as out:
                for window in windows(tokens):
                    out.write({"tokens": window})

    def batches(self, start: int) -> Batches:
        from streaming import StreamingDataLoader, StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        data = StreamingDataset(local=str(self._folder), shuffle=True, shuffle_seed=SEED, batch_size=BATCH)
        loader = StreamingDataLoader(data, batch_size=BATCH, collate_fn=stacked, num_workers=self._workers)
        if start:
            state = {
                "epoch": start // data.num_samples,
                "sample_in_epoch": start % data.num_samples // BATCH * BATCH,
                "num_canonical_nodes": 1,
                "shuffle_seed": SEED,
                "initial_physical_nodes": 1,
            }
            data.load_state_dict(state)
        while True:
            yield from loader


def installed(module: str) -> bool:
    """Whether a peer is there; if not, that is said."""
    found = importlib.util.find_spec(module) is not None
    if not found:
        print(f"without {module}, which is not installed")
    return found


def windows(tokens: np.ndarray) -> np.ndarray:
    """All windows, (N, CONTEXT + 1)."""
    return np.lib.stride_tricks.sliding_window_view(tokens, CONTEXT + 1)[::CONTEXT].copy()


def stacked(samples: list[dict[str, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of single samples."""
    return shifted({"tokens": np.stack([sample["tokens"] for sample in samples])})


def shifted(batch: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """What all loaders give."""
    pairs = torch.from_numpy(batch["tokens"].astype(np.int64))
    return pairs[:, :-1].contiguous(), pairs[:, 1:].contiguous()


def measure(loaders: dict[str, Callable[[int], Batches]], rounds: int, batches: int) -> dict[str, list[float]]:
    """Samples a second of each, in turns."""
    running = {name: begin(0) for name, begin in loaders.items()}
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(rounds + 1):
        for name, own in running.items():
            began, seen = time.perf_counter(), 0
            for inputs, targets in islice(own, batches):
                if inputs.shape != (BATCH, CONTEXT) or not torch.equal(inputs[:, 1:], targets[:, :-1]):
                    sys.exit(f"{name} gives other batches")
                seen += len(inputs)
            if number:  # the first is for warming up
                found[name].append(seen / (time.perf_counter() - began))
    return found


def resumed(begin: Callable[[int], Batches], position: int) -> float:
    """Seconds from a new loader to its first batch."""
    began = time.perf_counter()
    own = begin(position)
    next(own)
    took = time.perf_counter() - began
    with contextlib.suppress(Exception):
        own.close()  # type: ignore[attr-defined]
    return took


def main() -> None:
    """Measure, compare, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--megabytes", type=int, default=16)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--batches", type=int, default=200)
    options.add_argument("--resumes", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text(folder / "text.txt", given.megabytes << 20)
        ours = Costopt(folder / "text.txt", folder)
        tokens = np.fromfile(ours.tokens, dtype=np.uint8)
        loaders: dict[str, Callable[[int], Batches]] = {"costopt": ours.batches}
        for workers in (0, 1) if installed("datasets") else ():
            loaders[f"datasets + DataLoader, {workers} workers"] = Datasets(tokens, folder, workers).batches
        for workers in (0, 1) if installed("streaming") else ():
            loaders[f"mosaicml-streaming, {workers} workers"] = Streaming(tokens, folder, workers).batches
        found = measure(loaders, given.rounds, given.batches)
        base = statistics.median(found["costopt"])
        print("| | samples/s | costopt to it | resume at 10, ms | at 10,000,000, ms |\n|---|---|---|---|---|")
        for peer, rates in found.items():
            rate = statistics.median(rates)
            early, late = (
                statistics.median(resumed(loaders[peer], position) for _ in range(given.resumes)) * 1000
                for position in RESUMES
            )
            print(f"| {peer} | {rate:,.0f} | {base / rate:.2f} | {early:.1f} | {late:.1f} |", flush=True)


if __name__ == "__main__":
    main()
