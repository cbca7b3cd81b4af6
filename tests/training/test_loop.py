"""A training with one rank, in this process: what it computes, what it writes, and what it refuses."""

import contextlib
import json
import math
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders.trainer import (
    image_file,
    image_recipe,
    losses,
    recipe,
    run,
    start_ranks,
    text_file,
    train_here,
    train_in_gang,
    wait_for,
    without_dropout,
    written,
)
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED, Progress
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model
from costopt_trainer.models.decoder_lm import DecoderLM
from costopt_trainer.models.table import build_model
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.divergence import diverged
from costopt_trainer.training.evaluation import spread_indices, validation_totals
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.optimizers import make_optimizer
from costopt_trainer.training.parallel.data import DataParallel
from costopt_trainer.training.precision import gradient_scaler, slow_precision
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_file(tmp_path_factory.mktemp("images"))


def make_recipe(kind: str, text: Path, images: Path, **changes: Any) -> Recipe:
    if kind == "ConvNet":
        return image_recipe(images, **changes)
    if kind == "ResNet":
        model = {"type": "ResNet", "resNet": {"numStages": 2, "numBlocks": 2, "baseChannels": 4}}
        return recipe(images, model=model, data={"type": "Images", "images": {"path": str(images)}}, **changes)
    if kind == "LSTM":
        layers = {"embeddingDim": 16, "contextLength": 16, "dropoutPercent": 10}
        return recipe(text, model={"type": "LSTM", "lstm": layers}, **changes)
    return recipe(text, precision=kind, **changes)


def training(recipe: Recipe, storage: Path) -> Training:
    """A training at its start or newest checkpoint, to be looked into."""
    storage.mkdir(parents=True, exist_ok=True)
    begun = Training(recipe, storage, ALONE, Meter(), Stop(), job="test")
    begun.resume()
    return begun


def progress_in(storage: Path) -> Progress:
    return Progress.model_validate_json((storage / "progress-0.json").read_text())


# ---------------------------------------------------------------------------------------------------- bitwise resume


@pytest.mark.parametrize("kind", ["FP32", "BF16", "FP16", "ConvNet", "ResNet", "LSTM"])
def test_40_steps_end_in_the_same_bits_as_20_steps_a_stop_and_20_more(
    kind: str, text: Path, images: Path, tmp_path: Path
) -> None:
    settings = make_recipe(kind, text, images, totalSteps=40, checkpointing={"everySteps": 15})
    assert train_here(settings, tmp_path / "whole") == 0
    assert train_here(settings, tmp_path / "parts", stop_after=20) == EXIT_PREEMPTED
    assert (tmp_path / "parts" / "checkpoints" / "step-00000020").is_dir()
    assert train_here(settings, tmp_path / "parts") == 0
    assert written(tmp_path / "whole", 40) == written(tmp_path / "parts", 40)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert list(losses(tmp_path / "parts")) == list(range(1, 41))


@pytest.mark.parametrize("kind", ["FP32", "LSTM"])
def test_a_training_killed_between_checkpoints_ends_in_the_same_bits(
    kind: str, text: Path, images: Path, tmp_path: Path
) -> None:
    settings = make_recipe(kind, text, images, totalSteps=12)
    assert train_here(settings, tmp_path / "whole") == 0
    killed = run(settings, tmp_path / "killed", signal_after=7, signal=signal.SIGKILL)
    codes, _ = train_in_gang([killed], 1, tmp_path)
    assert codes == [-signal.SIGKILL]
    assert max(losses(tmp_path / "killed")) == 6, "step 7 was not told any more"
    assert train_here(settings, tmp_path / "killed") == 0
    assert written(tmp_path / "whole", 12) == written(tmp_path / "killed", 12)
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed"), "lines of steps after the checkpoint are replaced"


def test_a_finished_training_that_is_started_again_only_rewrites_its_model(text: Path, tmp_path: Path) -> None:
    settings = recipe(text)
    assert train_here(settings, tmp_path) == 0
    before, told = written(tmp_path, 8), (tmp_path / "metrics.jsonl").read_text()
    shutil.rmtree(tmp_path / "artifacts")
    assert train_here(settings, tmp_path) == 0
    assert written(tmp_path, 8) == before
    assert (tmp_path / "metrics.jsonl").read_text() == told
    assert progress_in(tmp_path).results["validationLossNatsPerToken"]
    assert isinstance(load_model(tmp_path / "artifacts" / "model"), DecoderLM)


