"""What each transform of text changes and drops, and how much text it does a second.

    COSTOPT_DATA_DIR=FOLDER PYTHONPATH=.:trainer python benchmarks/cleaning.py [--megabytes 8]

The text is real: source files of Python's library, a document each, and (with tinyshakespeare.txt in FOLDER)
Shakespeare in documents of 100 lines. Planted in it, so that what should be found is known: copies, copies with a word
in a hundred or in fifty changed, copies whose encoding was spoiled, copies as HTML pages with a menu, and copies with a
mail address. Each transform runs alone, on one thread.
"""

import argparse
import html
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from costopt.schema.data import DataSettings
from costopt.schema.transforms import Transform as Settings
from costopt.schema.unions import key_of_word
from costopt_trainer.data.documents import Document, Tally
from costopt_trainer.data.sources.table import open_source
from costopt_trainer.data.transforms.personal_data import masked
from costopt_trainer.data.transforms.pipeline import Pipeline
from costopt_trainer.data.transforms.table import TRANSFORMS, Transform
from costopt_trainer.tables import row

PLANTED = 40
"""Documents of each kind."""
KINDS = ("copy", "near", "less near", "mojibake", "html", "mail")
SETTINGS: dict[str, dict[str, Any]] = {"FilterLanguage": {"languages": ["en"]}}
MENU = "<nav><a href='/'>Home</a></nav>"


def texts(megabytes: int) -> dict[str, str]:
    """Documents by name."""
    limits = {"maxBytes": megabytes * 2**20}
    library = open_source(
        DataSettings.model_validate({"type": "PythonStandardLibrary", "pythonStandardLibrary": limits})
    )
    found = {Path(one.name).name: b"".join(one.pieces()).decode() for one in library.documents()}  # type: ignore[union-attr]
    shakespeare = Path(os.environ.get("COSTOPT_DATA_DIR", "")) / "tinyshakespeare.txt"
    if shakespeare.is_file():
        lines = shakespeare.read_text().splitlines(keepends=True)
        found |= {f"shakespeare{start}": "".join(lines[start : start + 100]) for start in range(0, len(lines), 100)}
    return found


def planted(original: dict[str, str]) -> dict[str, dict[str, tuple[str, str]]]:
    """Kind -> name -> text, and what it should become."""
    source = random.Random(0)
    long = [text for text in original.values() if len(text.split()) > 300 and masked(text) == text]
    kinds: dict[str, dict[str, tuple[str, str]]] = {
        "copy": {},
        "near": {},
        "less near": {},
        "mojibake": {},
        "html": {},
        "mail": {},
    }
    for number, text in enumerate(source.sample(long, PLANTED)):
        accented = f"{text}\nUne édition annotée, très utile – schön.\n"
        kinds["copy"][f"copy{number}"] = (text, text)
        for kind, share in (("near", 100), ("less near", 50)):
            kinds[kind][f"{kind}{number}"] = (with_words_changed(text, share, source), text)
        kinds["mojibake"][f"mojibake{number}"] = (accented.encode().decode("latin-1"), accented)
        paragraph = " ".join(text.split())
        page = f"<!DOCTYPE html><html><body>{MENU}<p>{html.escape(paragraph)}</p></body></html>"
        kinds["html"][f"html{number}"] = (page, f"{paragraph}\n")
        kinds["mail"][f"mail{number}"] = (f"{text}\nask a{number}@example.org\n", f"{text}\nask [email]\n")
    return kinds


def with_words_changed(text: str, share: int, source: random.Random) -> str:
    """The text with one of `share` words changed."""
    words = text.split()
    for place in source.sample(range(len(words)), len(words) // share):
        words[place] = f"word{place}"
    return " ".join(words)


CURES = {"FixMojibake": "mojibake", "RemoveMarkup": "html", "MaskPersonalData": "mail"}
FINDS = {"RemoveDuplicates": ("copy", "near", "less near")}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=8)
    original = texts(parser.parse_args().megabytes)
    kinds = planted(original)
    everything = original | {name: text for kind in kinds.values() for name, (text, _) in kind.items()}
    num_bytes = sum(len(text.encode()) for text in everything.values())
    print(
        f"{len(everything):,} documents, {num_bytes / 2**20:.1f} MiB, {PLANTED} planted of each of {', '.join(kinds)}"
    )
    print("| transform | MiB a second | changed | dropped | of those that were planted |\n|---|---|---|---|---|")
    for word in TRANSFORMS:
        own = {"type": word, **({key_of_word(word): SETTINGS[word]} if word in SETTINGS else {})}
        made: Transform = row(TRANSFORMS, word)(Settings.model_validate(own))
        print(f"| {word} | {' | '.join(measured(word, made, everything, kinds))} |", flush=True)


def measured(
    word: str, made: Transform, everything: dict[str, str], kinds: dict[str, dict[str, tuple[str, str]]]
) -> Iterator[str]:
    """The cells behind the transform's word."""
    list(made.documents([Document("first", lambda: iter([b"what is loaded late"]))]))
    began, tallies = time.perf_counter(), [Tally(), Tally()]
    pipeline = Pipeline(lambda: (_document(name, text) for name, text in everything.items()), [made])
    pipeline.judge()
    left = {one.name: b"".join(one.pieces()).decode() for one in pipeline.documents(tallies)}
    seconds = time.perf_counter() - began
    (report,) = pipeline.reports([word], tallies)
    yield f"{report.bytes_before / 2**20 / seconds:.1f}"
    yield f"{report.changed:,}"
    yield f"{report.dropped:,}"
    if word in CURES:
        kind = kinds[CURES[word]]
        right = sum(left[name].split() == wanted.split() for name, (_, wanted) in kind.items())
        yield f"{right} of {PLANTED} are as they were"
    elif word in FINDS:
        yield ", ".join(f"{sum(name not in left for name in kinds[kind])} of {PLANTED} {kind}" for kind in FINDS[word])
    else:
        yield ""


def _document(name: str, text: str) -> Document:
    return Document(name, lambda: iter([text.encode()]))


if __name__ == "__main__":
    main()
