"""What each transform of text is worth: the loss on clean text after the same steps on spoiled text.

    COSTOPT_DATA_DIR=FOLDER PYTHONPATH=.:trainer python benchmarks/cleaning_effect.py [--seeds 2] [--steps 250]

The text is the first BYTES of tinyshakespeare.txt in FOLDER, with the apostrophes and dashes of print, in documents of
some 2,000 bytes. A DecoderLM of two layers of width 64 reads it byte by byte, 16 samples of 64 a step, and is measured
on the end of Shakespeare, which is clean and never trained on, in nats per byte. Each row takes the same steps, from
the same weights of its seed. The first row is of the text before it is spoiled, which no cleaning can beat by much.

Spoiled is, for each transform, what it is there for, by a fixed seed: SHARE percent of the documents each

- have wide letters and ligatures (NormalizeUnicode), were decoded in a wrong encoding (FixMojibake), have zero-width
  blanks and escape sequences (RemoveControlCharacters), have blanks in rows and at ends of lines (NormalizeWhitespace),
  are HTML pages with scripts and menus (RemoveMarkup), have letters exchanged in one word of eight (CorrectSpelling),
  or have lines with addresses and numbers of people (MaskPersonalData);
- and as many documents again are one line over and over (FilterQuality), German words drawn as often as German has
  them, from pyspellchecker's list (FilterLanguage), or copies of a tenth of the documents (RemoveDuplicates).
"""

import argparse
import contextlib
import html
import io
import random
import re
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from spellchecker import SpellChecker

from costopt.schema.recipe import Recipe
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training
from measured.texts import documents_of, tiny_shakespeare

BYTES, DOCUMENT_BYTES, SHARE = 200_000, 2000, 25
CONTEXT, BATCH, HELD_OUT = 64, 16, 600
MENU = "".join(f"<li><a href='/play/{number}?s=2f{number}'>Scene {number}</a></li>" for number in range(6))
SCRIPT = "<script>window.dataLayer=window.dataLayer||[];function gtag(){dataLayer.push(arguments)}</script>"
LIGATURES = {"ffi": "\ufb03", "fi": "\ufb01", "fl": "\ufb02", "ff": "\ufb00"}

CHAIN: dict[str, dict[str, Any]] = {
    "RemoveMarkup": {},
    "FixMojibake": {},
    "NormalizeUnicode": {"form": "NFKC"},
    "RemoveControlCharacters": {},
    "NormalizeWhitespace": {"blanks": "Collapse", "maxBlankLines": 1},
    "CorrectSpelling": {},
    "MaskPersonalData": {},
    "FilterQuality": {"minWords": 20, "repeatedPhrases": "Keep"},
    "FilterLanguage": {"languages": ["en"]},
    "RemoveDuplicates": {},
}
"""In the order in which all of them are done."""


def transform(word: str) -> dict[str, Any]:
    """A transform as a recipe has it."""
    return {"type": word, **({word[0].lower() + word[1:]: CHAIN[word]} if CHAIN[word] else {})}


ROWS: dict[str, list[dict[str, Any]]] = {
    "as it is": [],
    **{word: [transform(word)] for word in CHAIN},
    "all of them": [transform(word) for word in CHAIN],
    "all but CorrectSpelling": [transform(word) for word in CHAIN if word != "CorrectSpelling"],
}


def wide(text: str, chance: random.Random) -> str:
    """Ligatures, and one word of five in wide letters, as in text that was taken out of a PDF."""
    for letters, one in LIGATURES.items():
        text = text.replace(letters, one)

    def widened(match: re.Match[str]) -> str:
        return "".join(chr(ord(letter) + 0xFEE0) if letter < "\x7f" else letter for letter in match[0])

    return re.sub(r"[A-Za-z]+", lambda match: widened(match) if chance.random() < 0.2 else match[0], text)


def mojibake(text: str, _chance: random.Random) -> str:
    """UTF-8 that was read as Windows-1252."""
    return text.encode().decode("cp1252", errors="ignore")


def control_characters(text: str, chance: random.Random) -> str:
    """Something that nobody sees behind one blank of three."""
    signs = ["\u200b", "\x1b[0m", "\x1b[1;31m", "\u202a", "\x07", "\ufeff"]
    return re.sub(" ", lambda _: f" {chance.choice(signs)}" if chance.random() < 0.33 else " ", text)


def blanks(text: str, chance: random.Random) -> str:
    """Indentation, rows of blanks, and blank lines."""
    lines = (" " * chance.randrange(8, 16) + line.replace(" ", "  ") + "   \t" for line in text.splitlines())
    return "\r\n".join(line if line.strip() else "\r\n" * 3 for line in lines)


def page(text: str, _chance: random.Random) -> str:
    """An HTML page."""
    body = html.escape(text, quote=False)
    return (
        f"<!DOCTYPE html><html><head><title>Play</title>{SCRIPT}</head><body><nav><ul>{MENU}</ul></nav>"
        f'<pre class="text">\n{body}</pre><footer>All rights reserved. Cookies.</footer></body></html>\n'
    )


def misspelled(text: str, chance: random.Random) -> str:
    """Two neighbours exchanged in one of eight words of small letters."""

    def exchanged(match: re.Match[str]) -> str:
        word, place = match[0], chance.randrange(len(match[0]) - 1)
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :] if chance.random() < 0.125 else word

    return re.sub(r"\b[a-z]{4,}\b", exchanged, text)


