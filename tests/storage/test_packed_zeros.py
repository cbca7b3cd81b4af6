"""Tensors with many zeros take fewer bytes, come back to the same bits, and need nothing of ours to be read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from builders.compress import LM_SHAPE, apply, example_inputs, fresh_model, pruned, weight_only
from costopt_trainer.models.artifact import load_model, save_model
from costopt_trainer.storage.packed_zeros import PACKED, pack, unpack

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.int64, torch.bool]


def sparse(shape: tuple[int, ...], percent: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    there = torch.rand(shape, generator=generator) * 100 >= percent
    return (torch.randn(shape, generator=generator) * 100 * there).to(dtype)


@given(
    shape=st.lists(st.integers(0, 40), max_size=3),
    percent=st.integers(0, 100),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_what_is_packed_comes_back_to_the_same_bits(
    shape: list[int], percent: int, dtype: torch.dtype, seed: int
) -> None:
    before = {"w": sparse(tuple(shape), percent, dtype, seed)}
    packed, metadata = pack(before)
    after, rest = unpack(packed, {**metadata, "format": "pt"})
    assert rest == {"format": "pt"}
    assert after["w"].dtype == dtype
    assert after["w"].shape == before["w"].shape
    assert after["w"].reshape(-1).view(torch.uint8).tolist() == before["w"].reshape(-1).view(torch.uint8).tolist()


def test_minus_zero_and_what_is_no_number_are_values() -> None:
    special = torch.zeros(4096)
    special[:4] = torch.tensor([-0.0, float("nan"), float("inf"), 1e-45])
    packed, metadata = pack({"w": special})
    assert packed["w.values"].shape == (4,)
    assert unpack(packed, metadata)[0]["w"].view(torch.int32).tolist() == special.view(torch.int32).tolist()


def test_only_what_becomes_smaller_is_packed() -> None:
    tensors = {"dense": torch.randn(64, 64), "small": torch.zeros(8), "half": sparse((64, 64), 50, torch.float32)}
    packed, metadata = pack(tensors)
    assert sorted(packed) == ["dense", "half.mask", "half.values", "small"]
    assert json.loads(metadata[PACKED]) == {"half": [64, 64]}
    assert pack({"dense": tensors["dense"]})[1] == {}


@pytest.mark.parametrize(("percent", "most"), [(50, 0.62), (90, 0.25)])
def test_a_pruned_artifact_is_smaller_by_about_what_is_zero(tmp_path: Path, percent: int, most: float) -> None:
    model, inputs = fresh_model("DecoderLM"), example_inputs("DecoderLM")
    before = save_model(tmp_path / "before", model, LM_SHAPE)
    steps = [pruned("Unstructured", percent)]
    apply(model, steps, inputs[:1])
    after = save_model(tmp_path / "after", model, LM_SHAPE, steps=steps)
    embeddings = (256 + 32) * 64 * 4
    assert after == (tmp_path / "after/model.safetensors").stat().st_size
    assert after - embeddings < most * (before - embeddings)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "after")(inputs), model(inputs))


def test_zeros_of_int8_weights_are_packed_too(tmp_path: Path) -> None:
    model, inputs = fresh_model("DecoderLM"), example_inputs("DecoderLM")
    steps = [pruned("Unstructured", 90), weight_only()]
    apply(model, steps, inputs[:1])
    whole = save_model(tmp_path / "whole", model, LM_SHAPE)
    assert save_model(tmp_path / "packed", model, LM_SHAPE, steps=steps) < 0.7 * whole
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "packed")(inputs), model(inputs))


def test_a_few_lines_without_our_code_read_it(tmp_path: Path) -> None:
    model, steps = fresh_model("DecoderLM"), [pruned("Unstructured", 80)]
    apply(model, steps, example_inputs("DecoderLM")[:1])
    save_model(tmp_path / "m", model, LM_SHAPE, steps=steps)

    # As the page on pruning has it.
    with safe_open(tmp_path / "m/model.safetensors", framework="np") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        shapes = json.loads(file.metadata()["costopt.packed"])
    for name, shape in shapes.items():
        mask = np.unpackbits(weights.pop(f"{name}.mask"), count=np.prod(shape)).astype(bool)
        values = weights.pop(f"{name}.values")
        weights[name] = np.zeros(mask.shape, values.dtype)
        weights[name][mask] = values
        weights[name] = weights[name].reshape(shape)

    assert weights.keys() == model.state_dict().keys()
    assert all(np.array_equal(weights[name], tensor.numpy()) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "shapes",
    [{"w": [10**12]}, {"w": [-1, -4096]}, {"w": "many"}, {"w": [4095]}, {"w": [64, True]}, {"gone": [4096]}, [], None],
)
def test_metadata_that_does_not_fit_is_refused(shapes: object) -> None:
    packed, _ = pack({"w": sparse((64, 64), 90, torch.float32)})
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        unpack(packed, {PACKED: json.dumps(shapes)})


def test_values_that_do_not_fit_the_mask_are_refused() -> None:
    packed, metadata = pack({"w": sparse((64, 64), 90, torch.float32)})
    with pytest.raises(ValueError, match="a value for each bit"):
        unpack({**packed, "w.values": packed["w.values"][1:]}, metadata)
