"""The text that benchmarks train on."""

import os
import sys
from pathlib import Path


def tiny_shakespeare() -> Path:
    """`tinyshakespeare.txt` below COSTOPT_DATA_DIR (../shared/data); without it the program ends, and says why."""
    path = Path(os.environ.get("COSTOPT_DATA_DIR", "../shared/data")).resolve() / "tinyshakespeare.txt"
    if not path.is_file():
        print(f"skipped: {path} is missing; set COSTOPT_DATA_DIR to the folder that has it")
        sys.exit(0)
    return path


def documents_of(text: str, num_bytes: int) -> list[str]:
    """Whole speeches, as many together as make `num_bytes`; the rest is the last document."""
    documents, document = [], ""
    for speech in text.split("\n\n"):
        document += speech + "\n\n"
        if len(document) >= num_bytes:
            documents.append(document)
            document = ""
    return [*documents, document] if document else documents
