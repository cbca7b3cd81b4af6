"""A model that the manifest names: what a training of ours has left, or a folder of the Hugging Face library."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from builders.compress import CONV_SHAPE, LM_SHAPE, example_inputs, fresh_model, weight_only
from builders.data import write_images
from builders.hugging_face import PROSE, model_folder
from builders.trainer import recipe, text_file, train_here
from costopt.schema.compression import Variant
from costopt.schema.evaluation import CommandEvaluation
from costopt.schema.given_model import GivenModel
from costopt_trainer.compress import measure, run
from costopt_trainer.compress.given_folder import of_given
from costopt_trainer.compress.origin import Origin
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, save_model

BYTE_PAIRS = {"type": "BPE", "vocabularySize": 300}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text(PROSE)
    return path


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training has left: a small decoder."""
    folder = tmp_path_factory.mktemp("ours") / "artifacts/model"
    save_model(folder, fresh_model("DecoderLM"), LM_SHAPE)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("llama"), "llama")


def evaluation(text: Path, **changes: Any) -> CommandEvaluation:
    return CommandEvaluation.model_validate({"data": {"type": "Text", "text": {"path": str(text)}}, **changes})


def found(folder: Path, storage: Path, asked: CommandEvaluation) -> Origin:
    storage.mkdir(exist_ok=True)
    return of_given(GivenModel(path=str(folder)), asked, storage)


def test_a_model_that_was_trained_here_is_measured_as_it_was_trained(ours: Path, text: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in ours.iterdir())
    origin = found(ours, tmp_path / "own", evaluation(text, microBatchSize=3))
    assert (origin.folder, origin.recipe) == (ours, None)
    assert measure.measured_batch(origin.held_out).shape == (3, 32), "the length of its own samples"
    with torch.no_grad():
        same = origin.load()(example_inputs("DecoderLM")), load_model(ours)(example_inputs("DecoderLM"))
    assert torch.equal(*same)
    assert sorted(path.name for path in ours.iterdir()) == before, "it is only read"


@pytest.mark.parametrize("what", ["nothing", "a file", "a link to nothing"])
def test_a_folder_that_is_not_there_is_said_before_any_library_is_imported(
    what: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "a file":
        (tmp_path / "models").write_text("{}")
    elif what == "a link to nothing":
        (tmp_path / "models").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "costopt_trainer.compress.left_folder", None)
    with pytest.raises(NotRetryable) as refused:
        found(Path("models"), tmp_path / "own", evaluation(text))
    assert refused.value.reason == "InvalidSettings"
    assert str(refused.value) == (
        "model.path: models must be a folder on the machine (or in the pod) that makes the variant, but there is none; "
        f"a relative path begins at {tmp_path}"
    )


def test_a_classifier_of_images_that_was_trained_here_is_measured_on_images(tmp_path: Path) -> None:
    save_model(tmp_path / "conv", fresh_model("ConvNet"), CONV_SHAPE)
    images = write_images(tmp_path / "images.npz", count=80, side=8, classes=4)
    asked = CommandEvaluation.model_validate({"data": {"type": "Images", "images": {"path": str(images)}}})
    origin = found(tmp_path / "conv", tmp_path / "own", asked)
    assert measure.measured_batch(origin.held_out).shape == (8, 1, 8, 8)

    larger = write_images(tmp_path / "larger.npz", count=80, side=16, classes=4)
    asked = CommandEvaluation.model_validate({"data": {"type": "Images", "images": {"path": str(larger)}}})
    with pytest.raises(NotRetryable, match=r"evaluation.data must be like what the model in .* was trained on"):
        found(tmp_path / "conv", tmp_path / "own", asked)


def test_text_becomes_the_tokens_that_the_model_has_learned(tmp_path: Path) -> None:
    text = {"type": "Text", "text": {"path": str(text_file(tmp_path))}, "tokenizer": BYTE_PAIRS}
    assert train_here(recipe(tmp_path, data=text, totalSteps=3), tmp_path / "job") == 0
    other = text_file(tmp_path, seed=1)
    for tokenizer in ({}, {"tokenizer": BYTE_PAIRS}):  # as the training's data has it: nothing is learned anew
        data = {"type": "Text", "text": {"path": str(other)}, **tokenizer}
        asked = CommandEvaluation.model_validate({"data": data})
        origin = found(tmp_path / "job/artifacts/model", tmp_path / "own", asked)
        inputs = measure.measured_batch(origin.held_out)
        tokens = origin.held_out.data.tokenizer
        assert tokens is not None
        assert tokens.decode(inputs[0].tolist()).strip() in other.read_text()
        assert origin.shape.vocabulary_size == 300