def with_people(text: str, chance: random.Random) -> str:
    """A line with an address and a number behind one line of four."""

    def person() -> str:
        name = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))
        return f"{name}{chance.randrange(100)}@example.org +1 212-555-{chance.randrange(10_000):04d}\n"

    lines = text.splitlines(keepends=True)
    return "".join(f"{line}{person()}" if chance.random() < 0.25 else line for line in lines)


# A page is made last, for it is a page that holds what else is wrong.
SPOILERS: tuple[Callable[[str, random.Random], str], ...] = (
    misspelled, with_people, mojibake, wide, control_characters, blanks, page,
)  # fmt: skip


def spoiled(documents: list[str]) -> list[str]:
    """The documents, spoiled, and others among them."""
    chance = random.Random(0)
    count = len(documents) * SHARE // 100
    found = list(documents)
    for spoil in SPOILERS:
        for place in chance.sample(range(len(found)), count):
            found[place] = spoil(found[place], chance)
    again = found[:: len(found) // 10]
    frequencies = SpellChecker(language="de").word_frequency.dictionary
    words, weights = list(frequencies), list(frequencies.values())
    for number in range(count):
        found.append(f"Loading item {number}, please wait ...\n" * (DOCUMENT_BYTES // 35))
        german = chance.choices(words, weights, k=DOCUMENT_BYTES // 6)
        found.append("".join(" ".join(german[at : at + 8]) + ",\n" for at in range(0, len(german), 8)))
        found.append(again[number % len(again)])
    chance.shuffle(found)
    return found


def write(folder: Path, documents: list[str]) -> None:
    """A file for each."""
    folder.mkdir()
    for number, document in enumerate(documents):
        (folder / f"{number:04d}.txt").write_text(document, encoding="utf-8", newline="")


def recipe(folder: Path, transforms: list[dict[str, Any]], steps: int, seed: int) -> Recipe:
    """A training of so many steps."""
    shape = {"preset": "Llama", "numLayers": 2, "numHeads": 4, "embeddingDim": 64, "contextLength": CONTEXT}
    return Recipe.model_validate(
        {
            "model": {"type": "DecoderLM", "decoderLM": {**shape, "tiedEmbeddings": True}},
            "data": {
                "type": "Text",
                "text": {"path": str(folder)},
                "validationPercent": 1,
                **({"transforms": transforms} if transforms else {}),
            },
            "batch": {"globalBatchSize": BATCH, "microBatchSize": BATCH},
            "totalSteps": steps,
            "optimizer": {"learningRate": "4e-3", "adamW": {"beta2": "0.99"}},
            "schedule": {"warmupSteps": min(30, steps // 4), "minLearningRate": "2e-4"},
            "evaluation": {"everySteps": steps, "maxSamples": 16},
            "checkpointing": {"everySteps": steps},
            "seed": seed,
        }
    )


def loss_of(settings: Recipe, held_out: torch.Tensor) -> tuple[float, int]:
    """The loss on windows of clean text (N, CONTEXT + 1) after training, nats per byte, and the bytes trained on."""
    with tempfile.TemporaryDirectory() as storage, contextlib.redirect_stdout(io.StringIO()):
        with contextlib.redirect_stderr(io.StringIO()):
            training = Training(settings, Path(storage), ALONE, Meter(), Stop(), job="benchmark")
            training.resume()
            run_steps(training)
        training.module.eval()
        with torch.no_grad():
            total = sum(float(loss_sum(training.module(part[:, :-1]), part[:, 1:])) for part in held_out.split(100))
    return total / held_out[:, 1:].numel(), training.data.num_train_samples * CONTEXT


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", nargs="+", choices=("clean text", *ROWS), default=["clean text", *ROWS])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    source = tiny_shakespeare()
    # As print has it, so that there are characters that an encoding can spoil.
    text = source.read_text().replace("'", "\u2019").replace("--", "\u2014")
    documents = [each for each in documents_of(text[:BYTES], DOCUMENT_BYTES) if len(each) >= DOCUMENT_BYTES]
    end = torch.tensor(list(text[-100_000:].encode()))
    held_out = end[: len(end) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    held_out = held_out[:: max(1, len(held_out) // HELD_OUT)]
    print(
        "| transforms | bytes to train on | loss on clean text | by seed | less than as it is |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as place:
        clean, dirty = Path(place, "clean"), Path(place, "spoiled")
        write(clean, documents)
        write(dirty, spoiled(documents))
        plain: float | None = None
        for name in given.rows:
            folder = clean if name == "clean text" else dirty
            found = [
                loss_of(recipe(folder, ROWS.get(name, []), given.steps, seed), held_out) for seed in range(given.seeds)
            ]
            losses = [loss for loss, _ in found]
            mean = statistics.fmean(losses)
            plain = mean if name == "as it is" else plain
            less = f"{plain - mean:+.3f}" if plain is not None and name != "as it is" else ""
            each = ", ".join(f"{loss:.3f}" for loss in losses)
            print(f"| {name} | {found[0][1]:,} | {mean:.3f} | {each} | {less} |", flush=True)


if __name__ == "__main__":
    main()
