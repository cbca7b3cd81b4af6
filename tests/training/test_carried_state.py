"""States that a training carries from sample to sample: in their order, in the checkpoint, on any number of ranks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from builders.gangs import Trained, whole_and_in_parts
from builders.small_device import SENTENCE
from builders.stopping import stop_at_micro_batch
from builders.trainer import losses, recipe, run, text_file, train_here, train_in_gang, written
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.data import load_data
from costopt_trainer.data.training_data import TrainingData
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model
from costopt_trainer.models.recurrent import Recurrent
from costopt_trainer.storage.checkpoint_files import read_tensors
from costopt_trainer.training.evaluation import indices_in_lanes, validation_totals

LANES, CONTEXT = 8, 16
STEPS_OF_AN_EPOCH = 5
TOLERANCE = 2e-6
"""Of losses of about 5.4: sums are taken in another order."""


def carrying(text: Path, *, lstm: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """An LSTM that carries its state, on a text of five steps an epoch."""
    settings = {"embeddingDim": 16, "contextLength": CONTEXT, "carryState": True, **(lstm or {})}
    plain = {
        "model": {"type": "LSTM", "lstm": settings},
        "data": {"type": "Text", "text": {"path": str(text)}, "validationPercent": 40},
        "evaluation": {"everySteps": 4, "maxSamples": 30},
    }
    return recipe(text, **(plain | changes))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"), words=240)


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed training of eight steps."""
    storage = tmp_path_factory.mktemp("whole")
    assert train_here(carrying(text), storage) == 0
    return storage


def lanes_of(text: Path, folder: Path) -> TrainingData:
    data = load_data(carrying(text).data, context_length=CONTEXT, cache_dir=folder / "cache").in_lanes(LANES)
    assert data.num_train_samples // LANES == STEPS_OF_AN_EPOCH
    assert data.num_validation_samples >= 3 * LANES
    return data


def carried(storage: Path, step: int) -> dict[str, Tensor]:
    return read_tensors(storage / f"checkpoints/step-{step:08d}", "carried")


def losses_of(storage: Path) -> dict[int, float]:
    return {step: float(loss) for step, loss in losses(storage).items()}


def validation_loss(storage: Path) -> float:
    return float(json.loads((storage / "progress-0.json").read_text())["validationLoss"])


