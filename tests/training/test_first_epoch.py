"""Trainings that keep samples by their own losses: all first, then a part; to the same bits after any stop."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from builders.data import write_labelled
from builders.trainer import encoder_recipe, losses, recipe, text_file, train_here, without_dropout, written
from costopt import names
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.data.orders.all_first import AllFirst
from costopt_trainer.data.sampler import sample_epochs, sample_indices
from costopt_trainer.data.selection.by_loss import by_own_loss
from costopt_trainer.data.selection.stratified import shares
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model
from costopt_trainer.training import loop
from costopt_trainer.training.references import mean_losses

CPU = torch.device("cpu")
EPOCH = 9
"""Steps in which all samples are seen once, of the text below."""
STEPS = 14


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"), words=238)


def selecting(plain: Recipe, percent: int = 40, **loss: Any) -> Recipe:
    whole = plain.to_plain()
    loss = {"by": "FirstEpoch", "keep": "Highest", **loss}
    selection = {"type": "Loss", "keepPercent": percent, "loss": loss}
    return Recipe.model_validate({**whole, "data": {**whole["data"], "selection": selection}})


def job(text: Path, **changes: Any) -> Recipe:
    return recipe(text, **{"totalSteps": STEPS, "checkpointing": {"everySteps": 100, "keepLast": 9}, **changes})


class Watched(loop.Training):  # type: ignore[name-defined]  as the loop calls it
    """A training whose steps are written down."""

    seen: list[tuple[int, NDArray[np.float64]]]
    """The first position of each step, and the losses of its samples by a pass of its own before it."""
    part: NDArray[np.int64] | None
    all_losses: NDArray[np.float64]
    """Of every training sample by the model that chose."""

    def resume(self) -> None:
        Watched.seen, Watched.part = [], None
        super().resume()

    def take_step(self, batches: Any, num_targets: int) -> None:
        with torch.random.fork_rng(devices=[]):
            told = [mean_losses(self.module, batch, CPU) for batch in batches]
        Watched.seen.append((self.samples_consumed, np.concatenate(told)))
        super().take_step(batches, num_targets)

    def select_if_due(self) -> bool:
        due = self.first_epoch.is_due(self.samples_consumed)
        if due:
            everything = self.data.train_batch(np.arange(self.data.num_train_samples))
            self.module.eval()
            Watched.all_losses = mean_losses(self.module, everything, CPU)
            self.module.train()
        chosen = super().select_if_due()
        if due:
            Watched.part = self.data.order.kept
        return chosen


def watched(settings: Recipe, storage: Path, monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    monkeypatch.setattr(loop, "Training", Watched)
    assert train_here(settings, storage) == 0
    monkeypatch.undo()
    assert Watched.part is not None
    return Watched


def highest(told: NDArray[Any], count: int) -> NDArray[np.int64]:
    return np.sort(np.argsort(told, kind="stable")[-count:])


def in_first_epoch(seen: type[Watched]) -> NDArray[np.float64]:
    """The loss of each sample, by number, when the first epoch came to it."""
    told = np.concatenate([each for _, each in seen.seen[:EPOCH]])
    count = len(seen.all_losses)
    assert len(told) == 8 * EPOCH > count > 8 * (EPOCH - 1), "the epoch ends within its last step"
    by_number = np.empty(count)
    by_number[sample_indices(seed=0, position=0, count=count, num_samples=count)] = told[:count]
    return by_number


def test_those_of_the_highest_loss_in_the_first_epoch_are_kept(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen = watched(selecting(job(text, model=without_dropout())), tmp_path / "job", monkeypatch)
    told = in_first_epoch(seen)
    count = len(told)
    kept = count * 40 // 100
    assert np.array_equal(seen.part, highest(told, kept))
    data = seen.seen[EPOCH][0]
    assert data == 8 * EPOCH
    said = capfd.readouterr().err
    assert f"all {count} training samples are learned from for {EPOCH} steps, then a part of them" in said
    assert f"selection keeps {kept} of {count} training samples" in said
    assert f"an epoch takes {kept // 8} steps in place of {count // 8}" in said
    progress = json.loads((tmp_path / "job/progress-0.json").read_text())
    assert progress["dataSaved"] == f"selection saves {count // 8 - kept // 8} of {count // 8} steps of an epoch"
    plain = train_here(job(text, model=without_dropout()), tmp_path / "plain")
    assert plain == 0
    first, other = losses(tmp_path / "job"), losses(tmp_path / "plain")
    assert [first[step] for step in range(1, EPOCH + 1)] == [other[step] for step in range(1, EPOCH + 1)], (
        "telling losses changes no bit"
    )
    assert first[STEPS] != other[STEPS]


def test_after_the_first_epoch_steps_draw_from_the_part_alone(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[NDArray[np.int64]] = []
    call = AllFirst.__call__

    def note(self: AllFirst, **place: Any) -> NDArray[np.int64]:
        numbers = call(self, **place)
        if place["position"] >= self.until:
            drawn.append(numbers)
        return numbers

    monkeypatch.setattr(AllFirst, "__call__", note)
    seen = watched(selecting(job(text, totalSteps=EPOCH + 9), percent=30), tmp_path / "job", monkeypatch)
    assert set(np.concatenate(drawn).tolist()) == set(seen.part.tolist())  # type: ignore[union-attr]


def test_a_stop_at_any_step_changes_no_bit(text: Path, tmp_path: Path) -> None:
    settings = selecting(job(text))
    assert train_here(settings, tmp_path / "whole") == 0
    for stop in (4, EPOCH, EPOCH + 2):
        assert train_here(settings, tmp_path / "parts", stop_after=stop) == EXIT_PREEMPTED
    assert train_here(settings, tmp_path / "parts") == 0
    assert written(tmp_path / "whole", STEPS) == written(tmp_path / "parts", STEPS)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    other = selecting(job(text, totalSteps=STEPS + 1), percent=50)
    with pytest.raises(NotRetryable, match="is of another training: data was"):
        train_here(other, tmp_path / "parts")


def test_after_given_steps_all_samples_are_asked(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = selecting(job(text), firstSteps=5, keep="Lowest")
    seen = watched(settings, tmp_path / "job", monkeypatch)
    kept = len(seen.all_losses) * 40 // 100
    assert np.array_equal(seen.part, np.sort(np.argsort(seen.all_losses)[:kept])), "of the whole, and without dropout"
    for stop in (5, 6):  # 5: told to end while the samples are asked
        assert train_here(settings, tmp_path / "parts", stop_after=stop) == EXIT_PREEMPTED
    assert train_here(settings, tmp_path / "parts") == 0
    assert written(tmp_path / "job", STEPS) == written(tmp_path / "parts", STEPS)


def test_a_model_with_its_own_loss_is_asked_sample_by_sample(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "with_own_loss.py").write_text(
        "import torch\n"
        "class Model(torch.nn.Module):\n"
        "    def __init__(self, size):\n"
        "        super().__init__()\n"
        "        self.table = torch.nn.Embedding(size, size)\n"
        "    def forward(self, inputs):\n"
        "        return self.table(inputs)\n"
        "    def loss_sum(self, inputs, targets):\n"
        "        logits = self(inputs).flatten(0, 1)\n"
        "        return torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction='sum')\n"
        "def make(vocabulary_size):\n"
        "    return Model(vocabulary_size)\n"
    )
    settings = {"function": "with_own_loss:make", "path": str(package), "contextLength": 16}
    plain = job(text, model={"type": "Import", "import": settings})
    seen = watched(selecting(plain), tmp_path / "job", monkeypatch)
    assert np.array_equal(seen.part, highest(seen.all_losses, len(seen.all_losses) * 40 // 100))


def test_the_loss_above_that_of_a_model_is_what_could_be_learned(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train_here(recipe(text, totalSteps=30, model=without_dropout()), tmp_path / "earlier") == 0
    reference = tmp_path / "earlier" / names.ARTIFACTS_DIR / names.MODEL_DIR
    settings = selecting(job(text, model=without_dropout()), by="ExcessLoss", reference={"model": str(reference)})
    seen = watched(settings, tmp_path / "job", monkeypatch)
    expected = mean_losses(load_model(reference), samples_of(settings, tmp_path / "job"), CPU)
    excess = in_first_epoch(seen) - expected
    assert np.array_equal(seen.part, highest(excess, len(excess) * 40 // 100))
    assert train_here(settings, tmp_path / "parts", stop_after=EPOCH) == EXIT_PREEMPTED
    assert train_here(settings, tmp_path / "parts") == 0
    assert written(tmp_path / "job", STEPS) == written(tmp_path / "parts", STEPS)


def samples_of(settings: Recipe, storage: Path) -> Any:
    """All training samples of a job."""
    from costopt_trainer.training.recipe_data import data_of

    data = data_of(settings, storage)
    return data.train_batch(np.arange(data.num_train_samples))


def test_classes_and_hidden_tokens_have_losses_too(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = write_labelled(tmp_path / "a.jsonl", count=40)
    changes = {"totalSteps": STEPS, "checkpointing": {"everySteps": 100}}
    seen = watched(selecting(encoder_recipe(documents, **changes)), tmp_path / "classes", monkeypatch)
    count = len(seen.all_losses)
    told = np.concatenate([each for _, each in seen.seen])[:count]
    numbers = sample_indices(seed=0, position=0, count=count, num_samples=count)
    assert np.array_equal(seen.part, np.sort(numbers[np.argsort(told, kind="stable")[-(count * 40 // 100) :]]))
    seen = watched(selecting(encoder_recipe(text, **changes)), tmp_path / "masked", monkeypatch)
    assert np.array_equal(seen.part, highest(in_first_epoch(seen), len(seen.all_losses) * 40 // 100))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_model_tells_the_loss_of_each_target(chunked: bool) -> None:
    from costopt_trainer.models.chunked_loss import head_loss_sum

    source = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 50, 8, generator=source)
    head, targets = torch.nn.Linear(8, 23), torch.randint(0, 23, (3, 50), generator=source)
    targets[1, 7] = -100
    told: list[torch.Tensor] = []
    total = head_loss_sum(hidden, head, targets, chunked=chunked, smoothing=0.3, tell=told.append)
    each = torch.cat(told)
    wanted = torch.nn.functional.cross_entropy(head(hidden).flatten(0, 1), targets.flatten(), reduction="none")
    assert len(told) == (3 if chunked else 1)
    assert torch.isnan(each).nonzero().tolist() == [[57]]
    assert each.nan_to_num(0).tolist() == pytest.approx(wanted.tolist(), rel=1e-5)
    silent = head_loss_sum(hidden, head, targets, chunked=chunked, smoothing=0.3)
    assert torch.equal(total, silent)
    total.backward()


def test_too_few_steps_and_samples_are_refused(text: Path, tmp_path: Path) -> None:
    wanted = rf"totalSteps must be more than the {EPOCH} steps on all samples that come before .* but is {EPOCH}: give"
    with pytest.raises(NotRetryable, match=wanted):
        train_here(selecting(job(text, totalSteps=EPOCH)), tmp_path / "few")
    with pytest.raises(NotRetryable, match=r"keepPercent 5 must leave at least batch\.globalBatchSize"):
        train_here(selecting(job(text), percent=5), tmp_path / "few")


@given(st.integers(1, 60), st.integers(1, 200), st.data())
def test_all_samples_come_first_and_then_epochs_of_the_part(count: int, until: int, draw: st.DataObject) -> None:
    size = draw.draw(st.integers(1, count))
    kept = np.sort(np.random.default_rng(draw.draw(st.integers(0, 99))).permutation(count)[:size])
    position, length = draw.draw(st.integers(0, 300)), draw.draw(st.integers(0, 200))
    order = AllFirst(count, until, kept)
    numbers = order(seed=3, position=position, count=length)
    whole = order(seed=3, position=0, count=until + position + length)
    assert np.array_equal(numbers, whole[position:][:length]), "of any cut"
    first = sample_indices(seed=3, position=0, count=until, num_samples=count)
    assert np.array_equal(whole[:until], first)
    behind = order(seed=3, position=until, count=3 * size).reshape(3, size)
    assert all(np.array_equal(np.sort(epoch), kept) for epoch in behind)
    epochs = order.epochs(position=0, count=until + size + 1)
    assert np.array_equal(epochs[:until], sample_epochs(position=0, count=until, num_samples=count))
    last = int(epochs[until - 1])
    assert epochs[until:].tolist() == [last + 1] * size + [last + 2]
    unknown = AllFirst(count, until)
    assert np.array_equal(unknown(seed=3, position=0, count=until), first)
    with pytest.raises(ValueError, match="is not known yet"):
        unknown(seed=3, position=until, count=1)


@given(st.integers(1, 300), st.integers(1, 100), st.sampled_from(["Highest", "Middle", "Lowest"]), st.data())
def test_of_each_stretch_the_same_share_is_kept(count: int, stretch: int, keep: Any, draw: st.DataObject) -> None:
    told = np.random.default_rng(draw.draw(st.integers(0, 99))).permutation(count).astype(np.float32)
    wanted = draw.draw(st.integers(1, count))
    kept = by_own_loss(told, keep, wanted, stretch)
    assert len(kept) == len(set(kept.tolist())) == wanted
    sizes = np.bincount(np.arange(count) // stretch)
    assert np.array_equal(np.bincount(kept // stretch, minlength=len(sizes)), shares(sizes, wanted))
    for number in range(len(sizes)):
        own, of = told[kept[kept // stretch == number]], told[number * stretch : (number + 1) * stretch]
        left = np.setdiff1d(of, own)
        if len(own) and len(left):
            above, below = (left > own.max()).sum(), (left < own.min()).sum()
            assert above + below == len(left)
            assert (above, below) == {
                "Highest": (0, len(left)),
                "Lowest": (len(left), 0),
                "Middle": (-(-len(left) // 2), len(left) // 2),
            }[keep]
