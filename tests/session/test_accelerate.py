"""Accelerate's state as a checkpoint: whole or not at all, and the newest whole one is loaded."""

import random
from pathlib import Path

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