def test_the_saved_model_has_the_weights_of_the_last_checkpoint(text: Path, tmp_path: Path) -> None:
    settings = recipe(text)
    assert train_here(settings, tmp_path) == 0
    trained = training(settings, tmp_path).module.state_dict()
    saved = load_model(tmp_path / "artifacts" / "model").state_dict()
    assert all(torch.equal(saved[name], trained[name]) for name in trained)


def test_the_saved_model_is_joined_without_memory_for_another_one(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(text)
    assert train_here(settings, tmp_path) == 0
    weights = tmp_path / "artifacts/model/model.safetensors"
    before = weights.read_bytes()
    finished = training(settings, tmp_path)
    built: list[set[str]] = []
    build = build_model

    def observed(shape: Any) -> Any:
        model = build(shape)
        built.append({parameter.device.type for parameter in model.parameters()})
        return model

    monkeypatch.setattr("costopt_trainer.training.trained_model.build_model", observed)
    finished.finish()
    assert built == [{"meta"}]
    assert weights.read_bytes() == before


# ------------------------------------------------------------------------------------------- what a step computes


def test_micro_batches_and_the_whole_batch_at_once_give_the_same_losses(text: Path, tmp_path: Path) -> None:
    model = without_dropout()
    clipped = {"gradientClipNorm": "0.95"}  # at work in some steps only: Adam itself would hide a wrong scale
    for micro_batch_size in (1, 2, 8):
        batch = {"globalBatchSize": 8, "microBatchSize": micro_batch_size}
        settings = recipe(text, model=model, batch=batch, optimizer=clipped)
        assert train_here(settings, tmp_path / str(micro_batch_size)) == 0
    whole = {step: float(loss) for step, loss in losses(tmp_path / "8").items()}
    for micro_batch_size in (1, 2):
        told = {step: float(loss) for step, loss in losses(tmp_path / str(micro_batch_size)).items()}
        assert told == pytest.approx(whole, abs=1e-6)


def test_every_token_weighs_the_same_however_unevenly_micro_batches_are_filled(text: Path, tmp_path: Path) -> None:
    begun = training(recipe(text, model=without_dropout()), tmp_path)
    ((inputs, targets),) = [
        (torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))
        for batches in [begun.batches_at(begun.samples_consumed)]
    ]
    targets[:3, 2:] = -100  # the first samples are nearly empty
    num_targets = int((targets != -100).sum())
    off = gradient_scaler("FP32", ALONE.device, gradients_are_split=False)
    gradients = []
    for size in (8, 4, 1):
        batches = list(zip(inputs.split(size), targets.split(size), strict=True))
        begun.module.zero_grad()
        loss_sum = begun.strategy.accumulate_gradients(batches, 1 / num_targets, off)
        assert float(loss_sum) / num_targets == pytest.approx(5.55, abs=0.05)
        gradients.append(torch.cat([p.grad.flatten() for p in begun.module.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[2], atol=1e-7, rtol=1e-5)


def test_ranks_exchange_gradients_in_the_last_micro_batch_only(text: Path, tmp_path: Path) -> None:
    begun = training(recipe(text, model=without_dropout()), tmp_path)
    exchanges: list[bool] = []

    class Exchange:
        """DDP without other ranks: notes at each forward pass whether its gradients would be exchanged."""

        on = True

        def __call__(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            exchanges.append(self.on)
            return begun.module.loss_sum(inputs, targets)

        @contextlib.contextmanager
        def no_sync(self) -> Iterator[None]:
            self.on = False
            yield
            self.on = True

    begun.strategy._ddp = Exchange()  # type: ignore[attr-defined]
    begun.take_step(begun.batches_at(begun.samples_consumed), num_targets=128)
    assert exchanges == [False, False, False, True]


def test_a_larger_gradient_is_scaled_down_to_the_clip_norm(text: Path, tmp_path: Path) -> None:
    begun = training(recipe(text, optimizer={"gradientClipNorm": "0.01"}), tmp_path)
    seen: list[float] = []
    begun.optimizer.register_step_pre_hook(lambda *_: seen.append(float(begun.strategy.gradient_norm())))
    begun.take_step(begun.batches_at(begun.samples_consumed), num_targets=128)
    assert seen == [pytest.approx(0.01, rel=1e-3)]


def test_each_number_of_a_gradient_is_brought_into_the_clip_value(text: Path, tmp_path: Path) -> None:
    def gradients(name: str, **optimizer: str) -> list[torch.Tensor]:
        begun = training(recipe(text, optimizer=optimizer), tmp_path / name)
        seen: list[torch.Tensor] = []
        begun.optimizer.register_step_pre_hook(
            lambda *_: seen.extend(one.grad.clone() for one in begun.module.parameters() if one.grad is not None)
        )
        begun.take_step(begun.batches_at(begun.samples_consumed), num_targets=128)
        return seen

    whole, clipped = gradients("whole", gradientClipNorm="0"), gradients("clipped", gradientClipValue="0.002")
    assert any((one.abs() > 0.01).any() for one in whole), "there is something to clip, and the norm is not clipped"
    for before, after in zip(whole, clipped, strict=True):
        assert torch.equal(after, before.clamp(-0.002, 0.002))


@pytest.mark.parametrize("of", ["text", "images"])
def test_smoothed_labels_are_in_the_training_loss_and_not_in_an_evaluation(of: str, text: Path, tmp_path: Path) -> None:
    """With weights that stay as they are: a quarter of each target is as likely as the rest of the guesses is."""
    changes: dict[str, Any] = {"optimizer": {"learningRate": "0"}, "totalSteps": 3}

    def trained(name: str, percent: int | None) -> tuple[dict[int, str], dict[str, str]]:
        more = changes | ({} if percent is None else {"labelSmoothingPercent": percent})
        one = (
            image_recipe(image_file(tmp_path), **more)
            if of == "images"
            else recipe(text, model=without_dropout(), **more)
        )
        assert train_here(one, tmp_path / name) == 0
        return losses(tmp_path / name), progress_in(tmp_path / name).results

    (plain, before), (smooth, after), (smoother, _) = trained("a", None), trained("b", 25), trained("c", 50)
    assert before == after
    for step, loss in plain.items():
        added = float(smooth[step]) - float(loss)
        assert abs(added) > 1e-6
        assert float(smoother[step]) - float(loss) == pytest.approx(2 * added, abs=1e-6)


def test_weights_decay_in_matrices_only(text: Path, tmp_path: Path) -> None:
    begun = training(recipe(text), tmp_path)
    decayed, kept = make_optimizer(begun.recipe.optimizer, begun.module).param_groups
    assert decayed["weight_decay"] == 0.1
    assert {parameter.dim() for parameter in decayed["params"]} == {2}
    assert kept["weight_decay"] == 0
    assert {parameter.dim() for parameter in kept["params"]} == {1}


def test_training_learns(text: Path, tmp_path: Path) -> None:
    settings = recipe(
        text,
        totalSteps=250,
        optimizer={"learningRate": "1e-2"},
        evaluation={"everySteps": 250, "maxSamples": 64},
        checkpointing={"everySteps": 250},
    )
    assert train_here(settings, tmp_path) == 0
    results = {name: float(figure) for name, figure in progress_in(tmp_path).results.items()}
    assert results["validationLossNatsPerByte"] < results["unigramEntropyNatsPerByte"]
    assert results["validationPerplexityPerToken"] == pytest.approx(math.exp(results["validationLossNatsPerToken"]))
    assert results["validationBitsPerByte"] == pytest.approx(results["validationLossNatsPerByte"] / math.log(2))


def test_an_image_classifier_learns_too(images: Path, tmp_path: Path) -> None:
    settings = image_recipe(images, totalSteps=60, optimizer={"learningRate": "1e-2"})
    assert train_here(settings, tmp_path) == 0
    progress = progress_in(tmp_path)
    assert progress.tokens_per_second is None
    assert progress.samples_per_second
    results = progress.results
    assert int(results["validationAccuracyPermille"]) > 850
    assert int(results["validationMacroF1Permille"]) > 850
    assert float(results["validationLossNatsPerSample"]) < 0.5


# --------------------------------------------------------------------------------------------------- precision


def test_a_format_that_the_processor_only_imitates_is_named_once(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert train_here(recipe(text, precision="BF16", totalSteps=3), tmp_path / "imitated") == 0
    assert capsys.readouterr().err.count("precision BF16: this processor has no instructions for it (avx512_bf16") == 1


@pytest.mark.parametrize(
    ("kind", "able"),
    [("FP32", {}), ("BF16", {"avx512_bf16": True}), ("BF16", {"bf16": True}), ("FP16", {"amx_fp16": True})],
)
def test_nothing_is_said_of_a_format_that_the_processor_computes_in(
    kind: Any, able: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert slow_precision(kind, torch.device("cpu")) is None
    assert slow_precision(kind, torch.device("cuda")) is None


def test_a_step_skipped_under_fp16_is_no_divergence(text: Path, tmp_path: Path) -> None:
    begun = training(recipe(text, precision="FP16"), tmp_path)
    begun.scaler.load_state_dict({**begun.scaler.state_dict(), "scale": 2.0**60})
    before = [parameter.clone() for parameter in begun.module.parameters()]
    begun.take_step(begun.batches_at(begun.samples_consumed), num_targets=128)
    begun.read_losses()
    assert begun.scaler.get_scale() == 2.0**59
    assert all(torch.equal(*pair) for pair in zip(before, begun.module.parameters(), strict=True))
    begun.scaler.load_state_dict({**begun.scaler.state_dict(), "scale": 2.0**10})
    begun.take_step(begun.batches_at(begun.samples_consumed), num_targets=128)
    assert not all(torch.equal(*pair) for pair in zip(before, begun.module.parameters(), strict=True))


def test_the_loss_scale_and_its_age_survive_a_resume(text: Path, tmp_path: Path) -> None:
    begun = training(recipe(text, precision="FP16"), tmp_path)
    begun.scaler.load_state_dict({**begun.scaler.state_dict(), "scale": 2.0**11, "_growth_tracker": 41})
    begun.take_step(begun.batches_at(begun.samples_consumed), num_targets=128)
    begun.read_losses()
    begun.save()
    begun.settle()
    resumed = training(recipe(text, precision="FP16"), tmp_path).scaler.state_dict()
    assert (resumed["scale"], resumed["_growth_tracker"]) == (2.0**11, 42)


@pytest.mark.parametrize("precision", ["BF16", "FP16"])
def test_mixed_precision_stays_close_to_full_precision(precision: str, text: Path, tmp_path: Path) -> None:
    for name in ("FP32", precision):
        assert train_here(recipe(text, model=without_dropout(), precision=name), tmp_path / name) == 0
    full, mixed = losses(tmp_path / "FP32"), losses(tmp_path / precision)
    assert full != mixed
    assert [float(loss) for loss in mixed.values()] == pytest.approx([float(loss) for loss in full.values()], rel=2e-3)


@pytest.mark.parametrize(
    ("precision", "clip", "advice"),
    [("FP32", "0", "clip gradients .optimizer.gradientClipNorm is 0, which is off"), ("FP16", "0", "in BF16")],
)
def test_a_loss_that_is_not_finite_ends_the_training_before_it_is_saved(
    precision: str, clip: str, advice: str, text: Path, tmp_path: Path
) -> None:
    optimizer = {"learningRate": "1e38", "gradientClipNorm": clip}
    settings = recipe(text, precision=precision, optimizer=optimizer, checkpointing={"everySteps": 2}, schedule={})
    with pytest.raises(NotRetryable, match=rf"step \d is (nan|inf): lower optimizer.learningRate .*{advice}") as ended:
        train_here(settings, tmp_path)
    assert ended.value.reason == "LossNotFinite"
    for folder in (tmp_path / "checkpoints").iterdir():
        raise AssertionError(f"{folder} was written")


def test_lower_clipping_is_advised_where_gradients_are_clipped(text: Path) -> None:
    clipped = recipe(text, optimizer={"learningRate": "1", "gradientClipNorm": "2.5"})
    assert "or lower optimizer.gradientClipNorm (now 2.5)" in str(diverged("it is nan", clipped))
    assert "or lower optimizer.gradientClipNorm (now 1.0)" in str(diverged("it is nan", recipe(text)))
    clipped = recipe(text, optimizer={"gradientClipValue": "0.5"})
    assert "or lower optimizer.gradientClipValue (now 0.5)" in str(diverged("it is nan", clipped))


@pytest.mark.parametrize(("asked", "refused"), [(3, True), (4, False), (5, False)])
def test_a_checkpoint_behind_the_last_step_is_not_the_model_that_is_asked_for(
    asked: int, refused: bool, text: Path, tmp_path: Path
) -> None:
    steps = {"checkpointing": {"everySteps": 2}, "evaluation": {"everySteps": 2, "maxSamples": 4}}
    assert train_here(recipe(text, totalSteps=4, **steps), tmp_path) == 0
    if refused:
        with pytest.raises(NotRetryable, match="totalSteps is 3, but training has come to step 4 already: ask for"):
            train_here(recipe(text, totalSteps=asked, **steps), tmp_path)
    else:
        assert train_here(recipe(text, totalSteps=asked, **steps), tmp_path) == 0
        assert progress_in(tmp_path).step == asked


def test_other_data_are_refused_with_the_names_of_the_files(text: Path, tmp_path: Path) -> None:
    folder, storage = tmp_path / "texts", tmp_path / "storage"
    folder.mkdir()
    shutil.copy(text, folder / "a.txt")
    data = {"type": "Text", "text": {"path": str(folder), "include": "*.txt"}}
    settings = recipe(text, totalSteps=4, data=data)
    assert train_here(settings, storage) == 0
    (folder / "b.txt").write_text("news")
    with pytest.raises(NotRetryable, match=r"data was .* and is .* \(.*/b.txt is new\); put that back"):
        train_here(settings, storage)


def test_weights_that_are_not_finite_are_not_saved(text: Path, tmp_path: Path) -> None:
    begun = training(recipe(text), tmp_path)
    begun.take_step(begun.batches_at(begun.samples_consumed), num_targets=128)
    with torch.no_grad():
        next(begun.module.parameters()).view(-1)[3] = float("nan")
    begun.save()
    with pytest.raises(NotRetryable, match="the weights after step 1 are not finite") as ended:
        begun.settle()
    assert ended.value.reason == "LossNotFinite"
    assert list((tmp_path / "checkpoints").iterdir()) == []


# --------------------------------------------------------------------------------------------------- evaluation


def test_evaluation_leaves_no_trace(text: Path, images: Path, tmp_path: Path) -> None:
    for number, settings in enumerate((recipe(text), image_recipe(images))):
        begun = training(settings, tmp_path / str(number))
        begun.take_step(begun.batches_at(begun.samples_consumed), num_targets=128)
        random = torch.get_rng_state()
        before = {name: tensor.clone() for name, tensor in begun.module.state_dict().items()}
        begun.evaluate()
        assert torch.equal(random, torch.get_rng_state())
        assert begun.module.training
        assert all(torch.equal(before[name], tensor) for name, tensor in begun.module.state_dict().items())
        first = begun.progress.validation_loss
        begun.evaluate()
        assert begun.progress.validation_loss == first, "the same samples each time"


def test_evaluated_samples_are_spread_over_the_split_and_counted_once(text: Path, tmp_path: Path) -> None:
    assert spread_indices(10, 4).tolist() == [0, 2, 5, 7]
    assert spread_indices(3, 100).tolist() == [0, 1, 2]
    assert spread_indices(0, 4).tolist() == []
    begun = training(recipe(text), tmp_path)
    begun.module.eval()
    whole = validation_totals(
        begun.module.each_logits, begun.data, max_samples=7, micro_batch_size=7, device=ALONE.device
    )
    parts = [
        validation_totals(
            begun.module.each_logits,
            begun.data,
            max_samples=7,
            micro_batch_size=2,
            device=ALONE.device,
            rank=rank,
            world_size=3,
        )
        for rank in range(3)
    ]
    assert whole.num_targets == sum(part.num_targets for part in parts) == 7 * 16
    assert sum(part.loss_sum for part in parts) == pytest.approx(whole.loss_sum, rel=1e-6)


def test_the_loss_is_that_of_the_definition(text: Path, tmp_path: Path) -> None:
    begun = training(recipe(text), tmp_path)
    begun.module.eval()
    inputs, targets = begun.data.validation_batch(np.arange(3))
    with torch.no_grad():
        probabilities = begun.module(inputs).softmax(-1).double()
    expected = -probabilities.gather(-1, targets[..., None]).log().sum()
    everything = validation_totals(
        begun.strategy.each_logits, begun.data, max_samples=10**6, micro_batch_size=3, device=ALONE.device
    )
    first_three = validation_totals(
        begun.strategy.each_logits,
        Some(begun.data, 3),  # type: ignore[arg-type]
        max_samples=3,
        micro_batch_size=3,
        device=ALONE.device,
    )
    assert first_three.loss_sum == pytest.approx(float(expected), rel=1e-6)
    assert everything.num_targets == begun.data.num_validation_samples * 16
    assert everything.loss_sum > first_three.loss_sum


class Some:
    """The first few held-out samples only."""

    def __init__(self, data: Any, count: int) -> None:
        self.num_validation_samples = count
        self.parts = ()
        self.validation_batch = data.validation_batch


# ------------------------------------------------------------------------------------------ what it says meanwhile


def test_progress_says_how_far_training_is_and_where_the_time_went(text: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    assert train_here(recipe(text, checkpointing={"everySteps": 4, "mode": "Sync"}), tmp_path) == 0
    elapsed_ms = 1000 * (time.monotonic() - started)
    lines = [Progress.model_validate_json(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line.step, line.samples_consumed) for line in lines] == [(step, 8 * step) for step in range(1, 9)]
    assert [line.last_checkpoint_step for line in lines] == [None] * 3 + [4] * 4 + [8]
    assert lines[2].validation_loss is None
    assert lines[3].results.keys() == {
        "validationLossNatsPerToken",
        "validationLossNatsPerByte",
        "validationBitsPerByte",
        "validationPerplexityPerToken",
        "unigramEntropyNatsPerByte",
        "bigramEntropyNatsPerByte",
    }
    assert lines[-1].learning_rate == "0"
    assert all(line.tokens_per_second for line in lines)
    last = progress_in(tmp_path).metered
    assert last is not None
    assert last.since_checkpoint == 0
    assert last.productive > 0
    in_loop = last.productive + last.data_wait + last.checkpoint
    assert in_loop <= elapsed_ms + 5


def test_reports_do_not_come_at_every_quick_step(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = training(recipe(text, evaluation={"everySteps": 8}, checkpointing={"everySteps": 8}), tmp_path)
    run_steps(begun)
    told = [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()]
    assert told == [0, 8]


def test_the_log_says_once_what_was_changed_in_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("cafe\u0301 au lait, " * 200)
    data = {"type": "Text", "text": {"path": str(path)}, "transforms": [{"type": "NormalizeUnicode"}]}
    assert train_here(recipe(path, data=data), tmp_path / "storage") == 0
    said = capsys.readouterr().err
    assert said.count("NormalizeUnicode changed 1 of 1 documents: 3,200 bytes became 3,000\n") == 1


# ---------------------------------------------------------------------------------------------------- refusals


def test_a_checkpoint_of_other_data_is_refused(text: Path, tmp_path: Path) -> None:
    assert train_here(recipe(text), tmp_path) == 0
    with pytest.raises(NotRetryable, match="the checkpoint of step 8 is of another training: data was ") as refused:
        train_here(recipe(text_file(tmp_path, seed=1)), tmp_path)
    assert refused.value.reason == "InvalidSettings"


def test_a_checkpoint_of_another_model_is_refused_and_the_setting_is_named(text: Path, tmp_path: Path) -> None:
    assert train_here(recipe(text), tmp_path) == 0
    model = {"type": "DecoderLM", "decoderLM": {"numLayers": 3, "numHeads": 2, "embeddingDim": 16, "contextLength": 16}}
    with pytest.raises(NotRetryable, match=r"another training: model.settings.numLayers was 2 and is 3; put that back"):
        train_here(recipe(text, model=model), tmp_path)


def test_other_settings_may_change_and_are_named(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_here(recipe(text), tmp_path) == 0
    longer = recipe(text, totalSteps=10, optimizer={"learningRate": "1e-4"}, model=without_dropout(), precision="BF16")
    capsys.readouterr()
    assert train_here(longer, tmp_path) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("resuming")]
    assert "resuming after step 8 with other settings: " in line
    assert "totalSteps was 8 and is 10" in line
    assert "optimizer.learningRate was 1e-3 and is 1e-4" in line
    assert progress_in(tmp_path).step == 10


def test_damaged_checkpoints_are_passed_over_and_the_training_ends_in_the_same_bits(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = recipe(text, totalSteps=12)
    assert train_here(settings, tmp_path / "whole") == 0
    assert train_here(settings, tmp_path / "damaged", stop_after=9) == EXIT_PREEMPTED
    newest = tmp_path / "damaged" / "checkpoints" / "step-00000009" / "model-00000-00000.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    assert train_here(settings, tmp_path / "damaged") == 0
    assert "the checkpoint of step 9 cannot be used" in capsys.readouterr().err
    assert written(tmp_path / "whole", 12) == written(tmp_path / "damaged", 12)


def test_a_disk_without_room_for_the_trained_model_is_no_matter_for_a_retry(text: Path, tmp_path: Path) -> None:
    settings = recipe(text)
    assert train_here(settings, tmp_path) == 0
    shutil.rmtree(tmp_path / "artifacts")
    finished = training(settings, tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(
            NotRetryable, match=r"cannot write to .*artifacts \(File too large\): free some space"
        ) as refused:
            finished.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.reason == "CheckpointNotWritable"


def test_a_batch_that_cannot_be_divided_is_refused(text: Path, tmp_path: Path) -> None:
    settings = recipe(text).model_copy(update={"batch": recipe(text).batch.model_copy(update={"micro_batch_size": 3})})
    with pytest.raises(NotRetryable, match="globalBatchSize must be a multiple of microBatchSize times the 1 data"):
        training(settings, tmp_path)


# ------------------------------------------------------------------------------------------------ signals, for real


def test_sigterm_before_the_first_step_ends_at_once_without_a_checkpoint(text: Path, tmp_path: Path) -> None:
    settings = recipe(text)
    (rank, absent) = start_ranks([run(settings, tmp_path / "storage")], 2, tmp_path)
    absent.kill()  # so that the first rank waits for it
    assert rank.stdout is not None
    assert rank.stdout.readline() == "joining\n"
    time.sleep(0.5)
    rank.send_signal(signal.SIGTERM)
    codes, errors = wait_for([rank])
    absent.wait()
    assert codes == [EXIT_PREEMPTED]
    assert "ending before the first step; what checkpoints hold stays: SIGTERM" in errors[0]
    assert not (tmp_path / "storage" / "checkpoints").exists()


def test_sigterm_at_the_last_step_leaves_its_evaluation_and_the_model_to_the_next_attempt(
    text: Path, tmp_path: Path
) -> None:
    assert train_here(recipe(text), tmp_path, signal_after=8) == EXIT_PREEMPTED
    assert progress_in(tmp_path).step == progress_in(tmp_path).last_checkpoint_step == 8
    assert train_here(recipe(text), tmp_path) == 0
    assert "validationLossNatsPerByte" in progress_in(tmp_path).results
    assert (tmp_path / "artifacts" / "model").is_dir()


def test_a_data_parallel_rank_alone_needs_no_process_group(text: Path, tmp_path: Path) -> None:
    alone = training(recipe(text), tmp_path)
    assert isinstance(alone.strategy, DataParallel)
    assert not torch.distributed.is_initialized()
    assert alone.strategy.to_save(alone.module.state_dict()).keys() == alone.module.state_dict().keys()
