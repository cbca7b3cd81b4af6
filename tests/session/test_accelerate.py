"""Accelerate's state as a checkpoint: whole or not at all. Training goes on from the newest whole one."""

import random
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # the import


def test_a_state_comes_back_from_its_newest_whole_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    accelerate = pytest.importorskip("accelerate")
    pytest.importorskip("transformers")
    from costopt_trainer.session.hugging_face import load_newest_state, save_state

    before = random.getstate()
    accelerator = accelerate.Accelerator(cpu=True)
    plain = torch.nn.Linear(4, 1)
    model, optimizer = accelerator.prepare(plain, torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9))
    assert load_newest_state(accelerator, tmp_path) == 0, "there is none"

    kept = {}
    for step in range(1, 4):
        accelerator.backward(model(torch.ones(2, 4)).sum())
        optimizer.step()
        optimizer.zero_grad()
        kept[step] = plain.weight.detach().clone()
        assert save_state(accelerator, step, tmp_path) == tmp_path / f"step-{step:08d}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]

    torch.nn.init.zeros_(plain.weight)
    assert load_newest_state(accelerator, tmp_path) == 3
    assert torch.equal(plain.weight, kept[3])
    weights = tmp_path / "step-00000003/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert load_newest_state(accelerator, tmp_path) == 2
    assert torch.equal(plain.weight, kept[2])
    said = capsys.readouterr().err
    assert (
        "a checkpoint is passed over: step-00000003: model.safetensors has another size than when it was saved" in said
    )
    random.setstate(before)


@pytest.mark.parametrize("stopped_after", [3, 5, 7])
def test_a_loop_goes_on_in_the_same_bits_also_in_the_midst_of_an_epoch(tmp_path: Path, stopped_after: int) -> None:
    torch = pytest.importorskip("torch")
    accelerate = pytest.importorskip("accelerate")
    pytest.importorskip("transformers")
    from accelerate.utils import DataLoaderConfiguration, set_seed

    from costopt_trainer.session.hugging_face import batches_after, load_newest_state, save_state

    def train(folder: Path, steps: int, seed: int) -> Any:
        """To the end of `steps`, in epochs of five; its weights."""
        set_seed(0)
        plain = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
        samples = torch.utils.data.TensorDataset(torch.arange(40.0).view(10, 4) / 40)
        in_order = DataLoaderConfiguration(use_seedable_sampler=True, data_seed=1)
        accelerator = accelerate.Accelerator(cpu=True, dataloader_config=in_order)
        model, optimizer, loader = accelerator.prepare(
            plain,
            torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9),
            torch.utils.data.DataLoader(samples, batch_size=2, shuffle=True),
        )
        set_seed(seed)
        start = load_newest_state(accelerator, folder)
        batches = batches_after(loader, start)
        for _ in range(start, steps):
            accelerator.backward(model(*next(batches)).square().sum())
            optimizer.step()
            optimizer.zero_grad()
        save_state(accelerator, steps, folder)
        return torch.cat([weight.detach().flatten() for weight in plain.parameters()])

    before = random.getstate()
    whole = train(tmp_path / "whole", 12, seed=2)
    train(tmp_path / "parts", stopped_after, seed=2)
    assert torch.equal(train(tmp_path / "parts", 12, seed=3), whole)
    random.setstate(before)


@pytest.mark.parametrize("wrong", ["not prepared", "no batch", "no length"])
def test_a_loader_that_cannot_be_gone_on_with_is_refused_in_one_sentence(wrong: str) -> None:
    torch = pytest.importorskip("torch")
    accelerate = pytest.importorskip("accelerate")
    pytest.importorskip("transformers")

    from costopt_trainer.session.hugging_face import batches_after

    class Endless(torch.utils.data.IterableDataset):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Any:
            return iter(torch.ones(2))

    samples = Endless() if wrong == "no length" else torch.utils.data.TensorDataset(torch.ones(4))
    loader = torch.utils.data.DataLoader(samples, batch_size=8 if wrong == "no batch" else 2, drop_last=True)
    if wrong != "not prepared":
        loader = accelerate.Accelerator(cpu=True).prepare(loader)
    with pytest.raises(
        ValueError, match=r"^batches_after needs a loader that accelerator\.prepare has made, .* least$"
    ):
        next(batches_after(loader, 0))
