"""Tensors of few values are stored in few bits and come back to the bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from costopt_trainer.storage import codebooks
from costopt_trainer.storage.codebooks import with_codebooks, without_codebooks

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])


def of_few_values(count: int, values: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(values, generator=generator)
    return centres[torch.randint(0, values, (count, 3), generator=generator)].to(dtype)


def is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 300), DTYPES, st.integers(0, 9))
def test_what_is_stored_comes_back_to_the_bit(count: int, values: int, dtype: torch.dtype, seed: int) -> None:
    tensors = {"a": of_few_values(count, values, dtype, seed), "b": torch.randn(4, 4), "c": torch.arange(6).view(2, 3)}
    stored = with_codebooks(tensors)
    again = without_codebooks(stored, {name: tensor.shape for name, tensor in tensors.items()})
    assert again.keys() == tensors.keys()
    assert all(is_same(again[name], tensor) for name, tensor in tensors.items())
    assert sum(tensor.nbytes for tensor in stored.values()) <= sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize(("values", "bits"), [(2, 1), (3, 2), (16, 4), (17, 5), (256, 8)])
def test_an_index_takes_as_many_bits_as_the_values_need(values: int, bits: int) -> None:
    matrix = torch.arange(4096).remainder(values).float().view(64, 64)
    stored = with_codebooks({"w": matrix})
    assert {name: tensor.nbytes for name, tensor in stored.items()} == {
        "w:codebook": 4 * values,
        "w:indices": 4096 * bits // 8,
    }


def test_zero_and_minus_zero_and_what_is_no_number_are_told_apart() -> None:
    matrix = torch.tensor([[0.0, -0.0], [float("nan"), float("inf")]]).repeat(32, 1)
    stored = with_codebooks({"w": matrix})
    assert len(stored["w:codebook"]) == 4
    assert is_same(without_codebooks(stored, {"w": matrix.shape})["w"], matrix)


def test_large_tensors_are_packed_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = of_few_values(500, 20)
    at_once = with_codebooks({"w": matrix})["w:indices"]
    monkeypatch.setattr(codebooks, "_AT_ONCE", 64)
    stored = with_codebooks({"w": matrix})
    assert torch.equal(stored["w:indices"], at_once)
    assert is_same(without_codebooks(stored, {"w": matrix.shape})["w"], matrix)


@pytest.mark.parametrize("tensor", [torch.randn(64, 64), torch.zeros(64), torch.zeros(0, 4), torch.zeros(1, 1)])
def test_what_would_not_get_smaller_stays_as_it_is(tensor: torch.Tensor) -> None:
    assert with_codebooks({"w": tensor}) == {"w": tensor}


MATRIX = torch.arange(64).remainder(4).float().view(8, 8)
PARTS = with_codebooks({"w": MATRIX})
DAMAGED = {
    "too few indices": {**PARTS, "w:indices": PARTS["w:indices"][:-1]},
    "indices of another kind": {**PARTS, "w:indices": PARTS["w:indices"].int()},
    "no values": {**PARTS, "w:codebook": PARTS["w:codebook"][:0]},
    "values in a table": {**PARTS, "w:codebook": PARTS["w:codebook"].view(2, 2)},
    "an index beyond": {**PARTS, "w:codebook": PARTS["w:codebook"][:3]},
    "no indices": {"w:codebook": PARTS["w:codebook"]},
    "another name": {"v:codebook": PARTS["w:codebook"], "v:indices": PARTS["w:indices"]},
}


@pytest.mark.parametrize("parts", DAMAGED.values(), ids=DAMAGED)
def test_parts_that_do_not_fit_are_refused(parts: dict[str, torch.Tensor]) -> None:
    with pytest.raises((ValueError, KeyError)):
        without_codebooks(parts, {"w": MATRIX.shape})
