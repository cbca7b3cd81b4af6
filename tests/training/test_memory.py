"""What training does to need less memory changes no bit of its result."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy
from torch.utils._python_dispatch import TorchDispatchMode

from builders.trainer import image_file, image_recipe, losses, recipe, text_file, train_here, without_dropout, written
from costopt.schema import models as language
from costopt.schema.memory import Memory
from costopt.schema.parallelism import Parallelism
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from costopt_trainer.training.memory import save_memory
from costopt_trainer.training.parallel import sharded

MODES = pytest.mark.parametrize("mode", ["Selective", "Full"])


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


class Operators(TorchDispatchMode):
    """Names of the operators that were computed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(operator._schema.name)
        return operator(*args, **(kwargs or {}))


def language_model(mode: Any) -> LayeredModel:
    settings = language.DecoderLM(num_layers=3, num_heads=2, embedding_dim=16, context_length=8, dropout_percent=20)
    shape = ModelShape(language.ModelSettings(type="DecoderLM", decoder_lm=settings), vocabulary_size=50)
    torch.manual_seed(1)
    model = build_model(shape)
    save_memory(model, Memory(activation_checkpointing=mode))
    return model


def backward_of(model: LayeredModel) -> tuple[list[str], int]:
    """The operators of a backward pass, and the bytes that were kept for it outside of the layers' own keeping."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = torch.randint(0, 50, (4, 8))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.loss_sum(tokens, tokens)
    with Operators() as computed:
        loss.backward()
    return computed.names, sum(kept.values())


@MODES
def test_a_training_with_dropout_ends_in_the_same_bits(mode: str, text: Path, tmp_path: Path) -> None:
    assert train_here(recipe(text), tmp_path / "plain") == 0
    settings = recipe(text, memory={"activationCheckpointing": mode})
    assert train_here(settings, tmp_path / "saving") == 0
    assert losses(tmp_path / "saving") == losses(tmp_path / "plain")
    assert written(tmp_path / "saving", 8) == written(tmp_path / "plain", 8)
    model = "artifacts/model/model.safetensors"
    assert (tmp_path / "saving" / model).read_bytes() == (tmp_path / "plain" / model).read_bytes()


@MODES
def test_moving_averages_of_batch_norm_count_a_batch_once(mode: str, tmp_path: Path) -> None:
    images = image_file(tmp_path)
    assert train_here(image_recipe(images), tmp_path / "plain") == 0
    assert train_here(image_recipe(images, memory={"activationCheckpointing": mode}), tmp_path / "saving") == 0
    assert written(tmp_path / "saving", 8) == written(tmp_path / "plain", 8)


def test_selective_computes_no_product_twice_and_full_all_but_keeps_less() -> None:
    products = {}
    kept = {}
    for mode in ("None", "Selective", "Full"):
        names, kept[mode] = backward_of(language_model(mode))
        products[mode] = names.count("aten::mm")
        assert ("aten::native_dropout" in names or "aten::bernoulli_" in names) == (mode != "None")
        assert names.count("aten::_scaled_dot_product_flash_attention_for_cpu") == (3 if mode == "Full" else 0)
    assert products["Selective"] == products["None"]
    assert products["Full"] == products["None"] + 3 * 6
    assert kept["Full"] < kept["None"] / 3


def test_names_of_parameters_and_kinds_of_layers_stay() -> None:
    plain, saving = language_model("None"), language_model("Full")
    assert list(saving.state_dict()) == list(plain.state_dict())
    assert all(isinstance(one, type(other)) for one, other in zip(saving.blocks(), plain.blocks(), strict=True))
    assert {type(block).__name__ for block in saving.blocks()} == {"RecomputedBlock"}


def test_without_gradients_a_layer_is_computed_as_ever() -> None:
    model, tokens = language_model("Full"), torch.randint(0, 50, (4, 8))
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens), language_model("None").eval()(tokens))


def test_the_chunked_loss_trains_to_the_same_losses_and_resumes_in_the_same_bits(text: Path, tmp_path: Path) -> None:
    plain, chunked = (
        recipe(text, model=without_dropout(), memory={"chunkedLoss": setting}) for setting in ("Never", "Always")
    )
    assert train_here(plain, tmp_path / "plain") == 0
    assert train_here(chunked, tmp_path / "chunked") == 0
    assert losses(tmp_path / "chunked") != losses(tmp_path / "plain"), "another order of sums"
    expected = {step: float(loss) for step, loss in losses(tmp_path / "plain").items()}
    assert {step: float(loss) for step, loss in losses(tmp_path / "chunked").items()} == pytest.approx(
        expected, abs=1e-5
    )
    train_here(chunked, tmp_path / "parts", stop_after=3)
    assert train_here(chunked, tmp_path / "parts") == 0
    assert written(tmp_path / "parts", 8) == written(tmp_path / "chunked", 8)


def test_small_logits_are_computed_as_before(text: Path, tmp_path: Path) -> None:
    for name, memory in (("default", None), ("never", {"chunkedLoss": "Never"})):
        changes = {} if memory is None else {"memory": memory}
        assert train_here(recipe(text, totalSteps=4, **changes), tmp_path / name) == 0
    assert written(tmp_path / "default", 4) == written(tmp_path / "never", 4)


@pytest.mark.parametrize(
    ("device", "settings", "policy"),
    [
        ("cuda", Parallelism(shard=2, offload_to_cpu=True), CPUOffloadPolicy),
        ("cuda", Parallelism(shard=2), OffloadPolicy),
        ("cpu", Parallelism(shard=2, offload_to_cpu=True), OffloadPolicy),
    ],
)
def test_what_is_shared_out_is_kept_in_host_memory_if_asked_for_and_if_there_is_a_device_beside_it(
    device: str, settings: Parallelism, policy: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be no GPU here: what torch is asked for is looked at, and not done."""
    asked: list[Any] = []
    monkeypatch.setattr(sharded, "fully_shard", lambda _module, *, offload_policy, **_: asked.append(offload_policy))
    gang: Any = SimpleNamespace(device=torch.device(device))
    mesh: Any = SimpleNamespace(gang=gang, devices=lambda *_: None)
    model = language_model("None")
    sharded.shard_states(model, model.blocks(), mesh, settings, "FP32", reshard_after_forward=True)
    assert len(asked) == len(model.blocks()) + 1
    assert {type(each) for each in asked} == {policy}
