"""Files of tensors: the bytes that safetensors writes, block by block."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from costopt_trainer.storage import tensor_file
from costopt_trainer.storage.tensor_file import LazyTensor, write_tensor_file
from costopt_trainer.storage.tensor_pieces import DTYPES


def all_kinds() -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(0)
    tensors = {
        f"{name.lower()}.{number}": torch.randint(0, 2, (3, number), generator=source).to(dtype)
        for name, dtype in DTYPES.items()
        for number in (5, 0, 1)
    }
    return tensors | {"scalar": torch.tensor(3.5), 'ö "\\\n': torch.ones(2), "turned": torch.arange(12.0).view(4, 3).T}


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_the_bytes_are_those_of_safetensors(
    metadata: dict[str, str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", 16)
    blocks: list[None] = []
    record = write_tensor_file(tmp_path / "ours", all_kinds(), metadata=metadata, on_block=lambda: blocks.append(None))
    save_file({name: tensor.contiguous() for name, tensor in all_kinds().items()}, tmp_path / "its", metadata=metadata)
    content = (tmp_path / "ours").read_bytes()
    assert content == (tmp_path / "its").read_bytes()
    assert record == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert len(blocks) > 40


def test_no_tensors_are_a_file_too(tmp_path: Path) -> None:
    write_tensor_file(tmp_path / "none", {})
    assert (tmp_path / "none").read_bytes() == save({})


def test_a_tensor_is_read_when_its_turn_comes_and_not_kept(tmp_path: Path) -> None:
    alive: set[int] = set()
    most: list[int] = []

    class Watched(Tensor):
        def __del__(self) -> None:
            alive.discard(id(self))

    def read() -> Tensor:
        tensor = torch.ones(4).as_subclass(Watched)
        alive.add(id(tensor))
        most.append(len(alive))
        return tensor

    write_tensor_file(tmp_path / "a", {f"t{n}": LazyTensor(torch.float32, (4,), read) for n in range(5)})
    assert max(most) <= 2, "the next is read before the last is let go of"
    assert len(load_file(tmp_path / "a")) == len(most) == 5


def test_a_tensor_that_is_not_what_it_said_is_refused(tmp_path: Path) -> None:
    other = LazyTensor(torch.float32, (4,), lambda: torch.ones(3))
    with pytest.raises(ValueError, match=r"w is torch.float32 \(3,\) and not torch.float32 \(4,\)"):
        write_tensor_file(tmp_path / "a", {"w": other})