def test_a_folder_of_the_library_is_found_to_be_one(llama: Path, text: Path, tmp_path: Path) -> None:
    origin = found(llama, tmp_path / "own", evaluation(text))
    settings = origin.shape.settings.hugging_face
    assert settings is not None
    assert (origin.folder, settings.task, settings.context_length) == (llama, "CausalLM", 32)


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def flipped(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def quantized(folder: Path) -> None:
    step = {"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "steps": [step]}))


WRONG: list[tuple[str, str, Callable[[Path], object], dict[str, Any], str]] = [
    ("no folder", "llama", shutil.rmtree, {}, "model.path: MODEL must be a folder on the machine"),
    ("no config", "llama", without("config.json"), {}, "model.path: MODEL must have a config.json, but there is no"),
    ("pickle", "llama", pickled, {}, "model.path: MODEL must have its weights in safetensors, but has only pytorch_mo"),
    ("no tokenizer", "llama", without("tokenizer.json"), {}, "model.path: MODEL must have its tokenizer.json"),
    ("no weights of ours", "ours", without("model.safetensors"), {}, "it has no model.safetensors that can be read"),
    ("a flipped bit", "ours", flipped, {}, "its model.safetensors is not the one that config.json was written for"),
    ("quantized", "ours", quantized, {}, "model.path: MODEL must be a model that is not quantized"),
    (
        "length",
        "ours",
        lambda _: None,
        {"contextLength": 64},
        "was trained on samples of 32 tokens: leave eval",
    ),
    ("task", "ours", lambda _: None, {"task": "MaskedLM"}, "leave evaluation.task out"),
    (
        "data",
        "ours",
        lambda _: None,
        {"data": {"type": "Images", "images": {"path": "images.npz"}}},
        "evaluation.data.type must be Text or PythonStandardLibrary or Records or TokenShards, not Images: the model",
    ),
    (
        "no data",
        "ours",
        lambda _: None,
        {"data": {"type": "Text", "text": {"path": "/no/data.text"}}},
        "evaluation.data.text.path: /no/data.text must exist",
    ),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case[0])
def test_what_cannot_be_compressed_is_refused_in_one_sentence(
    case: tuple[str, str, Callable[[Path], object], dict[str, Any], str],
    text: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    _, kind, spoil, changes, sentence = case
    folder = tmp_path / "model"
    shutil.copytree(request.getfixturevalue(kind), folder)
    spoil(folder)
    with pytest.raises(NotRetryable) as refused:
        found(folder, tmp_path / "own", evaluation(text, **changes)).load()
    told = str(refused.value)
    assert sentence.replace("MODEL", str(folder)) in told
    assert "model.huggingFace" not in told, "nobody has written that"
    assert "\n" not in told


def test_code_in_a_folder_is_not_run_unless_the_manifest_says_so(ours: Path, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(ours, folder)
    config = json.loads((folder / "config.json").read_text())
    config["shape"]["settings"] = {"type": "Import", "import": {"function": "os:abort"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(NotRetryable, match="must be of a family that runs no code of others, not Import"):
        found(folder, tmp_path / "own", evaluation(text))


def test_a_variant_of_it_lies_in_the_jobs_own_storage(
    ours: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "MAX_RUNS", measure.MIN_RUNS)
    storage = tmp_path / "own"
    storage.mkdir()
    variant = Variant(name="small", steps=[weight_only()])
    given = GivenModel(path=str(ours))
    report = run.make_variant(variant, evaluation(text), storage, given=given)
    assert report is not None
    assert report.reloaded
    assert report.baseline.size_bytes == (ours / "model.safetensors").stat().st_size
    assert report.measured.size_bytes < report.baseline.size_bytes
    assert load_model(storage / report.artifact)
    assert not (storage / "artifacts/model").exists()
