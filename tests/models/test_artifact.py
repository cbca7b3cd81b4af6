"""A saved model is rebuilt exactly, and anything else is refused in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from builders.compress import SHAPES, apply, dynamic, example_inputs, fresh_model, pruned, read_json, weight_only
from costopt.schema.compression import Step
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, read_config, save_model

CHAINS: dict[str, list[Step]] = {
    "as trained": [],
    "Int8WeightOnly": [weight_only()],
    "Int8DynamicActivation": [dynamic()],
    "unstructured": [pruned("Unstructured", 50)],
    "structured": [pruned("Structured", 50)],
    "structured twice, then unstructured": [
        pruned("Structured", 25),
        pruned("Structured", 50),
        pruned("Unstructured", 30),
    ],
    "structured, then Int8DynamicActivation": [pruned("Structured", 50), dynamic()],
    "unstructured, then Int8WeightOnly": [pruned("Unstructured", 50), weight_only()],
}


@pytest.mark.parametrize("model_type", ["DecoderLM", "ConvNet"])
@pytest.mark.parametrize("chain", CHAINS)
def test_a_saved_model_gives_the_same_bits_after_loading(tmp_path: Path, model_type: str, chain: str) -> None:
    model, inputs = fresh_model(model_type), example_inputs(model_type)
    apply(model, CHAINS[chain], inputs[:1])
    size = save_model(tmp_path / "m", model, SHAPES[model_type], widths=model.widths(), steps=CHAINS[chain])

    loaded = load_model(tmp_path / "m")

    assert size == (tmp_path / "m" / "model.safetensors").stat().st_size
    assert not loaded.training
    assert read_config(tmp_path / "m").steps == tuple(CHAINS[chain])
    assert loaded.widths() == model.widths()
    assert {name: type(tensor) for name, tensor in loaded.state_dict().items()} == {
        name: type(tensor) for name, tensor in model.state_dict().items()
    }
    with torch.no_grad():
        assert torch.equal(loaded(inputs), model(inputs))


@pytest.mark.parametrize("step", [weight_only(), dynamic()], ids=["Int8WeightOnly", "Int8DynamicActivation"])
def test_quantized_weights_are_int8_on_disk(tmp_path: Path, step: Step) -> None:
    model = fresh_model("DecoderLM")
    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    before = save_model(tmp_path / "before", model, SHAPES["DecoderLM"])
    apply(model, [step], example_inputs("DecoderLM"))
    after = save_model(tmp_path / "after", model, SHAPES["DecoderLM"], steps=[step])

    with safe_open(tmp_path / "after" / "model.safetensors", framework="pt") as file:
        stored = [file.get_tensor(name).dtype for name in file.keys() if name.endswith("_qdata")]  # noqa: SIM118
    assert stored == [torch.int8] * len(linears)
    assert before / after > 2  # a third of this small model is embeddings and file header


def test_a_model_that_is_mostly_matrices_shrinks_to_about_a_quarter(tmp_path: Path) -> None:
    from costopt.schema.models import DecoderLM, ModelSettings
    from costopt_trainer.models.shape import ModelShape
    from costopt_trainer.models.table import build_model

    settings = DecoderLM(num_layers=4, num_heads=4, embedding_dim=192, context_length=32)
    shape = ModelShape(ModelSettings(type="DecoderLM", decoder_lm=settings), vocabulary_size=256)
    model = build_model(shape).eval()
    before = save_model(tmp_path / "before", model, shape)
    apply(model, [weight_only()], torch.zeros(1, 8, dtype=torch.int64))
    after = save_model(tmp_path / "after", model, shape)
    assert 3.5 < before / after < 4


def test_a_folder_holds_two_files_and_saving_again_replaces_them(tmp_path: Path) -> None:
    save_model(tmp_path / "m", fresh_model("ConvNet", seed=0), SHAPES["ConvNet"])
    (tmp_path / ".m.partial").mkdir()  # what a killed writer leaves
    (tmp_path / ".m.partial" / "model.safetensors").write_bytes(b"half")
    second = fresh_model("ConvNet", seed=1)
    save_model(tmp_path / "m", second, SHAPES["ConvNet"])

    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]
    inputs = example_inputs("ConvNet")
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m")(inputs), second(inputs))


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_model(tmp_path / name, fresh_model("DecoderLM"), SHAPES["DecoderLM"])
    one, two = (read_config(tmp_path / name).weights_sha256 for name in ("one", "two"))
    assert one == two


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    save_model(tmp_path / "m", fresh_model("DecoderLM"), SHAPES["DecoderLM"])
    before = torch.get_rng_state()
    load_model(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), before)


def _flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def _truncate(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-10])


def _rewrite(**changes: object) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**read_json(path), **changes}))

    return rewrite


def _remove_folder(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (_remove_folder, "there is no such folder"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no readable config.json"),
    "a config that is not JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json must be JSON"),
    "a config of something else": (_rewrite(format="other"), "not of the format costopt-model"),
    "a config that is a list": (lambda folder: (folder / "config.json").write_text("[]"), "not of the format"),
    "a later format": (_rewrite(version=2), "format version is 2, and 1 is read here"),
    "a config without a shape": (_rewrite(shape={}), "incomplete or damaged"),
    "an unknown step": (_rewrite(steps=[{"type": "Distil"}]), "incomplete or damaged"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    "a flipped bit": (_flip_a_bit, "not the one that config.json was written for"),
    "a truncated file": (_truncate, "not the one that config.json was written for"),
    "too few widths": (_rewrite(widths={"attention": [64], "mlp": [256]}), "do not fit its config.json"),
    "other widths": (_rewrite(widths={"attention": [32, 32], "mlp": [256, 256]}), "do not fit its config.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_folder_is_refused_in_one_sentence(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "m"
    save_model(folder, fresh_model("DecoderLM"), SHAPES["DecoderLM"])
    make_damage, sentence = DAMAGES[damage]
    make_damage(folder)
    with pytest.raises(NotRetryable, match=sentence) as error:
        load_model(folder)
    assert error.value.reason == "CheckpointUnreadable"
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_another_model_are_refused_though_their_hash_is_right(tmp_path: Path) -> None:
    save_model(tmp_path / "m", fresh_model("DecoderLM"), SHAPES["ConvNet"])
    with pytest.raises(NotRetryable, match="tensors are missing or unknown"):
        load_model(tmp_path / "m")
