"""What models make of an input: small ones that learnt something simple, loaded as `costopt try` loads them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from builders.compress import SHAPES, example_inputs, fresh_model
from builders.hugging_face import model_folder, write_tokenizer
from builders.trainer import encoder_recipe, image_file, image_recipe, recipe, text_file, train_here
from costopt.schema.trial import TrialRequest
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import save_model
from costopt_trainer.models.decoder_lm import DecoderLM
from costopt_trainer.models.key_values import KeyValueCache
from costopt_trainer.trial.process import answer

BPE = {"type": "BPE", "vocabularySize": 300}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def decoder(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of byte pairs, with its tokenizer beside it."""
    storage = tmp_path_factory.mktemp("decoder")
    data = {"type": "Text", "text": {"path": str(text)}, "tokenizer": BPE}
    assert train_here(recipe(text, data=data, totalSteps=20), storage) == 0
    return storage / "artifacts/model"


def ask(folder: Path, given: str, **how: object) -> TrialRequest:
    return TrialRequest.model_validate({"folder": str(folder), "input": given, **how})


def test_a_text_goes_on_and_the_same_seed_gives_the_same_text(decoder: Path) -> None:
    assert (decoder / "tokenizer.json").is_file()
    first, again, other = (answer(ask(decoder, "abc ", max_tokens=24, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first.task == "Complete"
    assert 1 <= (first.tokens or 0) <= 24
    assert first.text
    assert first.text != other.text
    greedy = [answer(ask(decoder, "abc ", max_tokens=8, temperature="0", seed=seed)).text for seed in (0, 1)]
    assert greedy[0] == greedy[1]
    assert first.shortened is False
    assert answer(ask(decoder, "abc " * 100, max_tokens=1)).shortened is True


def test_a_text_with_kept_keys_and_values_is_the_text_without_also_beyond_the_context(
    decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    whole: list[int] = []
    of_cache, of_all = DecoderLM.read, DecoderLM.forward

    def reading(self: DecoderLM, tokens: torch.Tensor, cache: KeyValueCache) -> torch.Tensor:
        read.append(tokens.shape[1])
        return of_cache(self, tokens, cache)

    def passing(self: DecoderLM, tokens: torch.Tensor) -> torch.Tensor:
        whole.append(tokens.shape[1])
        return of_all(self, tokens)

    monkeypatch.setattr(DecoderLM, "read", reading)
    monkeypatch.setattr(DecoderLM, "forward", passing)
    asked = [ask(decoder, "abc ", max_tokens=24, temperature="0"), ask(decoder, "abc ", max_tokens=24, seed=5)]
    kept = [answer(each) for each in asked]
    assert read[0] > 1
    assert set(read[1 : 16 - read[0] + 1]) == {1}, "the prompt once, then token after token"
    assert set(whole) == {16}, "a text that is longer than the context is read again for each token"
    monkeypatch.setattr(DecoderLM, "can_read", False)
    read.clear()
    assert [answer(each) for each in asked] == kept
    assert not read


def test_an_empty_text_begins_a_document(decoder: Path) -> None:
    assert answer(ask(decoder, "", max_tokens=3)).tokens is not None


def test_a_low_temperature_draws_what_is_likeliest(decoder: Path) -> None:
    cold = answer(ask(decoder, "abc ", max_tokens=8, temperature="1e-9")).text
    assert cold == answer(ask(decoder, "abc ", max_tokens=8, temperature="0")).text


def test_hidden_tokens_are_told_with_probabilities(text: Path, tmp_path: Path) -> None:
    assert train_here(encoder_recipe(text), tmp_path) == 0
    found = answer(ask(tmp_path / "artifacts/model", "ab[MASK]d e[MASK]"))
    assert found.task == "FillMask"
    assert [len(choices) for choices in found.choices] == [5, 5]
    for choices in found.choices:
        shares = [float(choice.probability) for choice in choices]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1 + 1e-6
    best = [choices[0].label for choices in found.choices]
    assert found.text == f"ab{best[0]}d e{best[1]}"
    with pytest.raises(NotRetryable, match=r"must have \[MASK\] where a token is to be told"):
        answer(ask(tmp_path / "artifacts/model", "abcd"))
    with pytest.raises(NotRetryable, match="must have at most 16 tokens, as many as the model sees, not 18"):
        answer(ask(tmp_path / "artifacts/model", "[MASK]" + "a" * 17))


def test_a_document_gets_a_label_with_a_probability(tmp_path: Path) -> None:
    lines = [
        {"text": ("good " if n % 2 else "bad ") * 2 + str(n), "label": "yes" if n % 2 else "no"} for n in range(120)
    ]
    (tmp_path / "labelled.jsonl").write_text("\n".join(map(json.dumps, lines)))
    settings = encoder_recipe(
        tmp_path / "labelled.jsonl", totalSteps=60, optimizer={"type": "AdamW", "learningRate": "0.01"}
    )
    assert train_here(settings, tmp_path / "run") == 0
    model = tmp_path / "run/artifacts/model"
    for document, label in (("good good 1", "yes"), ("bad bad 2", "no")):
        (choices,) = answer(ask(model, document)).choices
        assert choices[0].label == label
        assert sum(float(choice.probability) for choice in choices) == pytest.approx(1, abs=1e-5)
    assert answer(ask(model, "good " * 40)).shortened is True


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    settings = image_recipe(image_file(folder), totalSteps=30, optimizer={"type": "AdamW", "learningRate": "0.01"})
    assert train_here(settings, folder / "run") == 0
    return folder / "run/artifacts/model"


@pytest.mark.parametrize("ending", ["png", "npy"])
def test_an_image_or_an_array_gets_a_class(classifier: Path, tmp_path: Path, ending: str) -> None:
    for label in (0, 1):
        pixels = np.full((8, 8), 40, dtype=np.uint8)
        pixels[4 * label : 4 * label + 4] += 110
        path = tmp_path / f"{label}.{ending}"
        if ending == "npy":
            np.save(path, pixels)
        else:
            Image.fromarray(pixels).resize((16, 16), Image.Resampling.NEAREST).save(path)
        (choices,) = answer(ask(classifier, str(path))).choices
        assert choices[0].label == str(label)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.png", b"no image", "must be an image that can be decoded"),
        ("a.npy", b"no array", "must be a whole .npy file without pickles"),
        ("missing.png", None, "must be a file that can be read"),
    ],
)
def test_a_file_that_is_no_image_is_refused_in_a_sentence(
    classifier: Path, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(NotRetryable, match=said):
        answer(ask(classifier, str(tmp_path / name)))


def test_an_array_of_another_size_or_with_a_pickle_is_refused(classifier: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "small.npy", np.zeros((4, 4), dtype=np.uint8))
    np.save(tmp_path / "floats.npy", np.zeros((8, 8)))
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, said in (
        ("small", "must be an image of 8x8x1"),
        ("floats", "must hold an array of 8 bits"),
        ("pickle", "without pickles"),
    ):
        with pytest.raises(NotRetryable, match=said):
            answer(ask(classifier, str(tmp_path / f"{name}.npy")))


def test_a_row_of_a_table_gets_a_class(tmp_path: Path) -> None:
    features = np.concatenate([np.full((40, 2), -1.0), np.full((40, 2), 1.0)]).astype(np.float32)
    features += np.random.default_rng(0).normal(0, 0.1, features.shape).astype(np.float32)
    np.savez(tmp_path / "rows.npz", features=features, labels=np.repeat([0, 1], 40))
    settings = recipe(
        tmp_path,
        model={"type": "MLP", "mlp": {"numLayers": 1, "width": 8}},
        data={"type": "Table", "table": {"path": str(tmp_path / "rows.npz")}},
        totalSteps=40,
        optimizer={"type": "AdamW", "learningRate": "0.05"},
    )
    assert train_here(settings, tmp_path / "run") == 0
    model = tmp_path / "run/artifacts/model"
    assert [answer(ask(model, row)).choices[0][0].label for row in ("-1,-1", "1, 1")] == ["0", "1"]
    for wrong in ("1", "1,x", "1,nan"):
        with pytest.raises(NotRetryable, match=r"must be (2 finite )?numbers"):
            answer(ask(model, wrong))


# ------------------------------------------------------------------------- what a program of the user's own has left


def test_a_folder_of_the_hugging_face_library_goes_on_with_a_text(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "gpt2", "gpt2")
    found = answer(ask(folder, "The cat", max_tokens=4, temperature="0"))
    assert (found.task, found.shortened) == ("Complete", False)
    assert found.tokens is not None


def test_such_a_folder_tells_hidden_tokens_and_classes(tmp_path: Path) -> None:
    for auto_class, given, task in (
        ("AutoModelForMaskedLM", "the [MASK] sat", "FillMask"),
        ("AutoModelForSequenceClassification", "the cat sat", "Classify"),
    ):
        folder = model_folder(tmp_path / task, "bert", auto_class)
        (folder / ".gpt2").unlink()
        write_tokenizer(folder, "bert")
        found = answer(ask(folder, given))
        assert (found.task, len(found.choices)) == (task, 1)
    assert {choice.label for choice in found.choices[0]} == {"LABEL_0", "LABEL_1"}


def test_such_a_folder_with_code_of_its_own_is_refused_and_nothing_of_it_is_run(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "gpt2", "gpt2")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(NotRetryable):
        answer(ask(folder, "x"))
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------------ bad artifacts


def test_what_is_no_artifact_or_a_damaged_one_is_refused_in_a_sentence(decoder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotRetryable, match="does not hold a model saved by costopt"):
        answer(ask(tmp_path, "x"))
    save_model(tmp_path / "m", fresh_model("DecoderLM"), SHAPES["DecoderLM"])
    weights = tmp_path / "m/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(NotRetryable, match=r"its model.safetensors is not the one"):
        answer(ask(tmp_path / "m", "x"))


def test_a_model_that_needs_code_of_its_own_is_refused_and_nothing_of_it_is_run(tmp_path: Path) -> None:
    save_model(tmp_path / "m", fresh_model("DecoderLM"), SHAPES["DecoderLM"])
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    own = {"function": "evil:make", "path": str(tmp_path)}
    config["shape"]["settings"] = {"type": "Import", "import": own}
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    with pytest.raises(NotRetryable, match="needs code of its own to be built"):
        answer(ask(tmp_path / "m", "x"))
    assert not (tmp_path / "ran").exists()


def test_a_graph_alone_goes_on_with_a_text_like_the_model_that_it_is_of(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from costopt_trainer.compress.onnx_export import export

    model = fresh_model("DecoderLM")
    (tmp_path / "graph").mkdir()
    export(model, example_inputs("DecoderLM"), tmp_path / "graph")
    save_model(tmp_path / "m", model, SHAPES["DecoderLM"])
    save_model(tmp_path / "g", model, SHAPES["DecoderLM"], graph=tmp_path / "graph", weights=False)
    told = [answer(ask(tmp_path / name, "abc", max_tokens=6, temperature="0")).text for name in ("m", "g")]
    assert told[0] == told[1]


def test_a_model_that_has_diverged_says_so(tmp_path: Path) -> None:
    model = fresh_model("DecoderLM")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    save_model(tmp_path / "m", model, SHAPES["DecoderLM"])
    with pytest.raises(NotRetryable, match="must give finite logits"):
        answer(ask(tmp_path / "m", "x"))


def test_without_its_tokenizer_a_model_of_other_tokens_than_bytes_is_refused(decoder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(decoder, tmp_path / "m")
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(NotRetryable, match=r"must be a tokenizer\.json"):
        answer(ask(copied, "x"))
    (copied / "tokenizer.json").unlink()
    with pytest.raises(NotRetryable, match=r"must have its tokenizer.json, for its vocabulary of \d+ tokens"):
        answer(ask(copied, "x"))
