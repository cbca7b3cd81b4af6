"""Models of the Hugging Face library that tell which samples are kept: they read text in tokens of their own."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from builders.data import labelled_settings, write_labelled
from builders.hugging_face import model_folder, write_tokenizer
from builders.trainer import encoder_recipe, image_file, image_recipe, recipe, text_file, train_here
from costopt.schema.recipe import Recipe
from costopt.schema.selection import Reference
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.data.selection.by_loss import losses_of
from costopt_trainer.data.selection.embeddings import embedded
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.hugging_face.reading import reader, text_losses, text_vectors
from costopt_trainer.models.table import context_length_of, kind_of_samples
from costopt_trainer.training.choosing import chosen
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.references import samples_of

CPU = torch.device("cpu")
TEXTS = ["The cat sat.", "", "x", "The rat sat at the mat; Größe und 東京. " * 5, "zzz qqq"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model with 32 positions."""
    return model_folder(tmp_path_factory.mktemp("gpt2"), "gpt2")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, saved for a task that has no use for its pooler."""
    folder = model_folder(tmp_path_factory.mktemp("bert"), "bert", "AutoModelForMaskedLM")
    write_tokenizer(folder, "bert")
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"), words=500)


def with_selection(plain: Recipe, **selection: Any) -> Recipe:
    whole = plain.to_plain()
    return Recipe.model_validate({**whole, "data": {**whole["data"], "selection": {"keepPercent": 30, **selection}}})


def by(folder: Path, keep: str = "Highest") -> dict[str, Any]:
    return {"type": "Loss", "loss": {"keep": keep, "reference": {"model": str(folder)}}}


def data_of(plain: Recipe, cache: Path) -> TrainingData:
    return load_data(
        plain.data,
        context_length=context_length_of(plain.model),
        cache_dir=cache,
        reads=kind_of_samples(plain.model),
    )


def naive_loss(folder: Path, text: str) -> float:
    """Nats of a text, computed token by token with the library alone."""
    import tokenizers
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    total = 0.0
    for start in range(0, len(tokens), 31):
        piece = torch.tensor([[1, *tokens[start : start + 31]]])  # 1 is the token that ends a text, and so begins one
        with torch.no_grad():
            total += float(F.cross_entropy(model(piece).logits[0, :-1], piece[0, 1:], reduction="sum"))
    return total


def test_a_causal_model_tells_every_token_of_each_text(gpt2: Path) -> None:
    own = reader(gpt2, "reference.model", "losses")
    found = text_losses(own.load(CPU), own, TEXTS, CPU)
    assert found[1] == 0, "nothing is to be told of an empty text"
    assert len(own.tokenizer.encode(TEXTS[3].encode())) > 2 * 31, "longer than the model's positions"
    assert found == pytest.approx([naive_loss(gpt2, text) for text in TEXTS], rel=1e-5)


def test_an_encoder_tells_the_mean_of_its_outputs(bert: Path) -> None:
    import transformers

    own = reader(bert, "encoder", "vectors")
    found = text_vectors(own.load(CPU), own, TEXTS, CPU)
    model = transformers.AutoModel.from_pretrained(bert).eval()
    for text, vector in zip(TEXTS, found, strict=True):
        tokens = torch.tensor([[3, *own.tokenizer.encode(text.encode()).tolist()[:30], 4]])  # [CLS] text [SEP]
        with torch.no_grad():
            assert vector == pytest.approx(model(tokens).last_hidden_state[0].mean(dim=0).numpy(), abs=1e-5)


def test_a_decoder_may_be_the_encoder(gpt2: Path) -> None:
    import transformers

    own = reader(gpt2, "encoder", "vectors")
    [found] = text_vectors(own.load(CPU), own, TEXTS[:1], CPU)
    tokens = torch.from_numpy(own.tokenizer.encode(TEXTS[0].encode()).astype(np.int64))
    with torch.no_grad():
        wanted = transformers.AutoModel.from_pretrained(gpt2).eval()(tokens[None]).last_hidden_state[0].mean(dim=0)
    assert found == pytest.approx(wanted.numpy(), abs=1e-5)


def test_windows_are_read_as_text_and_the_hardest_are_kept(gpt2: Path, text: Path, tmp_path: Path) -> None:
    settings = with_selection(recipe(text), **by(gpt2))
    data = data_of(settings, tmp_path)
    few = chosen(settings, data, tmp_path, ALONE)
    windows = data.train_batch(np.arange(data.num_train_samples))[0].numpy()

    def losses(of: NDArray[np.int64]) -> list[float]:
        return [naive_loss(gpt2, bytes(window.tolist()).decode()) / 16 for window in of]

    everywhere = losses(windows)
    kept = losses(few.train_batch(np.arange(few.num_train_samples))[0].numpy())
    assert sorted(kept) == pytest.approx(sorted(everywhere)[-few.num_train_samples :], rel=1e-4)
    samples, _ = samples_of(settings, data, CPU, reference=Reference(model=str(gpt2)))
    assert losses_of(samples) == pytest.approx(everywhere, rel=1e-4)


def test_documents_and_masked_texts_are_read_as_they_were(gpt2: Path, text: Path, tmp_path: Path) -> None:
    documents = write_labelled(tmp_path / "a.jsonl", count=30)
    first = json.loads(documents.read_text().splitlines()[0])["text"]
    data = load_data(labelled_settings(documents), context_length=200, cache_dir=tmp_path / "cache")
    samples, _ = samples_of(encoder_recipe(documents), data, CPU, reference=Reference(model=str(gpt2)))
    texts = [one for batch in samples.blocks() for one in samples.texts(batch)]
    assert first in texts, "without what begins a sample and fills it up"
    masked = encoder_recipe(text)
    samples, _ = samples_of(masked, data_of(masked, tmp_path / "cache"), CPU, reference=Reference())
    [*_, last] = samples.blocks(np.arange(40))
    assert all(one in text.read_text() for one in samples.texts(last)), "with what is hidden"


def test_an_encoder_tells_which_samples_stand_for_others(bert: Path, text: Path, tmp_path: Path) -> None:
    settings = with_selection(
        encoder_recipe(text), type="Representative", representative={"method": "Clusters", "encoder": str(bert)}
    )
    data = data_of(settings, tmp_path)
    few = chosen(settings, data, tmp_path, ALONE)
    assert few.num_train_samples == data.num_train_samples * 30 // 100
    own = reader(bert, "encoder", "vectors")
    samples, _ = samples_of(settings, data, CPU, reference=Reference(), encoder=str(bert))
    batch = next(iter(samples.blocks()))
    wanted = text_vectors(own.load(CPU), own, samples.texts(batch), CPU)
    found = embedded(samples, batch)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1)
    assert found == pytest.approx(wanted / np.linalg.norm(wanted, axis=1, keepdims=True), abs=1e-6)


def test_a_table_follows_from_what_the_folder_holds(gpt2: Path, bert: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(gpt2, copied)
    before = reader(gpt2, "a", "losses").digest
    assert reader(copied, "b", "losses").digest == before, "wherever it lies"
    weights = load_file(copied / "model.safetensors")
    save_file({**weights, "lm_head.weight": weights["transformer.wte.weight"] * 2}, copied / "model.safetensors")
    assert reader(copied, "b", "losses").digest != before
    shutil.copy(gpt2 / "model.safetensors", copied)
    shutil.copy(bert / "tokenizer.json", copied)
    assert reader(copied, "b", "losses").digest != before


def test_training_on_what_a_model_of_the_library_keeps(gpt2: Path, text: Path, tmp_path: Path) -> None:
    random = torch.get_rng_state()
    reader(gpt2, "a", "losses").load(CPU)
    assert torch.equal(torch.get_rng_state(), random), "loading it draws no number"
    assert train_here(with_selection(recipe(text, totalSteps=3), **by(gpt2, "Middle")), tmp_path / "job") == 0


def test_what_cannot_be_read_is_refused_in_a_sentence(gpt2: Path, bert: Path, text: Path, tmp_path: Path) -> None:
    def refused(plain: Recipe, sentence: str, **selection: Any) -> None:
        settings = with_selection(plain, **selection)
        with pytest.raises(NotRetryable, match=sentence) as caught:
            chosen(settings, data_of(settings, tmp_path / "cache"), tmp_path / "cache", ALONE)
        assert "\n" not in str(caught.value)
        assert "model.huggingFace" not in str(caught.value)

    def changed(name: str, **config: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(gpt2, folder)
        plain = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**plain, **config}))
        return folder

    images = image_recipe(image_file(tmp_path))
    refused(images, "reads texts, but samples of this data.type have no text: leave it out", **by(gpt2))
    place = "data.selection.representative.encoder: .*"
    refused(recipe(text), "reference.model: .* must be an architecture for task CausalLM", **by(bert))
    own_code = changed("code", model_type="other", auto_map={"AutoModelForCausalLM": "evil.Model"})
    (own_code / "evil.py").write_text("raise SystemExit('it was run')")
    refused(recipe(text), "is defined by Python code in its folder, which is not run here", **by(own_code))
    refused(
        recipe(text),
        f"{place} is defined by Python code",
        type="Representative",
        representative={"encoder": str(own_code)},
    )
    pickled = changed("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(recipe(text), "must have its weights in safetensors, but has only pytorch_model.bin", **by(pickled))
    untold = changed("untold")
    (untold / "tokenizer.json").unlink()
    refused(recipe(text), "reference.model: .* must have its tokenizer.json", **by(untold))
    half = changed("half")
    weights = load_file(half / "model.safetensors")
    weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, half / "model.safetensors", {"format": "pt"})
    refused(recipe(text), "must have all weights of its model, but has none for transformer.h.1.mlp.c_fc", **by(half))
    none = tmp_path / "none"
    refused(
        recipe(text),
        f"{place} must be a folder",
        type="Representative",
        representative={"encoder": str(none)},
    )
