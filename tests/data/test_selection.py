"""Which samples are kept: a table that follows from samples and settings, made once, each sample in it at most once."""

import hashlib
import itertools
import json
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders.data import (
    image_settings,
    labelled_settings,
    table_settings,
    text_settings,
    write_images,
    write_labelled,
    write_table,
)
from costopt.schema.selection import Order, Selection
from costopt_trainer.data import TrainingData, load_data, sample_indices
from costopt_trainer.data.orders.table import plan_of
from costopt_trainer.data.selection import representative
from costopt_trainer.data.selection.bigram import Bigram
from costopt_trainer.data.selection.by_loss import easiest_first, losses_of
from costopt_trainer.data.selection.embeddings import embedded
from costopt_trainer.data.selection.representative import equal_shares, k_center, k_means
from costopt_trainer.data.selection.samples import Samples
from costopt_trainer.data.selection.stratified import drawn, shares
from costopt_trainer.data.selection.table import CHOOSERS, kept
from costopt_trainer.data.training_data import FeatureScales
from costopt_trainer.errors import NotRetryable

EVERY: dict[str, dict[str, Any]] = {
    "Random": {},
    "Stratified": {},
    "Loss": {"loss": {"keep": "Highest"}},
    "KCenter": {"representative": {}},
    "Clusters": {"representative": {"method": "Clusters", "clusters": 5}},
}


def selection(word: str, percent: int = 40) -> Selection:
    kind = "Representative" if word in ("KCenter", "Clusters") else word
    return Selection.model_validate({"type": kind, "keepPercent": percent, **EVERY[word]})


