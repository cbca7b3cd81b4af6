"""Several texts as one: each sample is one of its source, and no source trains on what another holds out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from costopt.schema.data import DataSettings
from costopt.schema.data_kinds import MASKED_TEXT
from costopt_trainer.data import TrainingData, listing, load_data
from costopt_trainer.data.orders.mixed import Mixed, weights_over
from costopt_trainer.errors import NotRetryable

WORDS = {"low": "abcdefg", "high": "tuvwxyz", "digits": "0123456789"}


def write(folder: Path, name: str, *, count: int = 3000, seed: int = 0) -> Path:
    """A text of letters that no other source has."""
    source = np.random.default_rng([seed, *name.encode()])
    path = folder / f"{name}-{seed}.txt"
    path.write_text("".join(source.choice(list(WORDS[name]), count)))
    return path


def mixture(sources: list[dict[str, Any]], **more: Any) -> DataSettings:
    return DataSettings.model_validate({"type": "Mixture", "mixture": {"sources": sources}, **more})


def of_text(folder: Path, *names: str, **more: Any) -> DataSettings:
    """A mixture of texts whose sizes differ."""
    sources = [
        {"name": name, "text": {"path": str(write(folder, name, count=3000 + 1000 * place))}}
        for place, name in enumerate(names)
    ]
    return mixture(sources, **more)


def loaded(settings: DataSettings, folder: Path, **also: Any) -> TrainingData:
    return load_data(settings, context_length=16, cache_dir=folder / "cache", **also)


def ordered(data: TrainingData, settings: DataSettings) -> TrainingData:
    """As a run of 400 samples draws them."""
    assert settings.mixture is not None
    sizes = tuple(part.num_train_samples for part in data.parts)
    return replace(data, order=Mixed(tuple(WORDS)[: len(sizes)], sizes, weights_over(settings.mixture, 400)))


def refused(settings: DataSettings, sentence: str, folder: Path) -> None:
    with pytest.raises(NotRetryable, match=sentence) as caught:
        loaded(settings, folder)
    assert "\n" not in str(caught.value)
    assert " must " in str(caught.value)


def test_samples_are_those_of_each_source_one_source_after_the_other(tmp_path: Path) -> None:
    data = loaded(of_text(tmp_path, "low", "high"), tmp_path)
    alone = [
        loaded(
            DataSettings.model_validate({"type": "Text", "text": {"path": str(tmp_path / f"{name}-0.txt")}}), tmp_path
        )
        for name in ("low", "high")
    ]
    assert [part.name for part in data.parts] == ["low", "high"]
    assert data.num_train_samples == sum(each.num_train_samples for each in alone)
    assert data.num_validation_samples == sum(each.num_validation_samples for each in alone)
    first, last = alone[0].num_train_samples, alone[1].num_train_samples - 1
    inputs, targets = data.train_batch(np.array([first, 3, first + last, 0]))
    for row, (source, number) in enumerate([(1, 0), (0, 3), (1, last), (0, 0)]):
        own_inputs, own_targets = alone[source].train_batch(np.array([number]))
        assert torch.equal(inputs[row], own_inputs[0])
        assert torch.equal(targets[row], own_targets[0])
    held_out, _ = data.validation_batch(np.arange(data.num_validation_samples))
    both = torch.cat([each.validation_batch(np.arange(each.num_validation_samples))[0] for each in alone])
    assert torch.equal(held_out, both)
    assert data.validation_bytes_per_token == 1


def test_what_is_drawn_does_not_depend_on_how_ranks_share_it(tmp_path: Path) -> None:
    settings = of_text(tmp_path, "low", "high", "digits")
    plain = settings.to_plain()
    plain["mixture"]["sources"][0] |= {"weight": 5, "endWeight": 1}
    settings = DataSettings.model_validate(plain)
    for reads in (MASKED_TEXT, "text"):
        data = ordered(loaded(settings, tmp_path, reads=reads), settings)
        whole, _ = data.train_batches(seed=4, position=0, count=400, batch_size=400)[0]
        for ranks in (1, 2, 4):
            share = 8 // ranks
            parts = [
                data.train_batches(seed=4, position=at + rank * share, count=share, batch_size=2)
                for at in range(0, 400, 8)
                for rank in range(ranks)
            ]
            assert torch.equal(torch.cat([inputs for part in parts for inputs, _ in part]), whole)
    letters = {name: set(map(ord, kind)) for name, kind in WORDS.items()}
    seen = data.order.drawn(position=0, count=400)[0]  # type: ignore[union-attr]
    assert len(set(seen)) == 3
    for row, source in zip(whole.tolist(), seen, strict=True):
        assert set(row) <= letters[data.parts[source].name]


def test_a_tokenizer_that_learns_has_learned_from_all(tmp_path: Path) -> None:
    bpe = {"tokenizer": {"type": "BPE", "vocabularySize": 300}}
    data = loaded(of_text(tmp_path, "low", "digits", **bpe), tmp_path)
    assert data.tokenizer is not None
    known = {data.tokenizer.decode([token]) for token in range(256, data.vocabulary_size or 0)}
    assert any(set(each) <= set(WORDS["low"]) for each in known)
    assert any(set(each) <= set(WORDS["digits"]) for each in known)
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.tokenizer.json")}
    again = loaded(of_text(tmp_path, "low", "digits", **bpe), tmp_path)
    assert made
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.tokenizer.json")} == made
    assert again.fingerprint == data.fingerprint
    for path in (tmp_path / "cache").glob("*.tokenizer.json"):
        path.write_text(path.read_text().replace("digits", "").replace("0", "1"))
    assert loaded(of_text(tmp_path, "low", "digits", **bpe), tmp_path).fingerprint == data.fingerprint


def test_a_tokenizer_learns_from_what_transforms_leave(tmp_path: Path) -> None:
    settings = of_text(
        tmp_path,
        "low",
        "high",
        tokenizer={"type": "BPE", "vocabularySize": 300},
        transforms=[{"type": "MaskPersonalData"}],
    )
    with (tmp_path / "low-0.txt").open("a") as stream:
        stream.write(" someone@example.org" * 100)
    path = tmp_path / "low-0.txt"
    path.write_text(" someone@example.org" * 200 + path.read_text())
    data = loaded(settings, tmp_path)
    assert data.tokenizer is not None
    known = {data.tokenizer.decode([token]) for token in range(data.vocabulary_size or 0)}
    assert not any("someone" in each for each in known)
    assert not list((tmp_path / "cache").glob(".*.text"))


def test_tokens_made_elsewhere_are_mixed_with_text_of_the_same_tokenizer(tmp_path: Path) -> None:
    np.frombuffer(b"quick " * 500, dtype=np.uint8).astype("<u2").tofile(tmp_path / "a.bin")
    tokens: dict[str, Any] = {"path": str(tmp_path / "a.bin"), "vocabularySize": 256}
    text = {"name": "low", "text": {"path": str(write(tmp_path, "low"))}}
    data = loaded(mixture([text, {"name": "made", "tokenShards": tokens}]), tmp_path)
    inputs, _ = data.train_batch(np.array([data.num_train_samples - 1]))
    assert set(bytes(inputs[0].tolist())) <= set(b"quick ")
    assert data.validation_bytes_per_token is None
    assert data.tokenizer is not None
    assert data.tokenizer.decode(inputs[0].tolist()) == bytes(inputs[0].tolist()).decode()
    tokens["vocabularySize"] = 300
    refused(
        mixture([text, {"name": "made", "tokenShards": tokens}]),
        "must have one tokenizer, but the vocabulary size of low is 256 and that of made is 300",
        tmp_path,
    )


def test_a_file_that_two_sources_read_is_named(tmp_path: Path) -> None:
    path, other = write(tmp_path, "low"), write(tmp_path, "high")
    both = {"paths": [str(path), str(other)]}
    refused(
        mixture([{"name": "a", "text": {"path": str(path)}}, {"name": "b", "text": both}]),
        rf"the sources a and b of data\.mixture must not share texts, but both read {path}: name each file in one",
        tmp_path,
    )
    np.arange(900).astype("<u2").tofile(tmp_path / "a.bin")
    tokens = {"path": str(tmp_path / "a.bin"), "vocabularySize": 1000}
    refused(
        mixture([{"name": "a", "tokenShards": tokens}, {"name": "b", "tokenShards": tokens | {"include": "a*"}}]),
        rf"both read {tmp_path}/a.bin",
        tmp_path,
    )


def test_a_document_that_one_source_holds_out_is_none_that_another_trains_on(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{number} of a hundred {'x' * 100}"}) for number in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    others = [json.dumps({"text": f"{number} of others {'x' * 100}"}) for number in range(100)]

    def sources() -> DataSettings:
        return mixture([{"name": name, "records": {"path": str(tmp_path / f"{name}.jsonl")}} for name in ("a", "b")])

    (tmp_path / "b.jsonl").write_text("\n".join([*others[:50], lines[95], *others[50:]]))
    refused(
        sources(),
        rf"the sources a and b of data\.mixture must not share texts, but a holds out {tmp_path}/a.jsonl, line 96, "
        rf"which b trains on as {tmp_path}/b.jsonl, line 51: leave it out of one of them",
        tmp_path,
    )
    # Both train on it: nothing is measured on what was trained on.
    (tmp_path / "b.jsonl").write_text("\n".join([lines[3], *others]))
    assert loaded(sources(), tmp_path).num_train_samples > 0
    # Both hold it out: it would weigh twice in the loss.
    (tmp_path / "b.jsonl").write_text("\n".join([*others, lines[97], lines[98]]))
    refused(
        sources(),
        rf"must not share texts, but a holds out {tmp_path}/a.jsonl, line \d+ and 1 more, "
        rf"which b holds out, too, as {tmp_path}/b.jsonl, line \d+: leave it out of one of them",
        tmp_path,
    )


def test_what_is_nearly_equal_to_a_document_that_another_source_holds_out_is_dropped(tmp_path: Path) -> None:
    def prose(number: int) -> list[str]:
        return [f"w{word}" for word in np.random.default_rng(number).integers(0, 5000, 120).tolist()]

    def sources(**more: Any) -> DataSettings:
        names = ("a", "b")
        return mixture([{"name": name, "records": {"path": str(tmp_path / f"{name}.jsonl")}} for name in names], **more)

    texts = {"a": [prose(number) for number in range(40)], "b": [prose(number) for number in range(100, 140)]}
    near = [*texts["a"][39][:-1], "changed"]
    texts["b"][5:5] = [near, [*prose(7)[:-1], "changed"]]
    for name, own in texts.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": " ".join(words)}) for words in own))
    transforms = [{"type": "NormalizeWhitespace"}, {"type": "RemoveDuplicates"}]
    data = loaded(sources(transforms=transforms), tmp_path)

    def trained(own: TrainingData) -> str:
        inputs, _ = own.train_batch(np.arange(own.num_train_samples))
        return bytes(inputs.reshape(-1).tolist()).decode()

    assert " ".join(near[:40]) not in trained(data)
    assert " ".join(near[:40]) in trained(loaded(sources(), tmp_path))
    told = [note for note in data.notes if note.startswith("b: RemoveDuplicates")]
    assert "dropped 1 (nearly equal to a held-out document 1)" in told[0]
    assert "/b.jsonl, line 6" in told[1], "a long path is cut in its midst"
    assert "/a.jsonl, line 40" in told[1]
    assert not any("dropped 1" in note for note in data.notes if note.startswith("a: "))
    # Where only what the other one holds out is another, what is left here is, too.
    texts["a"][39] = prose(39)[::-1]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": " ".join(words)}) for words in texts["a"]))
    assert " ".join(near[:40]) in trained(loaded(sources(transforms=transforms), tmp_path))


def test_what_two_sources_share_by_chance_is_no_matter(tmp_path: Path) -> None:
    for name in ("a", "b"):
        texts = [f"{name} {number} {'y' * 100}" for number in range(40)] + ["the same"] * 40
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    settings = mixture([{"name": name, "records": {"path": str(tmp_path / f"{name}.jsonl")}} for name in ("a", "b")])
    assert loaded(settings, tmp_path).num_train_samples > 0


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"text": {"path": "no/such.txt"}}, r"source b of data\.mixture: data\.text\.path: no/such.txt must"),
        (
            {"records": {"path": "{short}"}},
            r"source b of data\.mixture: .*short.txt must end in one of",
        ),
        (
            {"text": {"path": "{short}"}},
            r"source b of data\.mixture: .* must give at least 17 tokens .* training split",
        ),
    ],
)
def test_a_source_that_cannot_be_read_is_named(source: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short")
    told = json.loads(json.dumps(source).replace("{short}", str(tmp_path / "short.txt")))
    refused(
        mixture([{"name": "a", "text": {"path": str(write(tmp_path, "low"))}}, {"name": "b", **told}]),
        sentence,
        tmp_path,
    )


def test_files_that_differ_are_named(tmp_path: Path) -> None:
    before = loaded(of_text(tmp_path, "low", "high"), tmp_path).fingerprint
    path = tmp_path / "high-0.txt"
    (tmp_path / "high-0.txt").write_text(path.read_text()[::-1])
    settings = mixture([{"name": name, "text": {"path": str(tmp_path / f"{name}-0.txt")}} for name in ("low", "high")])
    now = loaded(settings, tmp_path).fingerprint
    assert now != before
    assert listing.differences(tmp_path / "cache", before, now) == f"{path} has changed"


def test_a_part_of_the_samples_is_shared_out_again(tmp_path: Path) -> None:
    data = loaded(of_text(tmp_path, "low", "high"), tmp_path)
    low = data.parts[0].num_train_samples
    few = data.only(np.array([0, 5, low - 1, low, low + 7, low + 8, low + 9]))
    assert [part.num_train_samples for part in few.parts] == [3, 4]
    assert few.parts[1].num_validation_samples == data.parts[1].num_validation_samples
