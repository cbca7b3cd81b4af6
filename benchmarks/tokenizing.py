"""Megabytes a second from a text on disk to its tokens on disk, against datasets' map with the same tokenizer.

    make bench-data, or: PYTHONPATH=.:trainer python benchmarks/tokenizing.py [--megabytes 16] [--rounds 3]

The text is the files of Python's own standard library as records of JSON Lines, each a document. The tokenizer is one
tokenizer.json, learned beforehand. Both sides read the file, tokenize every document and write the tokens; ours also
hashes text and tokens, so that they are found again, and splits them. The peer runs with a process for each CPU, and
with one process whose tokenizer has a thread for each: from the file to its tokens, and its map alone, after its own
copy of the file in Arrow was made. They take turns, each in a process of its own; the ratio is of medians.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from costopt.schema.data import DataSettings
from costopt_trainer.data import load_data
from costopt_trainer.data.tokenizers.byte_pairs import BytePairTokenizer
from costopt_trainer.data.tokenizing import cpus

MAY_DIFFER = 1e-5
"""Of the tokens: our held-out part begins within a word, and documents of more than 64 KiB are cut, at blanks."""
VOCABULARY = 8192
LEARNED_FROM = 1 << 21
PEERS = {f"datasets.map, {cpus()} processes": cpus(), "datasets.map, its tokenizer's threads": None}


def documents() -> Iterator[str]:
    """The standard library's files, again and again."""
    folder = Path(os.__file__).parent
    files = [file for file in sorted(folder.rglob("*.py")) if "site-packages" not in file.relative_to(folder).parts]
    for file in cycle(files):
        yield file.read_text(errors="replace").replace("\0", "")


def write(path: Path, num_bytes: int) -> int:
    """Records of about so many bytes of text; how many bytes they are."""
    written = 0
    with path.open("w") as out:
        for text in documents():
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            written += len(text.encode())
            if written >= num_bytes:
                break
    return written


def ours(path: Path, tokenizer: Path, cache: Path) -> tuple[float, int]:
    """Seconds, and tokens."""
    plain: dict[str, Any] = {
        "type": "Records",
        "records": {"path": str(path)},
        "tokenizer": {"type": "HuggingFace", "path": str(tokenizer)},
        "validationPercent": 1,
    }
    settings = DataSettings.model_validate(plain)
    began = time.perf_counter()
    load_data(settings, context_length=128, cache_dir=cache)
    took = time.perf_counter() - began
    sizes = [file.stat().st_size for file in cache.glob("*/*.bin")]
    return took, sum(sizes) // 2


def peer(path: Path, tokenizer: Path, cache: Path, processes: int | None) -> tuple[float, float, int]:
    """Seconds in all, seconds of its map, and tokens without separators."""
    import datasets

    datasets.disable_progress_bars()
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if processes is None else "false"
    began = time.perf_counter()
    read = datasets.Dataset.from_json(str(path), cache_dir=str(cache))
    begun = time.perf_counter()
    made = read.map(
        Encode(str(tokenizer)), batched=True, num_proc=processes, remove_columns=["text"], cache_file_name=None
    )
    ended = time.perf_counter()
    return ended - began, ended - begun, sum(made["length"])


class Encode:
    """What `map` calls; it loads the tokenizer in each process."""

    def __init__(self, path: str) -> None:
        self._path, self._tokenizer = path, None

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_tokenizer": None}

    def __call__(self, batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        from tokenizers import Tokenizer

        if self._tokenizer is None:
            self._tokenizer = Tokenizer.from_file(self._path)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)]
        return {"input_ids": ids, "length": [len(own) for own in ids]}


def child(side: str, path: Path, tokenizer: Path, folder: Path) -> None:
    """Print the seconds of one side in a fresh process, and its tokens."""
    cache = folder / "cache"
    if side == "costopt":
        took, tokens = ours(path, tokenizer, cache)
        print("result", took, took, tokens, flush=True)
    else:
        print("result", *peer(path, tokenizer, cache, PEERS[side]), flush=True)


def measured(side: str, path: Path, tokenizer: Path) -> tuple[float, float, int]:
    """What `child` prints. Each has a process of its own, so that no threads are forked, and a folder that goes."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [sys.executable, __file__, "--child", side, str(path), str(tokenizer), folder]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("result ")]
    if not lines:
        sys.exit(f"{side} failed: {done.stderr[-2000:]}")
    _, whole, alone, tokens = lines[-1]
    return float(whole), float(alone), int(tokens)


def main() -> None:
    """Measure, compare, print."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], *map(Path, sys.argv[3:6]))
        return
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--megabytes", type=int, default=16)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    if importlib.util.find_spec("datasets") is None:
        print("datasets must be installed for this: pip install 'costopt[bench]'")
        return
    with tempfile.TemporaryDirectory() as name:
        path, tokenizer = Path(name, "text.jsonl"), Path(name, "tokenizer.json")
        num_bytes = write(path, given.megabytes << 20)
        sample = path.read_bytes()[:LEARNED_FROM].decode(errors="ignore").encode()
        tokenizer.write_text(BytePairTokenizer.train([sample], VOCABULARY).to_json())
        # Our documents stand in one row, with this token between two of them: that of byte 0.
        tokenizer.with_name("tokenizer_config.json").write_text(json.dumps({"eos_token": "\u0100"}))
        records = sum(1 for _ in path.open("rb"))
        sides = ["costopt", *PEERS]
        found: dict[str, list[tuple[float, float, int]]] = {side: [] for side in sides}
        for number in range(given.rounds):
            for side in sides[number % len(sides) :] + sides[: number % len(sides)]:
                found[side].append(measured(side, path, tokenizer))
        made = {side: runs[0][2] - (records - 1 if side == "costopt" else 0) for side, runs in found.items()}
        if max(made.values()) - min(made.values()) > MAY_DIFFER * max(made.values()):
            sys.exit(f"the tokens differ: {made}")
        base = statistics.median(whole for whole, _, _ in found["costopt"])
        print(f"| {cpus()} CPUs, {num_bytes / 1e6:.0f} MB | MB/s | costopt to it | its map alone, MB/s |")
        print("|---|---|---|---|")
        for side, runs in found.items():
            whole, alone = (statistics.median(run[place] for run in runs) for place in (0, 1))
            print(f"| {side} | {num_bytes / whole / 1e6:.2f} | {whole / base:.2f} | {num_bytes / alone / 1e6:.2f} |")


if __name__ == "__main__":
    main()
