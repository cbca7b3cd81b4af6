"""Records read from each format, in time beside a plain text of the same documents, and in memory beside a plain read.

    make bench, or: PYTHONPATH=.:trainer:tests python benchmarks/record_formats.py [--megabytes 64] [--rounds 3]

The documents are the files of Python's own standard library, as often as need be. All documents of a file are read and
hashed, as each start of a training does. Each format is read in turns with a plain text of the same documents, in one
process. Memory is the growth of the largest resident set, in a process of its own, for a file and one four times as
large: what is bounded does not grow with the file. Beside it stands what pyarrow takes that reads the Parquet file as a
whole.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from costopt.schema.data import DataSettings
from costopt.schema.text_sources import PythonStandardLibraryData
from costopt_trainer.data.documents import content_of
from costopt_trainer.data.sources.table import open_source

WHOLE = "whole"
"""The peer that reads a Parquet file as a whole."""
ROWS = 200
"""In one batch or group of rows."""


def documents(num_bytes: int) -> Iterator[str]:
    """Texts of that many bytes in all."""
    limits = PythonStandardLibraryData(max_bytes=16 << 20)
    source: Any = open_source(DataSettings(type="PythonStandardLibrary", python_standard_library=limits))
    texts = [b"".join(document.pieces()).decode().replace("\0", "") for document in source.documents()]
    while num_bytes > 0:
        for text in texts:
            yield text
            num_bytes -= len(text.encode())
            if num_bytes <= 0:
                return


def batches(num_bytes: int) -> Iterator[Any]:
    """The same as batches of Arrow."""
    rows: list[dict[str, str]] = []
    for text in documents(num_bytes):
        rows.append({"text": text})
        if len(rows) == ROWS:
            yield pa.RecordBatch.from_pylist(rows)
            rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows)


def write_text(path: Path, num_bytes: int) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for text in documents(num_bytes):
            stream.write(text)


def write_json(path: Path, num_bytes: int) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for text in documents(num_bytes):
            stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def write_json_packed(path: Path, num_bytes: int) -> None:
    with pa.CompressedOutputStream(str(path), "zstd" if path.suffix == ".zst" else "gzip") as stream:
        for text in documents(num_bytes):
            stream.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")


def write_csv(path: Path, num_bytes: int) -> None:
    import csv

    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text"])
        writer.writerows([text] for text in documents(num_bytes))


def write_parquet(path: Path, num_bytes: int) -> None:
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())])) as writer:
        for batch in batches(num_bytes):
            writer.write_batch(batch)


def write_arrow(path: Path, num_bytes: int) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, pa.schema([("text", pa.string())])) as writer:
        for batch in batches(num_bytes):
            writer.write_batch(batch)


FORMATS: dict[str, Callable[[Path, int], None]] = {
    "a.txt": write_text,
    "a.jsonl": write_json,
    "a.jsonl.gz": write_json_packed,
    "a.jsonl.zst": write_json_packed,
    "a.csv": write_csv,
    "a.parquet": write_parquet,
    "a.arrow": write_arrow,
}


def settings_of(path: Path) -> DataSettings:
    word, key = ("Text", "text") if path.suffix == ".txt" else ("Records", "records")
    return DataSettings.model_validate({"type": word, key: {"path": str(path)}})


def read(path: Path) -> float:
    """Read and hash all documents; the result is how long it took, in seconds."""
    started = time.monotonic()
    source: Any = open_source(settings_of(path))
    content_of(source.documents())
    return time.monotonic() - started


def peak_bytes() -> int:
    """Of this process alone: getrusage begins with what its parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(peak) * 1024


def growth(path: Path, how: str) -> int:
    """By how much the largest resident set of a fresh process grows while it reads the file, in MiB."""
    done = subprocess.run(
        [sys.executable, __file__, "--grow", how, str(path)], check=True, capture_output=True, text=True
    )
    return round(int(done.stdout) / 2**20)


def grow(how: str, path: Path) -> int:
    pa.array(["libraries are loaded"])
    before = peak_bytes()
    if how == WHOLE:
        assert len(pq.read_table(path).to_pylist())
    else:
        read(path)
    return peak_bytes() - before


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--grow", nargs=2)
    given = parser.parse_args()
    if given.grow:
        print(grow(given.grow[0], Path(given.grow[1])))
        return
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name) / "small", Path(name) / "large"
        for folder, num_bytes in ((small, given.megabytes << 20), (large, given.megabytes << 22)):
            folder.mkdir()
            for file, write in FORMATS.items():
                write(folder / file, num_bytes)
        print(f"{given.megabytes} MiB of text: MB/s, time to that of plain text, memory, and of 4 x as much text, MiB")
        for file in FORMATS:
            pairs = [(read(small / file), read(small / "a.txt")) for _ in range(given.rounds)]
            ratio = statistics.median(own / plain for own, plain in pairs)
            pace = (given.megabytes << 20) / statistics.median(own for own, _ in pairs) / 1e6
            print(f"{file:12} {pace:6.0f} {ratio:6.2f} {growth(small / file, file):5} {growth(large / file, file):5}")
        parquet = "a.parquet"
        print(f"{'as a whole':12} {'':13} {growth(small / parquet, WHOLE):5} {growth(large / parquet, WHOLE):5}")


if __name__ == "__main__":
    main()
