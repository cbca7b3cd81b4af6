"""Variants of the model that a command has left: a folder of the Hugging Face library, or one sentence why not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders.compress import pruned, weight_only
from builders.data import write_labelled
from builders.hugging_face import PROSE, model_folder, write_tokenizer
from costopt.schema.compression import Variant
from costopt.schema.evaluation import CommandEvaluation
from costopt_trainer.compress import measure, run
from costopt_trainer.compress.labels import class_numbers
from costopt_trainer.compress.left_folder import of_command
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its labels are in another order than that of the alphabet, in which the data has them."""
    labels = {"0": "owl", "1": "dog", "2": "cat"}
    folder = tmp_path_factory.mktemp("bert")
    model_folder(folder, "bert", "AutoModelForSequenceClassification", id2label=labels)
    write_tokenizer(folder, "bert")
    return folder


def evaluation(folder: Path, **changes: Any) -> CommandEvaluation:
    """On prose, if nothing else is said."""
    text = folder / "prose.txt"
    if not text.exists():
        text.write_text(PROSE)
    return CommandEvaluation.model_validate({"data": {"type": "Text", "text": {"path": str(text)}}, **changes})


def on_animals(folder: Path, **changes: Any) -> CommandEvaluation:
    """On labelled documents: cat, dog or owl."""
    path = write_labelled(folder / "animals.jsonl", count=40)
    return evaluation(folder, data={"type": "LabelledText", "labelledText": {"path": str(path)}}, **changes)


def left_in(storage: Path, folder: Path) -> Path:
    """The storage of a command that has left a copy of `folder`."""
    shutil.copytree(folder, storage / "artifacts/model")
    return storage


def edited(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_task_length_and_files_are_those_of_the_folder(llama: Path, classifier: Path, tmp_path: Path) -> None:
    origin = of_command(evaluation(tmp_path, microBatchSize=3), left_in(tmp_path / "l", llama))
    settings = origin.shape.settings.hugging_face
    assert settings is not None
    assert (settings.task, settings.context_length) == ("CausalLM", 32)
    assert origin.weights_bytes == (llama / "model.safetensors").stat().st_size
    assert measure.measured_batch(origin.held_out).shape == (3, 32)

    origin = of_command(on_animals(tmp_path, contextLength=16), left_in(tmp_path / "c", classifier))
    settings = origin.shape.settings.hugging_face
    assert settings is not None
    assert (settings.task, settings.context_length) == ("SequenceClassification", 16)
    assert origin.shape.class_names == ("owl", "dog", "cat")
    assert origin.load().config.id2label == {0: "owl", 1: "dog", 2: "cat"}


def test_each_document_has_the_number_that_the_model_has_for_its_label(classifier: Path, tmp_path: Path) -> None:
    import numpy as np

    from costopt_trainer.data import load_data

    asked, storage = on_animals(tmp_path), left_in(tmp_path / "s", classifier)
    held_out = of_command(asked, storage).held_out.data
    numbers = np.arange(held_out.num_validation_samples)
    plain = load_data(
        asked.data, context_length=32, cache_dir=storage / "cache", model_tokenizer=storage / "artifacts/model"
    )
    _, classes = held_out.validation_batch(numbers)
    _, alphabetical = plain.validation_batch(numbers)
    of_model, of_data = held_out.class_names or (), plain.class_names or ()
    assert of_model != of_data
    assert [of_model[number] for number in classes] == [of_data[number] for number in alphabetical]


@pytest.mark.parametrize(
    ("own", "given", "numbers"),
    [
        (["good", "bad"], ("bad", "good"), [1, 0]),
        (["good", "bad", "so so"], ("bad",), [1]),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ("0", "2"), [0, 2]),
        (["LABEL_0", "LABEL_1"], ("LABEL_1",), [1]),
        (["LABEL_0", "LABEL_1"], ("bad", "good"), None),
        (["LABEL_0", "LABEL_1"], ("1", "2"), None),
        (["good", "bad"], ("0", "1"), None),
    ],
)
def test_labels_are_found_by_name_and_numbers_only_where_the_model_has_no_names(
    own: list[str], given: tuple[str, ...], numbers: list[int] | None
) -> None:
    assert class_numbers(own, given) == numbers


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def two_models(folder: Path) -> None:
    for name in ("checkpoint-10", "checkpoint-20"):
        (folder / name).mkdir()
        shutil.copy(folder / "config.json", folder / name)
    (folder / "config.json").unlink()


