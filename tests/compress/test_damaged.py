"""A damaged model, of any form, is refused in one sentence: as `spec.model` and by `costopt try`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders.compress import LM_SHAPE, example_inputs, fresh_model
from builders.hugging_face import PROSE, model_folder
from costopt.schema.evaluation import CommandEvaluation
from costopt.schema.given_model import GivenModel
from costopt.schema.trial import TrialRequest
from costopt_trainer.compress.given_folder import of_given
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import save_model
from costopt_trainer.models.onnx_model import graph_files
from costopt_trainer.trial.process import answer

Spoil = Callable[[Path], object]
WEIGHTS, CONFIG, GRAPH = "model.safetensors", "config.json", "model.onnx"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Undamaged folders: of the Hugging Face library, of ours, and a graph alone."""
    place = tmp_path_factory.mktemp("whole")
    model = fresh_model("DecoderLM")
    save_model(place / "ours", model, LM_SHAPE)
    found = {"library's": model_folder(place / "llama", "llama"), "ours": place / "ours"}
    try:
        from costopt_trainer.compress.onnx_export import export

        (place / "made").mkdir()
        export(model, example_inputs("DecoderLM"), place / "made")
    except ImportError:
        return found
    save_model(place / "graph", model, LM_SHAPE, graph=place / "made", weights=False)
    return {**found, "graph": place / "graph"}


def cut(name: str) -> Spoil:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:1000])


def filled(name: str, content: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content)


def flipped(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 255
        (folder / name).write_bytes(content)

    return spoil


def gone(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def saying(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        plain = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**plain, **changes}))

    return spoil


def cut_and_vouched_for(folder: Path) -> None:
    cut(GRAPH)(folder)
    saying(graph=graph_files(folder))(folder)


DAMAGE: list[tuple[str, str, Spoil, str]] = [
    ("half of the weights", "library's", cut(WEIGHTS), "model.safetensors is damaged: is the download complete?"),
    ("no byte of them", "library's", filled(WEIGHTS, b""), "model.safetensors is damaged"),
    ("a header without end", "library's", filled(WEIGHTS, b"\xff" * 64), "model.safetensors is damaged"),
    ("no weights", "library's", gone(WEIGHTS), "must have its weights in safetensors, but has no model.safetensors"),
    ("half a config", "library's", filled(CONFIG, b'{"model_type": "lla'), "must have a config.json that can be read"),
    ("a list", "library's", filled(CONFIG, b"[]"), "must have a config.json of the library transformers"),
    ("no text", "library's", filled(CONFIG, b"\xff\xfe\x00"), "must have a config.json that can be read"),
    ("half a tokenizer", "library's", cut("tokenizer.json"), "must be a tokenizer.json ("),
    ("a tokenizer that is no text", "library's", filled("tokenizer.json", b"\x00\xff"), "tokenizer.json, in UTF-8"),
    ("more layers than it has", "library's", saying(num_hidden_layers=5), "has none for model.layers.2"),
    ("a width below zero", "library's", saying(hidden_size=-4), "must be a model that transformers can build"),
    ("a width in words", "library's", saying(hidden_size="wide"), "must have a config.json that transformers can read"),
    ("half of our weights", "ours", cut(WEIGHTS), "its model.safetensors is not the one that config.json was written"),
    ("a flipped bit", "ours", flipped(WEIGHTS), "its model.safetensors is not the one that config.json"),
    ("no weights of ours", "ours", gone(WEIGHTS), "it has no model.safetensors that can be read"),
    ("half of our config", "ours", filled(CONFIG, b'{"format": "costopt-model", '), "config.json must be JSON"),
    ("half a graph", "graph", cut(GRAPH), "its model.onnx is not the one that config.json was written for"),
    ("a flipped bit of a graph", "graph", flipped(GRAPH), "its model.onnx is not the one that config.json was written"),
    ("no graph", "graph", gone(GRAPH), "it has no model.onnx that can be read"),
    ("half a graph that is vouched for", "graph", cut_and_vouched_for, "its model.onnx cannot be run ("),
]  # fmt: skip


def given(folder: Path, place: Path) -> None:
    (place / "prose.txt").write_text(PROSE)
    asked = {"data": {"type": "Text", "text": {"path": str(place / "prose.txt")}}}
    (place / "own").mkdir(exist_ok=True)
    of_given(GivenModel(path=str(folder)), CommandEvaluation.model_validate(asked), place / "own").load()


def tried(folder: Path, _place: Path) -> None:
    answer(TrialRequest.model_validate({"folder": str(folder), "input": "the cat", "max_tokens": 2}))


def damaged(whole: dict[str, Path], kind: str, spoil: Spoil, place: Path) -> Path:
    if kind not in whole:
        pytest.skip("the extra onnx is not installed")
    folder = shutil.copytree(whole[kind], place / "model")
    spoil(folder)
    return folder


@pytest.mark.parametrize("use", [given, tried], ids=lambda use: use.__name__)
@pytest.mark.parametrize("case", DAMAGE, ids=lambda case: case[0])
def test_a_damaged_model_is_refused_in_one_sentence(
    case: tuple[str, str, Spoil, str], use: Callable[..., None], whole: dict[str, Path], tmp_path: Path
) -> None:
    _, kind, spoil, said = case
    folder = damaged(whole, kind, spoil, tmp_path)
    with pytest.raises(NotRetryable) as refused:
        use(folder, tmp_path)
    told = str(refused.value)
    assert said in told
    assert str(folder) in told
    assert "model.huggingFace" not in told, "nobody has written that"
    assert "\n" not in told


@pytest.mark.parametrize("kind", ["library's", "ours", "graph"])
def test_the_undamaged_ones_are_loaded(kind: str, whole: dict[str, Path], tmp_path: Path) -> None:
    folder = damaged(whole, kind, lambda _folder: None, tmp_path)
    given(folder, tmp_path)
    tried(folder, tmp_path)


def test_a_config_that_asks_for_more_memory_than_there_is_is_refused_in_one_sentence(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    folder = damaged(whole, "library's", saying(hidden_size=10**6, vocab_size=10**9), tmp_path)
    with pytest.raises(NotRetryable, match=r"asks for more memory than this machine has$") as refused:
        tried(folder, tmp_path)
    assert refused.value.reason == "OutOfMemory"


def test_a_model_that_others_have_quantized_cannot_be_compressed(whole: dict[str, Path], tmp_path: Path) -> None:
    quantized = saying(quantization_config={"quant_method": "compressed-tensors", "format": "int-quantized"})
    folder = damaged(whole, "library's", quantized, tmp_path)
    with pytest.raises(NotRetryable, match=r"model\.path: .* must be a model that is not quantized, since quantized"):
        given(folder, tmp_path)
