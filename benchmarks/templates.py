"""What it costs to write each record in one of several templates, and how often each is used.

PYTHONPATH=.:trainer python benchmarks/templates.py [--records 30000]
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from costopt.schema.data import DataSettings
from costopt_trainer.data.sources.records import Records

TEMPLATES = [
    "1 Question: {question}\nAnswer: {answer}",
    "2 {answer} is the answer to {question}",
    "3 {question} {answer}",
]
ROWS: dict[str, dict[str, Any]] = {
    "textField": {"textField": "question"},
    "template": {"template": TEMPLATES[0]},
    "templates, 3 of them": {"templates": TEMPLATES},
}
ROUNDS = 3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=30_000)
    count = parser.parse_args().records
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        with path.open("w") as stream:
            for number in range(count):
                stream.write(json.dumps({"question": f"what is {number} + {number}?", "answer": 2 * number}) + "\n")
        best: dict[str, float] = {}
        used: Counter[str] = Counter()
        for _ in range(ROUNDS):
            for row, how in ROWS.items():
                settings = {"type": "Records", "records": {"path": str(path), **how}}
                source, begun = Records(DataSettings.model_validate(settings)), time.perf_counter()
                texts = [b"".join(document.pieces()) for document in source.documents()]
                best[row] = min(best.get(row, float("inf")), time.perf_counter() - begun)
                if "templates" in how:
                    used = Counter(text[:1].decode() for text in texts)
    for row, seconds in best.items():
        share = seconds / best["template"]
        print(f"{row}: {count / seconds:,.0f} records a second, {share:.2f} of the time of one template")
    print(", ".join(f"template {number}: {times:,} records" for number, times in sorted(used.items())))


if __name__ == "__main__":
    main()
