"""Tokens made part by part: a maker that is killed is gone on from, and text without blanks is no slower than any."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from builders.data import text_settings
from costopt.schema.data import DataSettings
from costopt_trainer.data import TrainingData, load_data, marks, shares, tokenizing
from costopt_trainer.data.tokenizers.byte_pairs import LONGEST_WORD, BytePairTokenizer
from costopt_trainer.data.tokenizers.table import cut_between_words

BPE = {"type": "BPE", "vocabularySize": 300}


def corpus(folder: Path, num_bytes: int) -> Path:
    """Many different words, in several pieces of the stream."""
    source = random.Random(3)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randint(2, 9))) for _ in range(num_bytes // 6)]
    path = folder / "corpus.txt"
    path.write_text(" ".join(words))
    return path


def fingerprint_and_tokens(data: TrainingData, cache: Path) -> tuple[str, dict[str, bytes]]:
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    return data.fingerprint, {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Killed(BaseException):
    """As sudden as SIGKILL: nothing is tidied up after it."""


@pytest.fixture(scope="module", params=[{"type": "Byte"}, BPE], ids=["bytes", "BPE"])
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DataSettings, tuple[str, dict[str, bytes]]]:
    """A text, and what is made of it at once."""
    folder = tmp_path_factory.mktemp("undisturbed")
    settings = text_settings(corpus(folder, 2_500_000), tokenizer=request.param)
    made = load_data(settings, context_length=8, cache_dir=folder / "cache")
    return settings, fingerprint_and_tokens(made, folder / "cache")


@pytest.mark.parametrize("after_parts", [1, 20, 36])
def test_a_maker_goes_on_where_a_killed_one_was(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: tuple[DataSettings, tuple[str, dict[str, bytes]]],
    after_parts: int,
) -> None:
    settings, whole = undisturbed
    monkeypatch.setattr(marks, "MARK_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(shares, "SHARE_BYTES", 1 << 20)
    parts = count_parts(monkeypatch, kill_after=after_parts)
    with pytest.raises(Killed):
        load_data(settings, context_length=8, cache_dir=tmp_path / "b")
    (partial,) = (tmp_path / "b").glob(".*.partial")
    done = marks.bytes_made(partial)
    assert done is not None
    with (partial / "train.bin").open("ab") as stream:
        stream.write(b"torn by the kill")
    learned: list[object] = []
    monkeypatch.setattr(BytePairTokenizer, "train", lambda *settings: learned.append(settings))
    parts[:] = []
    again = fingerprint_and_tokens(load_data(settings, context_length=8, cache_dir=tmp_path / "b"), tmp_path / "b")
    assert again == whole
    assert learned == []
    assert settings.text is not None
    assert sum(parts) == Path(settings.text.path).stat().st_size - done
    assert (done > 0) == (after_parts > 17)  # a piece is a MiB, and a part a sixteenth of it
    assert not partial.exists()


def count_parts(monkeypatch: pytest.MonkeyPatch, *, kill_after: int) -> list[int]:
    """The sizes of the parts that are tokenized from now on; kills once, when there are so many."""
    sizes: list[int] = []
    cut, killed = shares.cut_between_words, []

    def counted(piece: bytes, size: int) -> object:
        for part in cut(piece, size):
            if len(sizes) == kill_after and not killed:
                killed.append(True)
                raise Killed
            sizes.append(len(part))
            yield part

    monkeypatch.setattr(shares, "cut_between_words", counted)
    return sizes


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_any_number_of_threads_makes_the_same_tokens(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: tuple[DataSettings, tuple[str, dict[str, bytes]]],
    threads: int,
) -> None:
    settings, whole = undisturbed
    monkeypatch.setattr(tokenizing, "cpus", lambda: threads)
    made = load_data(settings, context_length=8, cache_dir=tmp_path)
    assert fingerprint_and_tokens(made, tmp_path) == whole


def damage_tokens(partial: Path) -> None:
    content = bytearray((partial / "train.bin").read_bytes())
    content[0] ^= 1
    (partial / "train.bin").write_bytes(content)


def shorten(partial: Path) -> None:
    os.truncate(partial / "train.bin", 1)


def forge(partial: Path) -> None:
    (partial / "made.json").write_text('{"key": "of another text", "position": 0, "files": {}}')


def another_border(partial: Path) -> None:
    mark = json.loads((partial / "made.json").read_text())
    (partial / "made.json").write_text(json.dumps({**mark, "position": mark["position"] - 1}))


@pytest.mark.parametrize("harm", [damage_tokens, shorten, forge, another_border])
def test_what_is_not_as_it_was_left_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
) -> None:
    settings = text_settings(corpus(tmp_path, 2_500_000))
    monkeypatch.setattr(marks, "MARK_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(shares, "SHARE_BYTES", 1 << 20)
    wanted = fingerprint_and_tokens(load_data(settings, context_length=8, cache_dir=tmp_path / "a"), tmp_path / "a")
    count_parts(monkeypatch, kill_after=20)
    with pytest.raises(Killed):
        load_data(settings, context_length=8, cache_dir=tmp_path / "b")
    (partial,) = (tmp_path / "b").glob(".*.partial")
    harm(partial)
    made = load_data(settings, context_length=8, cache_dir=tmp_path / "b")
    assert fingerprint_and_tokens(made, tmp_path / "b") == wanted


def test_a_rank_that_waits_for_another_tells_how_far_that_is(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from costopt.schema.data import DataSettings\n"
        "from costopt_trainer import phases; from costopt_trainer.data import load_data, marks, shares\n"
        "phases.LINE_EVERY_SECONDS, marks.MARK_EVERY_SECONDS, shares.SHARE_BYTES = 0.0, 0.0, 1 << 20\n"
        "phases.VOICE.speak_up(aloud=sys.argv[3] == '0')\n"
        "cut = shares.cut_between_words\n"
        "def slowly(piece, size):\n"
        "    while not Path(sys.argv[4]).exists(): time.sleep(0.05)\n"
        "    for part in cut(piece, size): time.sleep(0.05); yield part\n"
        "shares.cut_between_words = slowly\n"
        "settings = DataSettings.model_validate_json(sys.argv[1])\n"
        "load_data(settings, context_length=8, cache_dir=Path(sys.argv[2]))"
    )
    settings = text_settings(corpus(tmp_path, 3_500_000)).model_dump_json(by_alias=True, exclude_none=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def start(rank: str) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", program, settings, str(tmp_path / "cache"), rank, str(tmp_path / "go")]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment, text=True)

    maker = start("1")
    assert maker.stdout is not None
    assert json.loads(maker.stdout.readline())["phase"] == "ReadingData"
    assert json.loads(next(line for line in maker.stdout if "Tokenizing" in line))
    waiting = start("0")
    assert waiting.stdout is not None
    assert next(line for line in waiting.stdout if "Tokenizing" in line)
    (tmp_path / "go").touch()
    told = [json.loads(line) for line in waiting.communicate(timeout=240)[0].splitlines()]
    maker.communicate(timeout=240)
    assert [maker.returncode, waiting.returncode] == [0, 0]
    shares = [line["percent"] for line in told if line["phase"] == "Tokenizing" and "percent" in line]
    assert shares == sorted(shares)
    assert len(set(shares)) >= 2


def reference(text: str, vocabulary_size: int) -> list[int]:
    """The tokens of GPT-2's own words, without a bound."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer=trainer)
    return list(tokenizer.encode(text).ids)


