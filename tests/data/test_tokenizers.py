"""The table of tokenizers: each row does what is asked of one, and a new row is all that a new tokenizer needs."""

import json
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.data import text_settings
from builders.hugging_face import PROSE, write_tokenizer
from costopt.schema.data import Tokenizer
from costopt_trainer.data import load_data
from costopt_trainer.data.tokenizers.table import TOKENIZERS, TokenizerKind, cut_between_words, tokenizer_kind
from costopt_trainer.errors import NotRetryable

WORDS = ["Byte", "BPE", "HuggingFace like gpt2", "HuggingFace like llama", "HuggingFace like bert"]
"""Each word of the language; a file of the Hugging Face library with each way to treat blanks."""


def kind_of(word: str, folder: Path, **settings: Any) -> TokenizerKind:
    word, _, like = word.partition(" like ")
    path = str(write_tokenizer(folder / like, like)) if like else None
    size = settings.get("vocabulary_size", 300)
    return tokenizer_kind(Tokenizer.model_construct(type=word, vocabulary_size=size, path=path))


def test_every_word_of_the_language_has_a_row_and_every_row_a_word() -> None:
    assert set(TOKENIZERS) == set(typing.get_args(Tokenizer.model_fields["type"].annotation))
    assert set(TOKENIZERS) == {word.partition(" ")[0] for word in WORDS}


@pytest.mark.parametrize("word", WORDS)
def test_a_tokenizer_is_the_same_for_the_same_text_and_keeps_to_its_bounds(word: str, tmp_path: Path) -> None:
    kind, text = kind_of(word, tmp_path), PROSE.encode()
    tokenizer = kind.learn([text])
    smallest, largest = kind.vocabulary_sizes
    assert 2 <= smallest <= tokenizer.vocabulary_size <= largest
    tokens = tokenizer.encode(text + b"\0" + text)
    assert int(tokens.max()) < tokenizer.vocabulary_size
    assert (kind.learn([text]).encode(text + b"\0" + text) == tokens).all()
    parts = [tokenizer.encode(part) for part in cut_between_words(text, 100)]
    assert len(parts) > 5
    assert (np.concatenate(parts) == tokenizer.encode(text)).all()
    assert (tokenizer.encode(tokenizer.decode(tokenizer.encode(text)).encode()) == tokenizer.encode(text)).all()
    again = kind.from_json(tokenizer.to_json())
    assert (again.encode(text) == tokenizer.encode(text)).all()
    assert bool(tokenizer.to_json()) == kind.learns


@pytest.mark.parametrize("word", WORDS)
def test_the_fingerprint_of_a_tokenizer_is_json_and_its_own(word: str, tmp_path: Path) -> None:
    fingerprint = kind_of(word, tmp_path).fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint == kind_of(word, tmp_path).fingerprint()
    assert all(fingerprint != kind_of(other, tmp_path).fingerprint() for other in WORDS if other != word)
    if kind_of(word, tmp_path).learns:
        assert fingerprint != kind_of(word, tmp_path, vocabulary_size=301).fingerprint()


@pytest.mark.parametrize(("like", "separator"), [("gpt2", 1), ("llama", 1), ("bert", 4)])
def test_between_two_documents_stands_the_end_of_text_of_the_models_own_tokenizer(
    like: str, separator: int, tmp_path: Path
) -> None:
    tokenizer = kind_of(f"HuggingFace like {like}", tmp_path).learn(())
    both, one = tokenizer.encode(b"the cat\0the cat").tolist(), tokenizer.encode(b"the cat").tolist()
    assert both == [*one, separator, *one]
    assert len(tokenizer.encode(PROSE.encode())) > 100, "it was set up to cut texts"


def test_the_models_own_tokenizer_is_used_where_none_is_asked_for(tmp_path: Path) -> None:
    of_model = write_tokenizer(tmp_path, "gpt2").parent
    own = kind_of("HuggingFace like gpt2", tmp_path).fingerprint()
    assert tokenizer_kind(None, of_model).fingerprint() == own
    assert tokenizer_kind(Tokenizer(type="HuggingFace"), of_model).fingerprint() == own
    assert tokenizer_kind(Tokenizer(), of_model).fingerprint()["tokenizer"] == "Byte"
    assert tokenizer_kind(None).fingerprint()["tokenizer"] == "Byte"