@pytest.fixture(scope="module")
def data_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainingData]:
    """Each kind of data: text in which every tenth stretch is noise, documents, images and rows."""
    folder = tmp_path_factory.mktemp("data")
    source = np.random.default_rng(0)
    noise = "".join(chr(code) for code in source.integers(33, 127, 4096))
    text = folder / "a.txt"
    text.write_text(
        "".join("to be or not to be, that is it. " * 9 if n % 10 else noise[288 * (n // 10) :][:288] for n in range(90))
    )
    sources = {
        "text": text_settings(text),
        "documents": labelled_settings(write_labelled(folder / "a.jsonl", count=200)),
        "images": image_settings(write_images(folder / "images.npz", count=200)),
        "rows": table_settings(write_table(folder / "rows.npz", count=200)),
    }
    return {
        name: load_data(settings, context_length=32, cache_dir=folder / "cache") for name, settings in sources.items()
    }


def test_every_word_has_a_chooser() -> None:
    assert CHOOSERS.keys() == set(Selection.model_fields["type"].annotation.__args__)  # type: ignore[union-attr]


@pytest.mark.parametrize("word", Order.model_fields["type"].annotation.__args__)  # type: ignore[union-attr]
def test_every_word_of_an_order_has_a_plan_but_shuffled(word: str) -> None:
    settings = {"curriculum": {"steps": 5}} if word == "Curriculum" else {}
    plan = plan_of(Order.model_validate({"type": word, **settings}))
    assert (plan.word if plan else "Shuffled") == word


@pytest.mark.parametrize("word", EVERY)
@pytest.mark.parametrize("kind", ["text", "documents", "images", "rows"])
def test_so_many_samples_are_kept_each_once_and_the_same_again(
    word: str, kind: str, data_of: dict[str, TrainingData], tmp_path: Path
) -> None:
    data = data_of[kind]
    losses = None if data.vocabulary_size else lambda batch: batch[1].numpy().astype(np.float64)
    samples = Samples(data, 3, losses)
    numbers = kept(samples, selection(word), "", tmp_path / "a")
    assert len(numbers) == data.num_train_samples * 40 // 100
    assert np.array_equal(numbers, np.unique(numbers)), "in ascending order, none twice"
    assert np.array_equal(numbers, kept(samples, selection(word), "", tmp_path / "b")), "chosen anew"
    few = data.only(numbers)
    assert few.num_train_samples == len(numbers)
    assert few.fingerprint != data.fingerprint
    for got, wanted in zip(few.train_batch(np.arange(5)), data.train_batch(numbers[:5]), strict=True):
        assert torch.equal(got, wanted)
    assert few.num_validation_samples == data.num_validation_samples


@pytest.mark.parametrize("word", EVERY)
def test_a_damaged_table_is_made_again(word: str, data_of: dict[str, TrainingData], tmp_path: Path) -> None:
    samples = Samples(data_of["documents"], 0)
    numbers = kept(samples, selection(word), "", tmp_path)
    [table] = tmp_path.glob("*.numbers")
    whole = table.read_bytes()
    header, _, content = whole.partition(b"\n")
    other = np.frombuffer(content, dtype="<i8").copy()
    other[0] = min({*range(samples.count)} - {*numbers.tolist()})
    fresh = json.loads(header)
    for damaged in (
        whole[:-1],
        whole + b"\0",
        whole[:-8] + b"\1" * 8,
        header + b"\n" + other.tobytes(),
        b"",
        b"[" * 900 + whole,
        json.dumps({**fresh, "key": "0" * 64}).encode() + b"\n" + content,
        json.dumps({**fresh, "count": 10**12}).encode() + b"\n" + content,
    ):
        table.write_bytes(damaged)
        assert np.array_equal(kept(samples, selection(word), "", tmp_path), numbers)
        assert table.read_bytes() == whole


def test_a_table_is_read_and_not_made_again(data_of: dict[str, TrainingData], tmp_path: Path) -> None:
    asked: list[int] = []

    def losses(batch: Any) -> Any:
        asked.append(len(batch[0]))
        return np.arange(len(batch[0]), dtype=np.float64)

    samples = Samples(data_of["rows"], 0, losses)
    kept(samples, selection("Loss"), "abc", tmp_path)
    once = len(asked)
    kept(samples, selection("Loss"), "abc", tmp_path)
    assert len(asked) == once > 0
    kept(samples, selection("Loss"), "another model", tmp_path)
    kept(replace(samples, seed=1), selection("Loss"), "abc", tmp_path)
    kept(samples, selection("Loss", 30), "abc", tmp_path)
    assert len(asked) == 4 * once


@given(st.lists(st.integers(0, 500), min_size=1, max_size=30).filter(any), st.data())
def test_each_stratum_keeps_its_share_to_within_one(sizes: list[int], draw: st.DataObject) -> None:
    count = draw.draw(st.integers(1, sum(sizes)))
    of_each = shares(np.array(sizes), count)
    assert of_each.sum() == count
    for size, share in zip(sizes, of_each.tolist(), strict=True):
        assert math.floor(size * count / sum(sizes)) <= share <= math.ceil(size * count / sum(sizes))


@given(st.lists(st.integers(0, 500), min_size=1, max_size=30).filter(any), st.data())
def test_clusters_give_equally_many_as_far_as_they_can(sizes: list[int], draw: st.DataObject) -> None:
    count = draw.draw(st.integers(1, sum(sizes)))
    of_each = equal_shares(np.array(sizes), count).tolist()
    assert sum(of_each) == count
    assert all(share <= size for share, size in zip(of_each, sizes, strict=True))
    most = max(of_each)
    assert all(share >= most - 1 for share, size in zip(of_each, sizes, strict=True) if share < size)


def test_classes_and_stretches_of_a_text_keep_their_share(data_of: dict[str, TrainingData], tmp_path: Path) -> None:
    data = data_of["documents"]
    classes = data.train_batch(np.arange(data.num_train_samples))[1].numpy()
    numbers = kept(Samples(data, 0), selection("Stratified", 50), "", tmp_path)
    assert np.abs(np.bincount(classes[numbers]) - np.bincount(classes) / 2).max() <= 1
    text = data_of["text"]
    numbers = kept(Samples(text, 0), selection("Stratified", 25), "", tmp_path)
    whole = text.num_train_samples // 100
    assert np.array_equal(np.bincount(numbers // 100)[:whole], np.full(whole, 25))


def test_the_hardest_samples_are_those_of_noise(data_of: dict[str, TrainingData], tmp_path: Path) -> None:
    samples = Samples(data_of["text"], 0)
    losses = losses_of(samples)
    settings = [
        Selection.model_validate({"type": "Loss", "keepPercent": 10, "loss": {"keep": keep}})
        for keep in ("Highest", "Middle", "Lowest")
    ]
    highest, middle, lowest = (kept(samples, one, "", tmp_path) for one in settings)
    assert losses[lowest].max() <= losses[middle].min() <= losses[middle].max() <= losses[highest].min()
    assert losses[highest].mean() > 3 * losses[middle].mean()
    order, count = np.argsort(losses, kind="stable"), len(middle)
    first = (samples.count - count) // 2
    assert np.array_equal(middle, np.sort(order[first : first + count]))
    is_noise = np.array([n // 9 % 10 == 0 for n in range(samples.count)])
    assert is_noise[highest].mean() > 0.9
    assert not is_noise[lowest].any()


def test_a_bigram_model_tells_each_token_by_all_others() -> None:
    text = torch.tensor([[0, 1, 0, 1, 0, 2]])

    def batch(indices: np.ndarray) -> Any:
        return text[indices], text[indices]

    data = TrainingData(1, 1, 6, train_batch=batch, validation_batch=batch, fingerprint="", vocabulary_size=3)
    # Of the pairs 01 10 01 10 02: 0 is first in three, 1 in two; second are 0 twice, 1 twice and 2 once, of 5.
    single = np.array([2, 2, 1]) / (5 - 1 + 3)
    likelihoods = [
        (1 + single[1]) / (2 + 1),
        (1 + single[0]) / (1 + 1),
        (1 + single[1]) / (2 + 1),
        (1 + single[0]) / (1 + 1),
        (0 + single[2]) / (2 + 1),
    ]
    [loss] = Bigram(Samples(data, 0)).losses(batch(np.arange(1)))
    assert loss == pytest.approx(-np.log(likelihoods).mean())


def test_what_fills_a_document_up_counts_for_nothing(data_of: dict[str, TrainingData]) -> None:
    data = data_of["documents"]
    samples = Samples(data, 0)
    inputs, _ = batch = data.train_batch(np.arange(20))
    _, lengths = samples.tokens(batch)
    assert np.array_equal(lengths, (inputs != data.pad_id).sum(dim=1).numpy())
    assert len(set(lengths.tolist())) > 5
    bigram = Bigram(samples)
    longer = torch.nn.functional.pad(inputs, (0, 9), value=data.pad_id)
    assert np.array_equal(bigram.losses((longer, batch[1])), bigram.losses(batch))


def test_a_loss_that_is_no_number_is_refused(data_of: dict[str, TrainingData]) -> None:
    samples = Samples(data_of["rows"], 0, lambda batch: np.where(batch[1] == 2, np.nan, 1.0))
    [*_, classes] = data_of["rows"].train_batch(np.arange(samples.count))
    first = int((classes == 2).nonzero()[0])
    with pytest.raises(NotRetryable, match=f"must give every sample a finite loss, but gives training sample {first} "):
        losses_of(samples)


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.data())
def test_the_farthest_comes_next(seed: int, size: int, draw: st.DataObject) -> None:
    vectors = np.random.default_rng(seed).integers(-3, 4, (size, 3)).astype(np.float32)
    count = draw.draw(st.integers(1, size))
    chosen = k_center(vectors, count).tolist()
    assert len(set(chosen)) == count
    for place in range(1, count):
        distances = ((vectors[:, np.newaxis] - vectors[chosen[:place]]) ** 2).sum(axis=2).min(axis=1)
        assert distances[chosen[place]] == distances.max()


def test_rare_samples_stay_where_samples_stand_for_others(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    line = "the same words again and again.\n"
    source = random.Random(0)
    rare = ["".join(source.choices("0123456789+-*/=", k=31)) + "\n" for _ in range(20)]
    text.write_text("".join(rare[n // 50] if n % 50 == 7 else line for n in range(1000)))
    data = load_data(text_settings(text), context_length=32, cache_dir=tmp_path / "cache")
    is_rare = np.arange(data.num_train_samples) % 50 == 7
    for word in ("KCenter", "Clusters"):
        numbers = kept(Samples(data, 0), selection(word, 5), "", tmp_path / "cache")
        assert is_rare[numbers].mean() > 0.3, f"{word}: 2 % of all samples are rare"


def test_clusters_are_found_where_they_are() -> None:
    source = np.random.default_rng(1)
    centers = np.array([[9, 0], [0, 9], [-9, -9]], dtype=np.float32)
    vectors = np.concatenate([center + source.normal(size=(50, 2)).astype(np.float32) for center in centers])
    found = k_means(vectors, 3, seed=0)
    assert np.abs(np.sort(found, axis=0) - np.sort(centers, axis=0)).max() < 0.6
    same = k_means(np.ones((5, 2), dtype=np.float32), 3, seed=0)
    assert np.array_equal(same, np.ones((1, 2)))


def test_of_equal_losses_the_lower_number_is_easier() -> None:
    assert easiest_first(np.array([1.0, 1.0, 0.0, 1.0])).tolist() == [2, 0, 1, 3]


def test_pairs_of_a_large_vocabulary_share_counters_by_a_hash() -> None:
    source = np.random.default_rng(0)
    text = torch.from_numpy(source.integers(0, 4000, (6, 50)))
    text[:, 10:20] = text[0, 10:20]  # pairs that come again

    def batch(indices: np.ndarray) -> Any:
        return text[indices], text[indices]

    data = TrainingData(6, 1, 50, train_batch=batch, validation_batch=batch, fingerprint="", vocabulary_size=4000)
    pairs = [pair for row in text.tolist() for pair in itertools.pairwise(row)]
    of_pairs, of_first = Counter(pairs), Counter(first for first, _ in pairs)
    of_second = Counter(second for _, second in pairs)

    def loss(pair: tuple[int, int]) -> float:
        single = of_second[pair[1]] / (len(pairs) - 1 + 4000)
        return -math.log((of_pairs[pair] - 1 + single) / (of_first[pair[0]] - 1 + 1))

    wanted = [np.mean([loss(pair) for pair in itertools.pairwise(row)]) for row in text.tolist()]
    assert Bigram(Samples(data, 0)).losses(batch(np.arange(6))) == pytest.approx(wanted)


def toy(of: torch.Tensor, **told: Any) -> Samples:
    """Samples that are the rows of a tensor."""

    def batch(indices: np.ndarray) -> Any:
        return of[indices], torch.zeros(len(indices), dtype=torch.int64)

    return Samples(TrainingData(len(of), 1, 1, train_batch=batch, validation_batch=batch, fingerprint="", **told), 0)


def vectors(samples: Samples) -> np.ndarray:
    return np.concatenate([embedded(samples, batch) for batch in samples.blocks()])


def test_texts_lie_near_each_other_that_share_words_and_pairs() -> None:
    words = torch.tensor([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]])
    found = vectors(toy(words, vocabulary_size=500, num_classes=2, pad_id=499))
    near = found @ found.T
    assert np.diag(near) == pytest.approx(1)
    assert near[0, 2] == pytest.approx(1)
    assert 0.3 < near[0, 1] < 0.8, "the words are the same, the pairs are not"
    assert abs(near[0, 3]) < 0.3
    backwards = torch.tensor([[1, 2, 3, 9], [5, 2, 3, 7]])
    shared = vectors(toy(backwards, vocabulary_size=500, num_classes=2, pad_id=499))
    assert shared[0] @ shared[1] == pytest.approx(3 / 7, abs=0.2), "two of four words, one of three pairs"
    filled = torch.nn.functional.pad(words, (0, 30), value=499)
    assert np.allclose(vectors(toy(filled, vocabulary_size=500, num_classes=2, pad_id=499)), found)
    many = torch.from_numpy(np.random.default_rng(0).integers(0, 400, (60, 40)))
    apart = vectors(toy(many, vocabulary_size=500, num_classes=2, pad_id=499))
    assert abs((apart @ apart.T)[np.triu_indices(60, 1)].mean()) < 0.1, "signs cancel what meets by chance"


def test_images_are_told_by_their_fields_and_rows_by_scaled_features() -> None:
    image = torch.zeros(3, 1, 16, 16)
    image[0, 0, 0, 0] = image[1, 0, 1, 1] = image[2, 0, 0, 4] = 1.0
    found = vectors(toy(image, image_shape=(1, 16, 16), num_classes=2))
    assert np.array_equal(found[0], found[1]), "both in the first field of two by two pixels"
    assert found[0] @ found[2] == 0
    rows = torch.tensor([[1000.0, 1.0], [3000.0, 1.0], [1000.0, 3.0]])
    scales = FeatureScales(torch.tensor([2000.0, 2.0]), torch.tensor([1000.0, 1.0]))
    found = vectors(toy(rows, num_classes=2, feature_scales=scales))
    assert found == pytest.approx(np.array([[-1, -1], [1, -1], [-1, 1]]) / math.sqrt(2))
    long = torch.from_numpy(np.random.default_rng(0).standard_normal((40, 3000))).float()
    long[1] = long[0] + 0.1 * long[1]
    found = vectors(toy(long, num_classes=2))
    assert found.shape == (40, 128)
    near = found @ found.T
    assert near[0, 1] > 0.95
    assert np.abs(near[2:, 2:][np.triu_indices(38, 1)]).max() < 0.5


def test_a_cache_that_cannot_be_used_is_refused_in_a_sentence(data_of: dict[str, TrainingData], tmp_path: Path) -> None:
    samples, settings = Samples(data_of["rows"], 0), selection("Random")
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    for place in (file, file / "below", tmp_path / "link"):
        with pytest.raises(NotRetryable, match=r"the cache .*(must be a writable folder|cannot be used)") as caught:
            kept(samples, settings, "", place)
        assert caught.value.reason == "InvalidData"
        assert "\n" not in str(caught.value)
    whole = kept(samples, settings, "", tmp_path / "elsewhere")
    [table] = (tmp_path / "elsewhere").glob("*.numbers")
    header = table.read_bytes().partition(b"\n")[0]
    for wrong in (
        np.array([*whole[:-1], samples.count], dtype="<i8"),
        np.array([-1, *whole[1:]], dtype="<i8"),
        np.array([*whole[:-1], whole[0]], dtype="<i8"),
    ):
        told = {**json.loads(header), "sha256": hashlib.sha256(wrong.tobytes()).hexdigest()}
        table.write_bytes(json.dumps(told).encode() + b"\n" + wrong.tobytes())
        assert np.array_equal(kept(samples, settings, "", tmp_path / "elsewhere"), whole)


def test_each_part_gives_its_share_of_its_own_farthest(
    data_of: dict[str, TrainingData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(representative, "PART", 50)
    samples = Samples(data_of["documents"], 3)
    count = samples.count
    numbers = kept(samples, selection("KCenter"), "", tmp_path)
    order = sample_indices(seed=3, position=0, count=count, num_samples=count)
    everywhere = vectors(samples)
    wanted = [order[at : at + 50][k_center(everywhere[order[at : at + 50]], 20)] for at in range(0, count - 49, 50)]
    left = count % 50
    if left:
        wanted.append(order[-left:][k_center(everywhere[order[-left:]], len(numbers) - 20 * len(wanted))])
    assert np.array_equal(numbers, np.sort(np.concatenate(wanted)))


def test_clusters_are_learned_from_a_part_and_tell_all(
    data_of: dict[str, TrainingData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(representative, "LEARNED_FROM", 60)
    samples = Samples(data_of["documents"], 3)
    numbers = kept(samples, selection("Clusters"), "", tmp_path)
    order = sample_indices(seed=3, position=0, count=samples.count, num_samples=samples.count)
    everywhere = vectors(samples)
    cluster = representative.nearest(everywhere, k_means(everywhere[order[:60]], 5, seed=3))
    sizes, of_each = np.bincount(cluster, minlength=5), np.bincount(cluster[numbers], minlength=5)
    assert np.array_equal(of_each, equal_shares(sizes, len(numbers)))
    assert sizes.max() > 2 * of_each.max(), "the largest gives less than its share"


def test_what_is_drawn_of_a_stratum_is_any_of_it() -> None:
    strata = np.arange(1000) // 100
    chosen = drawn(strata, np.full(10, 30), seed=1)
    assert np.array_equal(np.bincount(strata[chosen]), np.full(10, 30))
    places = chosen % 100
    assert len(np.unique(places)) > 80, "not the same ones of each, nor the first"
    assert not np.array_equal(np.sort(chosen), np.sort(drawn(strata, np.full(10, 30), seed=2)))


@given(st.lists(st.integers(1, 500), min_size=2, max_size=30), st.data())
def test_the_largest_remainders_are_rounded_up(sizes: list[int], draw: st.DataObject) -> None:
    count = draw.draw(st.integers(1, sum(sizes)))
    left = np.array(sizes) * count % sum(sizes)
    up = shares(np.array(sizes), count) > np.array(sizes) * count // sum(sizes)
    if up.any() and not up.all():
        assert left[up].min() >= left[~up].max()


def test_another_seed_or_other_data_choose_anew(data_of: dict[str, TrainingData], tmp_path: Path) -> None:
    samples = Samples(data_of["rows"], 0)
    first = kept(samples, selection("Random"), "", tmp_path)
    assert not np.array_equal(kept(replace(samples, seed=1), selection("Random"), "", tmp_path), first)
    other = Samples(replace(data_of["rows"], fingerprint="other"), 0)
    kept(other, selection("Random"), "", tmp_path)
    assert len([*tmp_path.glob("*.numbers")]) == 3