PROSE = "\n\n    def it's(we'll): # x  \t\n" + "Das ist größer als 12345, said 日本の人々; it's   they've—«élan» " * 40


def test_text_of_words_has_the_tokens_that_it_would_have_without_a_bound() -> None:
    text = PROSE + Path(random.__file__).read_text(encoding="utf-8")
    learned = BytePairTokenizer.train([text.encode()], 600)
    assert learned.encode(text.encode()).tolist() == reference(text, 600)


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_a_text_in_parts_has_the_tokens_of_the_whole(size: int) -> None:
    text = PROSE.encode()
    learned = BytePairTokenizer.train([text], 400)
    parts = list(cut_between_words(text, size))
    assert b"".join(parts) == text
    assert len(parts) > (100 if size == 1 else 1)
    assert [int(token) for part in parts for token in learned.encode(part)] == learned.encode(text).tolist()


@pytest.mark.parametrize("sign", ["letters", "1", " ", "="])
def test_text_without_an_end_of_word_is_learned_in_time_and_loses_nothing(sign: str) -> None:
    source = random.Random(0)
    text = "".join(source.choices("etaoinshrd", k=100_000)) if sign == "letters" else sign * 100_000
    ordinary = " ".join(text[at : at + 6] for at in range(0, len(text), 6))

    def seconds_to_learn(text: str) -> float:
        began = time.process_time()
        BytePairTokenizer.train([text.encode()], 1000).encode(text.encode())
        return time.process_time() - began

    took, of_words = seconds_to_learn(text), seconds_to_learn(ordinary)
    learned = BytePairTokenizer.train([text.encode()], 1000)
    tokens = learned.encode(text.encode())
    assert took < 20 * of_words + 2, "unbounded it is hundreds of times, and four times that for twice the letters"
    assert learned.decode(tokens) == text
    longest = max(len(learned.decode([token])) for token in set(tokens.tolist()))
    assert longest <= LONGEST_WORD