def test_a_tokenizer_that_is_missing_or_none_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    for path, sentence in (
        (tmp_path, "must be a tokenizer.json"),
        (tmp_path / "none", "must be a tokenizer.json that can be read, but there is none"),
        (None, "data.tokenizer.path must be set, because the model brings no tokenizer of its own"),
    ):
        with pytest.raises(NotRetryable, match=sentence) as caught:
            tokenizer_kind(Tokenizer(type="HuggingFace", path=None if path is None else str(path)))
        assert caught.value.reason == "InvalidData"


@pytest.mark.parametrize(
    ("tokenizer", "key"),
    [
        (Tokenizer(), "a5216bd66461a8b90838d918e7fde48feb98a1e59d7da91bb3acccfa5a9b097b"),
        (
            Tokenizer(type="BPE", vocabulary_size=300),
            "071b74af120603429ffb0fbf8f6d273677d48a43366607f0b195466847e0f794",
        ),
    ],
    ids=["Byte", "BPE"],
)
def test_tokens_made_by_earlier_versions_are_found_again(tokenizer: Tokenizer, key: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PROSE, encoding="utf-8")
    (tmp_path / "b.txt").write_text("b", encoding="utf-8")
    settings = text_settings(tmp_path, tokenizer=tokenizer)
    assert load_data(settings, context_length=8, cache_dir=tmp_path / "cache").fingerprint == f"{key}-8"


class Halves:
    """A throw-away tokenizer: two tokens per byte, sixteen in all."""

    learns = False
    vocabulary_sizes = (16, 16)
    vocabulary_size = 16

    def __init__(self, _settings: Tokenizer) -> None:
        pass

    def fingerprint(self) -> dict[str, Any]:
        return {"tokenizer": "Halves"}

    def learn(self, _pieces: Iterable[bytes]) -> "Halves":
        return self

    from_json = learn

    def encode(self, piece: bytes) -> Any:
        values = np.frombuffer(piece, dtype=np.uint8)
        return np.stack([values >> 4, values & 15], axis=1).reshape(-1)

    def decode(self, tokens: Iterable[int]) -> str:
        halves = np.array(list(tokens), dtype=np.uint8).reshape(-1, 2)
        return bytes(halves[:, 0] << 4 | halves[:, 1]).decode(errors="replace")

    def to_json(self) -> str:
        return ""


def test_a_new_tokenizer_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOKENIZERS, "Halves", f"{__name__}:Halves")
    (tmp_path / "a.txt").write_text(PROSE, encoding="utf-8")
    settings = text_settings(tmp_path / "a.txt", tokenizer=Tokenizer().model_copy(update={"type": "Halves"}))
    data = load_data(settings, context_length=8, cache_dir=tmp_path / "cache")
    inputs, _ = data.train_batch(np.arange(1))
    assert data.vocabulary_size == 16
    assert bytes((inputs[0, ::2] * 16 + inputs[0, 1::2]).tolist()) == b"The "
    assert data.validation_bytes_per_token == 0.5


def test_a_tokenizer_whose_texts_have_no_longest_length_keeps_its_special_tokens(tmp_path: Path) -> None:
    file = write_tokenizer(tmp_path, "bert")
    config = file.parent / "tokenizer_config.json"
    plain = json.loads(config.read_text()) if config.exists() else {}
    config.write_text(json.dumps({**plain, "sep_token": "[SEP]", "model_max_length": int(1e30)}))
    for other in ("special_tokens_map.json",):
        (file.parent / other).unlink(missing_ok=True)
    tokenizer = tokenizer_kind(Tokenizer(type="HuggingFace", path=str(file))).learn(())
    assert tokenizer.encode(b"the cat\0the cat").tolist()[2] == tokenizer.special_tokens.after[0]
