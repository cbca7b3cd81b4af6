"""Training within a compression step: what it changes, what it leaves, and that a stop makes no difference."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from builders.compress import pruned
from builders.steps import KILL_AT, Killed, StepStage, killed_at, stopped_at
from builders.trainer import start_as_ranks, wait_for
from costopt.schema.compression import Step
from costopt.schema.data import DataSettings
from costopt.schema.memory import Memory
from costopt.schema.optimization import Optimizer, ParameterGroup
from costopt.schema.recipe import Batch
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.compress.fitting import Course, Objective, fit, recipe_of
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.training.stopping import Stop

STEPS = 7
COURSE = Course(STEPS, "1e-3")


@pytest.fixture(scope="module")
def trained_language(tmp_path_factory: pytest.TempPathFactory) -> StepStage:
    return StepStage.made("DecoderLM", tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def trained_images(tmp_path_factory: pytest.TempPathFactory) -> StepStage:
    return StepStage.made("ConvNet", tmp_path_factory.mktemp("images"))


@pytest.fixture
def language(trained_language: StepStage, tmp_path: Path) -> StepStage:
    return trained_language.copied(tmp_path / "language")


@pytest.fixture
def images(trained_images: StepStage, tmp_path: Path) -> StepStage:
    return trained_images.copied(tmp_path / "images")


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def fitted(stage: StepStage, course: Course = COURSE, **how: Any) -> dict[str, Tensor]:
    """The weights of the trained model after a course."""
    model = stage.model()
    fit(model, stage.run(), course, **how)
    return state(model)


def held_out_loss(stage: StepStage, model: LayeredModel) -> float:
    data = stage.run().data
    assert data is not None
    inputs, targets = data.validation_batch(torch.arange(data.num_validation_samples).numpy())
    with torch.no_grad():
        return float(loss_sum(model(inputs), targets)) / targets.numel()


# ------------------------------------------------------------------------------------------- what it does, and leaves


def test_a_pruned_model_is_healed_and_comes_back_as_it_was_lent(language: StepStage) -> None:
    language = language.saved_rarely()
    model, _ = language.applied(pruned("Structured", 50))
    kinds = [type(module) for module in model.modules()]
    before, random = held_out_loss(language, model), torch.get_rng_state()
    said: list[str] = []
    told = fit(model, language.run(said), Course(40, "3e-3", warmup_steps=4))
    assert held_out_loss(language, model) < before - 0.1
    assert [type(module) for module in model.modules()] == kinds
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert str(told) == f"40 steps on 1 rank, training loss {told.loss:.4f}"
    assert said[-1] == f"step 40 of 40, loss {told.loss:.4f}"


def test_zeros_that_are_put_back_after_each_step_stay_and_the_rest_is_trained(language: StepStage) -> None:
    model, _ = language.applied(pruned("Unstructured", 60))
    weights = [parameter for name, parameter in model.named_parameters() if name.startswith("layers")]
    zeros = [parameter == 0 for parameter in weights]
    before = [parameter.clone() for parameter in weights]

    def put_back() -> None:
        for parameter, zero in zip(weights, zeros, strict=True):
            parameter.masked_fill_(zero, 0)

    fit(model, language.run(), COURSE, after_step=put_back)
    assert sum(int(zero.sum()) for zero in zeros) > 50_000
    for parameter, zero, old in zip(weights, zeros, before, strict=True):
        assert not parameter[zero].any()
        assert not torch.equal(parameter[~zero], old[~zero])


def test_samples_come_in_an_order_of_the_seed_and_the_part_alone(language: StepStage) -> None:
    language = language.saved_rarely()
    first = fitted(language)
    other = language.copied(language.storage.parent / "other")
    torch.manual_seed(99)
    assert equal(first, fitted(other))
    assert not equal(first, fitted(other, Course(STEPS, "1e-3", part="second")))
    assert not equal(first, fitted(other.with_recipe(seed=1), Course(STEPS, "1e-3", part="third")))


def test_micro_batches_accumulate_to_the_batch(language: StepStage) -> None:
    language = language.saved_rarely()
    whole = fitted(language)
    small = language.copied(language.storage.parent / "small")
    parts = fitted(small.with_recipe(batch=Batch(global_batch_size=8, micro_batch_size=2)))
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-3, atol=1e-5)


def test_layers_that_compute_again_to_save_memory_do_so_for_that_time_alone(language: StepStage) -> None:
    language = language.saved_rarely()
    whole = fitted(language)
    again = language.copied(language.storage.parent / "again")
    model = again.model()
    kinds = [type(module) for module in model.modules()]
    memory = Memory(activation_checkpointing="Full")
    fit(model, again.with_recipe(memory=memory).run(), COURSE)
    assert equal(state(model), whole)
    assert [type(module) for module in model.modules()] == kinds


class _TowardsATeacher(Objective):
    """Mean squared difference of the logits, times a learned scale."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self._teacher = (teacher,)

    def loss_sum(self, model: LayeredModel, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            told = self._teacher[0](inputs)
        return (model(inputs) - self.scale * told).square().mean() * targets.numel()


def test_an_objective_is_learned_in_place_of_the_loss_and_its_parameters_are_dropped(language: StepStage) -> None:
    language, prune = language.saved_rarely(), pruned("Structured", 75)
    (model, _), (cut, _) = language.applied(prune), language.applied(prune)
    names = model.state_dict().keys()
    run = language.run()
    assert run.teacher is not None
    objective = _TowardsATeacher(run.teacher())
    inputs = run.example

    def distance(student: LayeredModel) -> float:
        with torch.no_grad():
            return float(objective.loss_sum(student, inputs, inputs))

    fit(model, run, Course(40, "1e-3"), objective=objective)
    assert distance(model) < distance(cut) / 2
    assert model.state_dict().keys() == names
    assert objective.scale.item() != 1


# ------------------------------------------------------------------------------------------------- stops and kills


@pytest.mark.parametrize("kind", ["DecoderLM", "ConvNet"])
@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_training_that_was_ended_goes_on_to_the_same_bits(
    kind: str, end: str, language: StepStage, images: StepStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = language if kind == "DecoderLM" else images
    whole = fitted(stage.copied(stage.storage.parent / "whole"))
    model = stage.model()
    with monkeypatch.context() as patch:
        if end == "stopped":
            stopped_at(3, patch)
            with pytest.raises(SystemExit) as error:
                fit(model, stage.run(), COURSE)
            assert error.value.code == EXIT_PREEMPTED
        else:
            killed_at(5, patch)
            with pytest.raises(Killed):
                fit(model, stage.run(), COURSE)
    again = stage.model()
    told = fit(again, stage.run(), COURSE)
    assert told.begun == (3 if end == "stopped" else 4), "from the newest checkpoint"
    assert str(told).startswith(f"steps {told.begun + 1} to {STEPS} on 1 rank")
    assert equal(state(again), whole)


def test_a_part_that_is_done_is_not_trained_again(language: StepStage, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fitted(language, Course(STEPS, "1e-3", part="round-1"))
    killed_at(1, monkeypatch)
    model = language.model()
    assert fit(model, language.run(), Course(STEPS, "1e-3", part="round-1")).begun == STEPS
    assert equal(state(model), first)
    with pytest.raises(Killed):
        fit(model, language.run(), Course(STEPS, "1e-3", part="round-2"))


def test_a_stop_after_the_last_step_ends_the_step_and_loses_nothing(
    language: StepStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Stop()
    with monkeypatch.context() as patch:
        stopped_at(STEPS, patch)
        with pytest.raises(SystemExit):
            fit(language.model(), language.run(stop=stop), COURSE)
    assert not stop.in_steps
    assert fit(language.model(), language.run(), COURSE).begun == STEPS


@pytest.mark.slow
def test_two_ranks_train_as_one_does_and_killed_ones_go_on_to_the_same_bits(
    trained_language: StepStage, tmp_path: Path
) -> None:
    steps = [pruned("Structured", 50), Step.model_validate({"type": "FineTune", "fineTune": {"steps": STEPS}})]
    whole, killed, alone = (trained_language.copied(tmp_path / name) for name in ("whole", "killed", "alone"))
    told = json.dumps([step.to_plain() for step in steps]), whole.recipe.model_dump_json(by_alias=True)

    def apply(*stages: StepStage, **environment: str) -> tuple[list[int], list[str], str]:
        said: list[str] = []
        program = ["builders.steps", *told, *(str(stage.storage) for stage in stages)]
        codes, errors = wait_for(start_as_ranks(program, 2, **environment), said=said)
        return codes, said, "".join(errors)

    codes, said, _ = apply(whole, killed, **{KILL_AT: "5"})
    assert -signal.SIGKILL in codes
    assert f"FineTune: {STEPS} steps on 2 ranks" in said[0]
    codes, said, errors = apply(killed)
    assert codes == [0, 0], errors
    assert f"FineTune: steps 5 to {STEPS} on 2 ranks" in said[0]
    files = [stage.storage / "state.safetensors" for stage in (whole, killed)]
    assert files[0].read_bytes() == files[1].read_bytes()
    one, two = state(alone.applied(*steps)[0]), load_file(files[0])
    assert any(not torch.equal(two[name], weight) for name, weight in state(alone.applied(steps[0])[0]).items())
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-5)


# -------------------------------------------------------------------------------------------------------- its recipe


def test_a_course_is_the_recipe_at_a_tenth_of_its_rate_unless_it_says_otherwise(language: StepStage) -> None:
    recipe = language.recipe.model_copy(update={"optimizer": Optimizer(type="Lion", learning_rate="2e-3")})
    model = language.model()
    mild = recipe_of(recipe, Course(10), model, ranks=1, number=1)
    assert (mild.optimizer.type, float(mild.optimizer.learning_rate), mild.steps) == ("Lion", 2e-4, 10)
    assert (mild.precision, mild.data, mild.model) == (recipe.precision, recipe.data, recipe.model)
    steep = recipe_of(recipe, Course(10, "5e-2", 3, "Cosine"), model, ranks=1, number=1)
    assert (steep.optimizer.learning_rate, steep.schedule.type, steep.schedule.warmup_steps) == ("5e-2", "Cosine", 3)


def test_groups_that_name_what_compression_has_removed_are_left_out(language: StepStage) -> None:
    groups = [
        ParameterGroup(parameters=["layers.7.*", "head.*"], learning_rate_factor="2"),
        ParameterGroup(parameters=["layers.8.*"]),
    ]
    recipe = language.recipe.model_copy(update={"optimizer": Optimizer(groups=groups)})
    left = recipe_of(recipe, COURSE, language.model(), ranks=1, number=1).optimizer.groups
    assert left == [ParameterGroup(parameters=["head.*"], learning_rate_factor="2")]


def test_a_mixture_has_the_weights_that_it_ended_with(language: StepStage) -> None:
    first, second = {"name": "a", "weight": 3, "text": {"path": "a"}}, {"name": "b", "text": {"path": "b"}}
    stages = [{"fromPercent": 50, "weights": {"a": 0, "b": 4}}]
    linear = {"sources": [{**first, "endWeight": 2}, second]}
    for plain, expected in ((linear, [2, 1]), ({"sources": [first, second], "stages": stages}, [0, 4])):
        data = DataSettings.model_validate({"type": "Mixture", "mixture": plain})
        recipe = language.recipe.model_copy(update={"data": data})
        mixture = recipe_of(recipe, COURSE, language.model(), ranks=1, number=1).data.mixture
        assert mixture is not None
        assert [source.weight for source in mixture.sources] == expected
        assert not mixture.changes


def test_ranks_share_a_batch_in_equal_micro_batches_or_are_refused(language: StepStage) -> None:
    recipe = language.recipe.model_copy(update={"batch": Batch(global_batch_size=12, micro_batch_size=4)})
    model = language.model()
    assert recipe_of(recipe, COURSE, model, ranks=2, number=1).batch.micro_batch_size == 3
    with pytest.raises(NotRetryable, match="must be a multiple of the 5 ranks that make the variant, not 12") as error:
        recipe_of(recipe, COURSE, model, ranks=5, number=1)
    assert error.value.reason == "InvalidSettings"


def test_the_model_of_a_command_is_refused_in_a_sentence(language: StepStage) -> None:
    run = replace(language.run(), recipe=None)
    with pytest.raises(NotRetryable, match="a model that a recipe of this job has trained: nothing is known") as error:
        fit(language.model(), run, COURSE)
    assert error.value.reason == "InvalidSettings"
