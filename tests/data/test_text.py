"""Text: which bytes, in which order, split and tokenized how, and kept in the cache."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from math import log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.data import real_text, text_settings
from costopt.schema.data import DataSettings, Tokenizer
from costopt.schema.text_sources import PythonStandardLibraryData
from costopt_trainer.data import TrainingData, listing, load_data
from costopt_trainer.data.documents import joined, split_pieces
from costopt_trainer.data.entropy import BIGRAM, UNIGRAM, PairCounts
from costopt_trainer.data.sources.standard_library import standard_library
from costopt_trainer.data.sources.text_files import text_files
from costopt_trainer.data.tokenizers.byte_pairs import BytePairTokenizer
from costopt_trainer.errors import NotRetryable

BPE = Tokenizer(type="BPE", vocabulary_size=300)
PROSE = "The cat sat on the mat; the rat sat at the cat. Größe, naïveté, 東京 und 🙂.\n"


def stream_of(settings: DataSettings) -> bytes:
    return b"".join(joined(text_files(settings).documents()))


def all_inputs(data: TrainingData, split: str) -> np.ndarray:
    batch = data.train_batch if split == "train" else data.validation_batch
    count = data.num_train_samples if split == "train" else data.num_validation_samples
    return batch(np.arange(count))[0].numpy().reshape(-1)


def shard_folder(cache: Path) -> Path:
    (folder,) = [entry for entry in cache.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return folder


@pytest.fixture
def prose(tmp_path: Path) -> Path:
    path = tmp_path / "prose.txt"
    path.write_text(PROSE * 60, encoding="utf-8")
    return path


def test_samples_are_the_text_in_windows_that_do_not_overlap(prose: Path, tmp_path: Path) -> None:
    data = load_data(text_settings(prose), context_length=16, cache_dir=tmp_path / "cache")
    text = prose.read_bytes()
    train = bytes(all_inputs(data, "train").astype(np.uint8))
    assert text.startswith(train)
    assert len(train) == data.num_train_samples * 16 > len(text) * 0.9 - 40
    assert data.tokens_per_sample == 16
    assert data.vocabulary_size == 256
    assert data.validation_bytes_per_token == 1.0


def test_targets_are_the_inputs_one_token_on(prose: Path, tmp_path: Path) -> None:
    data = load_data(text_settings(prose), context_length=16, cache_dir=tmp_path / "cache")
    inputs, targets = data.train_batch(np.array([5, 0, 5]))
    following, _ = data.train_batch(np.array([6, 1, 6]))
    assert inputs.shape == targets.shape == (3, 16)
    assert inputs.dtype == targets.dtype
    assert (inputs[:, 1:] == targets[:, :-1]).all()
    assert (targets[:, -1] == following[:, 0]).all()
    assert (inputs[0] == inputs[2]).all()


def test_the_end_of_the_text_is_held_out(prose: Path, tmp_path: Path) -> None:
    data = load_data(text_settings(prose, validation_percent=25), context_length=8, cache_dir=tmp_path / "cache")
    text = prose.read_bytes()
    held_out = bytes(all_inputs(data, "validation").astype(np.uint8))
    at = text.rindex(held_out)
    assert 0.75 * len(text) <= at < 0.75 * len(text) + 4
    assert data.num_train_samples == pytest.approx(3 * data.num_validation_samples, rel=0.1)


@given(st.lists(st.text(max_size=9).map(str.encode), max_size=6), st.integers(0, 60))
def test_the_border_of_the_splits_lies_between_characters(pieces: list[bytes], num_train_bytes: int) -> None:
    parts = list(split_pieces(pieces, num_train_bytes))
    train = b"".join(piece for is_train, piece in parts if is_train)
    held_out = b"".join(piece for is_train, piece in parts if not is_train)
    train.decode()
    assert train + held_out == b"".join(pieces)
    assert min(num_train_bytes, len(train + held_out)) <= len(train) <= num_train_bytes + 3
    assert [is_train for is_train, _ in parts] == sorted((is_train for is_train, _ in parts), reverse=True)


def test_files_are_joined_in_the_order_of_their_hashed_names(tmp_path: Path) -> None:
    root = tmp_path / "texts"
    names = ["a.txt", "b.txt", "deep/er/c.txt", "deep/d.txt"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "empty.txt").touch()
    (root / "notes.md").write_text("not asked for")
    (root / ".hidden.txt").write_text("hidden")
    (root / "..data").mkdir()
    (root / "..data" / "a.txt").write_text("second copy")
    names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    assert stream_of(text_settings(root)) == b"\0".join(name.encode() for name in names)


def notes_of(settings: DataSettings) -> tuple[str, ...]:
    return text_files(settings).notes


def test_empty_files_and_what_lies_beyond_the_limit_are_told(tmp_path: Path) -> None:
    root = tmp_path / "texts"
    root.mkdir()
    for number in range(5):
        (root / f"{number}.txt").write_text(str(number) * 100)
    first, second, third, *_ = sorted(root.iterdir(), key=lambda path: hashlib.sha256(path.name.encode()).digest())
    assert "leaves out" not in "".join(notes_of(text_settings(root, max_bytes=500)))
    assert "maxBytes 350 leaves out 2 of 5 files" in notes_of(text_settings(root, max_bytes=350))
    assert f"maxBytes 90 leaves out {first} from byte 90 on and 4 of 5 files" in notes_of(
        text_settings(root, max_bytes=90)
    )
    assert f"maxBytes 90 leaves out {first} from byte 90 on" in notes_of(text_settings(first, max_bytes=90))
    first.write_text("")
    third.write_text("")
    told = notes_of(text_settings(root, max_bytes=200))
    assert told[:2] == (
        f"2 of 5 files are empty and left out; the first: {first}",
        "maxBytes 200 leaves out 1 of 5 files",
    )
    second.write_bytes(b"\xff")
    plain = text_settings(root).to_plain()
    plain["text"] |= {"onBadSample": "Skip", "maxBadPercent": 50, "maxBytes": 100}
    bad, empty, beyond = notes_of(DataSettings.model_validate(plain))[:3]
    assert bad.startswith("1 of ")
    assert empty == f"2 of 5 files are empty and left out; the first: {first}"
    assert beyond == "maxBytes 100 leaves out 1 of 5 files"


def test_a_single_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    path.write_text("some text")
    assert stream_of(text_settings(path)) == b"some text"


def test_links_are_followed_and_loops_of_links_end(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (root / "a.txt").write_text("a")
    (elsewhere / "b.txt").write_text("b")
    (root / "loop").symlink_to(root)
    (root / "other").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    os.mkfifo(root / "pipe.txt")
    assert sorted(stream_of(text_settings(root)).split(b"\0")) == [b"a", b"b"]


def test_whole_files_are_read_until_the_limit(tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / f"{name}.txt").write_text(name * 10)
    everything = stream_of(text_settings(tmp_path)).split(b"\0")
    assert stream_of(text_settings(tmp_path, max_bytes=39)).split(b"\0") == everything[:3]
    assert stream_of(text_settings(tmp_path, max_bytes=40)).split(b"\0") == everything[:4]


@pytest.mark.parametrize(
    ("max_bytes", "expected"), [(1, "a"), (2, "a"), (3, "aé"), (5, "aé"), (6, "aé東"), (9, "aé東"), (10, "aé東🙂")]
)
def test_a_first_file_longer_than_the_limit_is_cut_between_characters(
    tmp_path: Path, max_bytes: int, expected: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("aé東🙂!")
    assert stream_of(text_settings(path, max_bytes=max_bytes)).decode() == expected


def test_characters_that_straddle_two_blocks_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text(PROSE)
    for block in range(1, 8):
        monkeypatch.setattr("costopt_trainer.data.sources.text_files.PIECE_BYTES", block)
        pieces = list(joined(text_files(text_settings(path)).documents()))
        assert "".join(piece.decode() for piece in pieces) == PROSE


@given(st.lists(st.one_of(st.text(max_size=3).map(str.encode), st.binary(max_size=2)), max_size=6).map(b"".join))
def test_what_is_not_utf_8_is_found_where_it_is(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("a") / "a.txt"
    path.write_bytes(b"begin " + content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("costopt_trainer.data.sources.text_files.PIECE_BYTES", 7)
        patch.setattr("costopt_trainer.data.sources.text_files.CHECKED_BYTES", 3)
        try:
            wanted = path.read_bytes().decode()
        except UnicodeDecodeError as error:
            with pytest.raises(
                NotRetryable, match=f"the byte at offset {error.start} \\(0x{path.read_bytes()[error.start]:02x}"
            ):
                stream_of(text_settings(path))
        else:
            assert stream_of(text_settings(path)).decode() == wanted


def test_the_standard_library_is_read_without_packages_installed_beside_it() -> None:
    settings = DataSettings(
        type="PythonStandardLibrary",
        python_standard_library=PythonStandardLibraryData(max_bytes=2_000_000),
    )
    source = standard_library(settings)
    assert sum(file.num_bytes for file in source.files) <= 2_000_000
    assert sum(len(piece) for piece in joined(source.documents())) > 500_000
    assert all(file.path.suffix == ".py" for file in source.files)
    assert not any({"site-packages", "dist-packages", "__pycache__"} & set(file.path.parts) for file in source.files)


# The cache.


def test_tokens_are_made_once(prose: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = load_data(text_settings(prose, tokenizer=BPE), context_length=8, cache_dir=cache)
    made = {path.name: path.stat().st_mtime_ns for path in shard_folder(cache).iterdir()}
    second = load_data(text_settings(prose, tokenizer=BPE), context_length=8, cache_dir=cache)
    assert {path.name: path.stat().st_mtime_ns for path in shard_folder(cache).iterdir()} == made
    assert set(made) == {"train.bin", "validation.bin", "tokenizer.json", "shards.json"}
    assert first.fingerprint == second.fingerprint
    assert first.reference_entropies == second.reference_entropies


@pytest.mark.parametrize("change", ["text", "tokenizer", "split"])
def test_another_text_or_setting_gets_tokens_of_its_own(prose: Path, tmp_path: Path, change: str) -> None:
    cache = tmp_path / "cache"
    before = load_data(text_settings(prose), context_length=8, cache_dir=cache)
    if change == "text":
        prose.write_text(prose.read_text().replace("cat", "cow", 1))
    tokenizer = BPE if change == "tokenizer" else None
    percent = 20 if change == "split" else 10
    changed = text_settings(prose, tokenizer=tokenizer, validation_percent=percent)
    after = load_data(changed, context_length=8, cache_dir=cache)
    assert before.fingerprint != after.fingerprint
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 2


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink], ids=["truncated", "bit flipped", "missing"])
@pytest.mark.parametrize("name", ["train.bin", "validation.bin", "shards.json", "tokenizer.json"])
def test_a_damaged_cache_is_made_again(prose: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    cache = tmp_path / "cache"
    settings = text_settings(prose, tokenizer=BPE)
    before = all_inputs(load_data(settings, context_length=8, cache_dir=cache), "train")
    (cache / f".{shard_folder(cache).name}.partial").mkdir()  # of a maker that was killed at its beginning
    damage(shard_folder(cache) / name)
    after = load_data(settings, context_length=8, cache_dir=cache)
    assert (all_inputs(after, "train") == before).all()
    files = {entry.name for entry in shard_folder(cache).iterdir()}
    assert files == {"train.bin", "validation.bin", "shards.json", "tokenizer.json"}
    assert not list(cache.glob(".*.partial"))


def test_ranks_that_start_at_once_make_one_cache(prose: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from costopt.schema.data import DataSettings\n"
        "from costopt_trainer.data import load_data\n"
        "settings = DataSettings.model_validate_json(sys.argv[1])\n"
        "print(load_data(settings, context_length=8, cache_dir=Path(sys.argv[2])).fingerprint)"
    )
    plain = {**text_settings(prose, tokenizer=BPE).to_plain(), "transforms": [{"type": "NormalizeUnicode"}]}
    settings = json.dumps(plain)
    arguments = [sys.executable, "-c", program, settings, str(tmp_path / "cache")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ranks = [subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(3)]
    answers = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    assert len(set(answers)) == 1
    assert shard_folder(tmp_path / "cache").is_dir()
    assert not list((tmp_path / "cache").glob(".*.partial"))


def test_a_cache_that_cannot_be_written_to_still_serves(prose: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = load_data(text_settings(prose), context_length=8, cache_dir=cache)
    next(cache.glob(".*.lock")).unlink()
    cache.chmod(0o555)
    try:
        after = load_data(text_settings(prose), context_length=8, cache_dir=cache)
    finally:
        cache.chmod(0o755)
    assert after.fingerprint == before.fingerprint
    assert not list(cache.glob(".*.lock"))


# Byte pairs.


@given(st.text(max_size=40))
def test_byte_pairs_lose_nothing(text: str) -> None:
    assert TRAINED.decode(TRAINED.encode(text.encode())) == text
    assert TRAINED.vocabulary_size == 300


TRAINED = BytePairTokenizer.train([(PROSE * 30).encode()], 300)


def test_byte_pairs_learned_twice_are_the_same() -> None:
    texts = [(PROSE + str(number)).encode() for number in range(50)]
    assert BytePairTokenizer.train(texts, 500).to_json() == BytePairTokenizer.train(texts, 500).to_json()


def test_byte_pairs_are_learned_from_the_training_split_only(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("ab " * 3000 + "qz " * 300)
    load_data(text_settings(path, tokenizer=BPE, validation_percent=10), context_length=8, cache_dir=tmp_path / "cache")
    vocabulary = json.loads((shard_folder(tmp_path / "cache") / "tokenizer.json").read_text())["model"]["vocab"]
    assert "ab" in vocabulary
    assert "qz" not in vocabulary


def test_bytes_per_token_counts_the_held_out_text(prose: Path, tmp_path: Path) -> None:
    data = load_data(text_settings(prose, tokenizer=BPE), context_length=8, cache_dir=tmp_path / "cache")
    shards = json.loads((shard_folder(tmp_path / "cache") / "shards.json").read_text())
    tokens = shards["files"]["validation.bin"]["bytes"] / 2  # uint16
    assert data.vocabulary_size == 300
    assert data.validation_bytes_per_token == shards["numValidationBytes"] / tokens
    assert data.validation_bytes_per_token > 1.2


# Entropies.


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_entropies_are_those_of_the_bytes_counted_by_hand(pieces: list[bytes]) -> None:
    counts = PairCounts()
    for piece in pieces:
        counts.add(piece)
    text = b"".join(pieces)
    pairs = Counter(pairwise(text))
    befores = Counter(text[:-1])
    unigram = -sum(n / len(text) * log(n / len(text)) for n in Counter(text).values())
    bigram = -sum(n / len(text[1:]) * log(n / befores[pair[0]]) for pair, n in pairs.items())
    assert counts.entropies() == {
        UNIGRAM: pytest.approx(unigram, abs=1e-12),
        BIGRAM: pytest.approx(bigram, abs=1e-12),
    }
    assert counts.num_bytes == len(text)


def test_entropies_of_a_real_text_are_plausible(tmp_path: Path) -> None:
    data = load_data(text_settings(real_text()), context_length=64, cache_dir=tmp_path)
    assert data.reference_entropies[UNIGRAM] == pytest.approx(3.337, abs=0.01)
    assert data.reference_entropies[BIGRAM] == pytest.approx(2.374, abs=0.01)
    assert data.num_train_samples == (1_115_394 - 111_539 - 1) // 64


def test_files_that_differ_are_named(tmp_path: Path) -> None:
    texts, cache = tmp_path / "texts", tmp_path / "cache"
    texts.mkdir()
    for name in ("a.txt", "b.txt", "c.txt"):
        (texts / name).write_text(PROSE * 20)
    before = load_data(text_settings(texts), context_length=16, cache_dir=cache).fingerprint
    (texts / "a.txt").write_text(PROSE * 21)
    (texts / "b.txt").unlink()
    (texts / "d.txt").write_text(PROSE)
    now = load_data(text_settings(texts), context_length=16, cache_dir=cache).fingerprint
    assert listing.differences(cache, before, now) == (
        f"{texts}/d.txt is new, {texts}/b.txt is gone, {texts}/a.txt has changed"
    )
    assert listing.differences(cache, before, before) == ""
    assert listing.differences(cache, "0" * 64, now) == ""


@pytest.mark.parametrize("spoiled", ["", "[]", '{"a": 1}', "[" * 9000, "{"])
def test_a_listing_that_was_spoiled_names_nothing(tmp_path: Path, spoiled: str) -> None:
    (tmp_path / "a.files.json").write_text(spoiled)
    listing.keep(tmp_path, "b", {"x": "1"})
    assert listing.differences(tmp_path, "a", "b") == ""