def read_as_one_text(model: Any, batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Hidden activations and state after samples that follow one another, each (B, T), read as one sample each."""
    with torch.no_grad():
        state: Tensor = model.fresh_state(len(batches[0][0]))
        return model.run(torch.cat([inputs for inputs, _ in batches], dim=1), state)  # type: ignore[no-any-return]


def test_each_lane_has_the_state_of_all_it_has_read_in_this_epoch(text: Path, tmp_path: Path) -> None:
    unchanged = {"optimizer": {"learningRate": "0"}, "checkpointing": {"everySteps": 1, "keepLast": 9}}
    assert train_here(carrying(text, **unchanged, totalSteps=7), tmp_path) == 0
    data, model = lanes_of(text, tmp_path), load_model(tmp_path / "artifacts/model")
    assert isinstance(model, Recurrent)
    for step in range(1, 8):
        begun = step // STEPS_OF_AN_EPOCH * STEPS_OF_AN_EPOCH
        read = [
            data.train_batches(seed=0, position=LANES * number, count=LANES, batch_size=LANES)[0]
            for number in range(begun, step)
        ]
        begins = data.begins(seed=0, position=LANES * step, count=LANES)
        expected = read_as_one_text(model, read)[1] if read else model.fresh_state(LANES)
        assert carried(tmp_path, step).keys() == {"state"}
        found = carried(tmp_path, step)["state"]
        torch.testing.assert_close(found[:, :, ~begins], expected[:, :, ~begins])
        assert not found[:, :, begins].any()
        assert begins.all() == (step == STEPS_OF_AN_EPOCH)


def test_an_evaluation_reads_each_lane_as_one_text(text: Path, whole: Path) -> None:
    data, model = lanes_of(text, whole), load_model(whole / "artifacts/model")
    windows = [np.arange(LANES) * data.num_validation_samples // LANES + number for number in range(3)]
    batches = [data.validation_batch(window) for window in windows]
    assert model.vocabulary_head is not None
    logits = model.vocabulary_head(read_as_one_text(model, batches)[0])
    targets = torch.cat([targets for _, targets in batches], dim=1)
    expected = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()))
    assert validation_loss(whole) == pytest.approx(expected, abs=TOLERANCE)
    apart = validation_totals(model.each_logits, data, max_samples=24, micro_batch_size=2, device=torch.device("cpu"))
    assert apart is not None
    assert abs(apart.loss_sum / apart.num_targets - expected) > 10 * TOLERANCE, "from empty states it is another"


@pytest.mark.parametrize(("num_samples", "max_samples"), [(31, 30), (64, 16), (7, 99), (100, 3), (8, 8)])
def test_evaluated_samples_are_the_same_on_any_number_of_ranks(num_samples: int, max_samples: int) -> None:
    orders = [indices_in_lanes(num_samples, max_samples, LANES, at_once) for at_once in (1, 2, 4, 8)]
    for (indices, length), at_once in zip(orders, (1, 2, 4, 8), strict=True):
        assert len({*indices.tolist()}) == len(indices) <= max_samples
        assert {*indices.tolist()} == {*orders[0][0].tolist()}
        assert {*indices.tolist()} <= {*range(num_samples)}
        for place, index in enumerate(indices):
            if (place // at_once) % length:
                assert index == indices[place - at_once] + 1


def test_stopped_at_a_step_and_within_one_it_ends_in_the_same_bits(
    text: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train_here(carrying(text), tmp_path, stop_after=2) == EXIT_PREEMPTED
    with monkeypatch.context() as context:
        stop_at_micro_batch(context, "step", 8)  # of three between the four micro-batches of a step: within the 5th
        assert train_here(carrying(text), tmp_path) == EXIT_PREEMPTED
    assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == "step-00000004"
    assert train_here(carrying(text), tmp_path) == 0
    assert any(name.startswith("carried-") for name in written(whole, 8))
    assert written(tmp_path, 8) == written(whole, 8)
    assert losses(tmp_path) == losses(whole)


@pytest.mark.parametrize(
    "change",
    [{"batch": {"globalBatchSize": 8, "microBatchSize": 8}}, {"memory": {"activationCheckpointing": "Full"}}],
    ids=["one micro-batch", "recomputed"],
)
def test_the_state_does_not_depend_on_how_a_step_is_computed(
    change: dict[str, Any], text: Path, whole: Path, tmp_path: Path
) -> None:
    assert train_here(carrying(text, **change), tmp_path) == 0
    assert losses_of(tmp_path) == pytest.approx(losses_of(whole), abs=TOLERANCE)
    assert validation_loss(tmp_path) == pytest.approx(validation_loss(whole), abs=TOLERANCE)
    torch.testing.assert_close(carried(tmp_path, 8), carried(whole, 8), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("after_passes", [0, 6, 10], ids=["rehearsal", "step", "evaluation"])
def test_micro_batches_that_are_halved_read_on_in_the_same_states(
    after_passes: int, text: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_pass, sizes = Recurrent.hidden, []

    def small(self: Recurrent, x: Tensor) -> Tensor:
        result = whole_pass(self, x)  # the states have gone on by then
        sizes.append(len(x))
        if len(sizes) > after_passes and len(x) > 2:
            raise torch.OutOfMemoryError(SENTENCE)
        return result

    monkeypatch.setattr(Recurrent, "hidden", small)
    assert train_here(carrying(text, batch={"globalBatchSize": 8, "microBatchSize": 4}), tmp_path) == 0
    assert 4 in sizes
    assert {*sizes[-8:]} == {2}
    assert losses_of(tmp_path) == pytest.approx(losses_of(whole), abs=TOLERANCE)
    assert validation_loss(tmp_path) == pytest.approx(validation_loss(whole), abs=TOLERANCE)


def test_a_checkpoint_of_other_lanes_or_without_any_is_refused(text: Path, whole: Path, tmp_path: Path) -> None:
    wider = carrying(text, batch={"globalBatchSize": 16, "microBatchSize": 2})
    with pytest.raises(
        NotRetryable, match=r"step 8 is of another training: batch.globalBatchSize was 8 and is 16; put"
    ):
        train_here(wider, whole)
    for never in (False, None):
        with pytest.raises(NotRetryable, match=r"model.settings.carryState was true and is not set; put that back"):
            train_here(carrying(text, lstm={"carryState": never}), whole)
    assert train_here(carrying(text, lstm={"carryState": False}, totalSteps=3), tmp_path) == 0
    assert not any(name.startswith("carried-") for name in written(tmp_path, 3))
    with pytest.raises(NotRetryable, match=r"model.settings.carryState was not set and is true; put that back"):
        train_here(carrying(text, totalSteps=4), tmp_path)


def test_the_trained_model_has_no_state_and_reads_any_text(whole: Path) -> None:
    model = load_model(whole / "artifacts/model")
    assert isinstance(model, Recurrent)
    assert model.carried is None
    tokens = torch.arange(33).reshape(3, 11)
    assert torch.equal(model(tokens), model(tokens))


@pytest.mark.slow
def test_two_ranks_have_the_losses_of_one_process_and_go_on_from_its_states(text: Path, tmp_path: Path) -> None:
    changes = {"totalSteps": 20, "evaluation": {"everySteps": 20, "maxSamples": 30}, "checkpointing": {"everySteps": 7}}
    settings = carrying(text, **changes)
    alone = tmp_path / "alone"
    assert train_here(settings, alone, stop_after=9) == EXIT_PREEMPTED
    gone_on = run(settings, tmp_path / "gone-on", begins_as=str(alone))
    codes, errors = train_in_gang([*whole_and_in_parts({"pair": settings}, tmp_path), gone_on], 2, tmp_path)
    assert codes == [0, 0], errors
    pair = Trained(tmp_path, {"pair": settings}, errors)
    assert pair.ends_in_the_same_bits("pair")
    parts = [name for name in written(tmp_path / "pair", 20) if name.startswith("carried-")]
    assert parts == ["carried-00000-00000.safetensors", "carried-00001-00000.safetensors"]
    one = pair.losses_of_one_process("pair")
    assert list(one) == list(range(1, 21))
    assert pair.losses("pair") == pytest.approx(one, abs=TOLERANCE)
    assert losses_of(tmp_path / "gone-on") == pytest.approx({step: one[step] for step in range(8, 21)}, abs=TOLERANCE)
    back = run(settings, tmp_path / "back", begins_as=str(tmp_path / "pair"))
    assert train_here(settings, tmp_path / "back", begins_as=back.begins_as) == 0
    assert losses_of(tmp_path / "back") == pytest.approx({step: one[step] for step in range(15, 21)}, abs=TOLERANCE)
    for name in ("pair", "gone-on", "back"):
        assert validation_loss(tmp_path / name) == pytest.approx(validation_loss(tmp_path / "pair-alone"), abs=1e-5)
        torch.testing.assert_close(carried(tmp_path / name, 20), carried(tmp_path / "pair-alone", 20))


@pytest.mark.slow
def test_a_text_in_short_samples_is_learnt_better_with_a_carried_state(tmp_path: Path) -> None:
    ends = {}
    for carry in (False, True):
        short = carrying(
            tmp_path,
            lstm={"numLayers": 1, "embeddingDim": 64, "contextLength": 8, "carryState": carry},
            data={"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 500_000}},
            batch={"globalBatchSize": 32, "microBatchSize": 32},
            totalSteps=200,
            optimizer={"learningRate": "8e-3"},
            schedule={"warmupSteps": 20},
            evaluation={"everySteps": 200, "maxSamples": 1024},
            checkpointing={"everySteps": 200},
        )
        assert train_here(short, tmp_path / str(carry)) == 0
        ends[carry] = json.loads((tmp_path / str(carry) / "progress-0.json").read_text())["validationLoss"]
    assert float(ends[True]) < float(ends[False]) - 0.08
