"""What zstd would save of cached tokens, and what a batch would cost, against tokens that are mapped as they are.

    make bench-data, or: PYTHONPATH=.:trainer python benchmarks/zstd_tokens.py [--megabytes 4]

The text is Python's own standard library, the tokens those of Byte and of BPE with 4,096. A batch is 64 windows of 129
tokens at random places. Packed tokens would be cut into blocks, each packed by itself, so that a window can be reached:
a batch unpacks the block of each of its windows. Times are CPU time, for the median of many batches.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from costopt.schema.data import DataSettings
from costopt_trainer.data import load_data
from costopt_trainer.data.windows import windows_at

WINDOWS, LENGTH, BATCHES = 64, 129, 50
BLOCKS = (4096, 65536)
LEVELS = (1, 9)


def median_us(batch: Callable[[np.ndarray], object], numbers: list[np.ndarray]) -> float:
    """CPU time of a batch."""
    times = []
    for own in numbers:
        began = time.thread_time()
        batch(own)
        times.append(time.thread_time() - began)
    return statistics.median(times) * 1e6


@dataclass(frozen=True)
class Unpacking:
    """The block of each window is unpacked."""

    codec: Any
    packed: list[bytes]
    sizes: list[int]
    itemsize: int
    block_bytes: int

    def __call__(self, own: np.ndarray) -> None:
        for number in own.tolist():
            block = number * (LENGTH - 1) * self.itemsize // self.block_bytes
            self.codec.decompress(self.packed[block], self.sizes[block], asbytes=True)


def measure(tokenizer: dict[str, Any], megabytes: int) -> None:
    """Print the rows of one tokenizer."""
    data = {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": megabytes << 20}}
    settings = DataSettings.model_validate({**data, "tokenizer": tokenizer})
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_data(settings, context_length=LENGTH - 1, cache_dir=Path(folder))
        (path,) = Path(folder).glob("*/train.bin")
        kind = np.uint8 if (loaded.vocabulary_size or 0) <= 256 else np.uint16
        tokens = np.memmap(path, dtype=kind, mode="r")
        source = np.random.default_rng(0)
        numbers = [source.integers(loaded.num_train_samples, size=WINDOWS) for _ in range(BATCHES)]
        plain = median_us(lambda own: windows_at(tokens, LENGTH - 1, own, LENGTH), numbers)
        print(f"| {tokenizer['type']}, mapped | 1.00 | {plain:.0f} | 1 |")
        whole = path.read_bytes()
    for level in LEVELS:
        codec = pa.Codec("zstd", compression_level=level)
        for size in BLOCKS:
            parts = [whole[start : start + size] for start in range(0, len(whole), size)]
            packed = [codec.compress(part, asbytes=True) for part in parts]

            share = sum(map(len, packed)) / len(whole)
            unpacking = Unpacking(codec, packed, [len(part) for part in parts], tokens.itemsize, size)
            took = median_us(unpacking, numbers)
            name = f"{tokenizer['type']}, zstd {level}, blocks of {size:,}"
            print(f"| {name} | {share:.2f} | {took:,.0f} | {took / plain:.0f} |")


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--megabytes", type=int, default=4)
    given = options.parse_args()
    print("| tokens | of their bytes | a batch, µs of CPU | to mapped |\n|---|---|---|---|")
    for tokenizer in ({"type": "Byte"}, {"type": "BPE", "vocabularySize": 4096}):
        measure(tokenizer, given.megabytes)


if __name__ == "__main__":
    main()