def adapters(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


WRONG_FOLDERS: list[tuple[str, Callable[[Path], object], dict[str, Any], str]] = [
    ("nothing", shutil.rmtree, {}, "there is no trained model in MODEL: the program must hand it over by session"),
    ("pickle", pickled, {}, "must have its weights in safetensors, but has only pytorch_model.bin"),
    ("no weights", without("model.safetensors"), {}, "must have its weights in safetensors, but has no model.safet"),
    ("no config", without("config.json"), {}, "must have a config.json, but there is no MODEL/config.json"),
    ("another library", lambda folder: edited(folder, model_type=None), {}, "which names its model_type"),
    ("two models", two_models, {}, "must be the folder of one model, with its config.json, but holds 2 of them"),
    ("adapters", adapters, {}, "must be a whole model without adapters beside it, but has adapter_config.json"),
    ("no tokenizer", without("tokenizer.json"), {}, "must have its tokenizer.json: save the tokenizer with"),
    (
        "a base",
        lambda folder: edited(folder, architectures=["LlamaModel"]),
        {},
        "if it is, name the task in evaluation",
    ),
    ("code", lambda folder: edited(folder, model_type="own", auto_map={}), {"task": "CausalLM"}, "trustRemoteCode: tr"),
    ("another task", lambda _: None, {"task": "MaskedLM"}, "must be an architecture for task MaskedLM, but type llama"),
    ("too long", lambda _: None, {"contextLength": 64}, "32 positions, so evaluation.contextLength must be at most 32"),
]


@pytest.mark.parametrize(
    ("spoil", "changes", "sentence"), [case[1:] for case in WRONG_FOLDERS], ids=[case[0] for case in WRONG_FOLDERS]
)
def test_what_is_no_such_model_is_refused_in_one_sentence(
    llama: Path, tmp_path: Path, spoil: Callable[[Path], object], changes: dict[str, Any], sentence: str
) -> None:
    folder = left_in(tmp_path / "s", llama) / "artifacts/model"
    spoil(folder)
    with pytest.raises(NotRetryable) as refused:
        of_command(evaluation(tmp_path, **changes), tmp_path / "s")
    assert refused.value.reason == "InvalidSettings"
    told = str(refused.value)
    assert sentence.replace("MODEL", str(folder)) in told
    assert "model.huggingFace" not in told, "nobody has written that"


def test_data_that_does_not_fit_the_model_is_refused_in_one_sentence(
    llama: Path, classifier: Path, tmp_path: Path
) -> None:
    left_in(tmp_path / "l", llama)
    left_in(tmp_path / "c", classifier)
    with pytest.raises(
        NotRetryable, match=r"evaluation.data.type must be Text or Python.*, not LabelledText: .* Causal"
    ):
        of_command(on_animals(tmp_path), tmp_path / "l")
    with pytest.raises(
        NotRetryable, match=r"evaluation.data.type must be LabelledText, not Text: .* for task Sequence"
    ):
        of_command(evaluation(tmp_path), tmp_path / "c")
    with pytest.raises(NotRetryable, match=r"^evaluation.data.text.path: /no/data.text must exist"):
        of_command(evaluation(tmp_path, data={"type": "Text", "text": {"path": "/no/data.text"}}), tmp_path / "l")
    edited(tmp_path / "c/artifacts/model", id2label={"0": "horse", "1": "cow"})
    with pytest.raises(
        NotRetryable, match=r"labels that the model knows, not cat, dog, owl: .* names horse, cow in id2"
    ):
        of_command(on_animals(tmp_path), tmp_path / "c")


def test_a_folder_that_lacks_the_weights_of_its_head_is_not_measured_with_fresh_ones(
    classifier: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    weights = left_in(tmp_path / "s", classifier) / "artifacts/model/model.safetensors"
    rest = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith("classifier")}
    save_file(rest, weights, metadata={"format": "pt"})
    origin = of_command(on_animals(tmp_path), tmp_path / "s")
    with pytest.raises(NotRetryable, match="for task SequenceClassification, but has none for classifier"):
        origin.load()


@pytest.mark.slow
def test_such_a_classifier_is_pruned_quantized_and_measured(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "MAX_RUNS", measure.MIN_RUNS)
    storage = left_in(tmp_path / "s", classifier)
    variant = Variant(name="small", steps=[pruned("Unstructured", 50), weight_only()])
    report = run.make_variant(variant, on_animals(tmp_path, contextLength=16), storage)
    assert report is not None
    assert report.reloaded
    assert report.baseline.size_bytes == (classifier / "model.safetensors").stat().st_size
    assert report.measured.size_bytes < report.baseline.size_bytes
    assert report.measured.nonzero_permille < 800 < report.baseline.nonzero_permille
    assert (report.loss_per, report.validation_samples) == ("Sample", 4)
    assert report.measured.validation_accuracy_permille is not None
    assert (storage / report.artifact / "tokenizer.json").exists()
    assert load_model(storage / report.artifact).config.id2label == {0: "owl", 1: "dog", 2: "cat"}
