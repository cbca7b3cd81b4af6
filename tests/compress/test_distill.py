"""Students: what they are made of, what they learn of a teacher, and that they come back as what they are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from builders.compress import CONV_SHAPE, LM_SHAPE, example_inputs, fresh_model, pruned
from builders.hugging_face import VOCABULARY, from_scratch
from builders.steps import StepStage
from costopt.schema.compression import Distill, Step
from costopt.schema.models import ModelSettings
from costopt_trainer.compress.student import every_other_layer, lighter
from costopt_trainer.compress.teaching import Teaching, layer_beside, refuse_unlike
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, save_model
from costopt_trainer.models.loss import IGNORED_TARGET
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model


def shape_of(kind: str, key: str, **settings: Any) -> ModelShape:
    """Of a family of text with a vocabulary of 64."""
    model = ModelSettings.model_validate({"type": kind, key: {"contextLength": 8, "embeddingDim": 16, **settings}})
    return ModelShape(model, vocabulary_size=64, pad_id=63 if kind == "Encoder" else None, num_classes=3)


DECODER = shape_of("DecoderLM", "decoderLM", numLayers=5, numHeads=2)
CLASSIFIER = shape_of("Encoder", "encoder", numLayers=4, numHeads=2, task="Classification")
SHAPES = {
    "DecoderLM": DECODER,
    "Llama": shape_of("DecoderLM", "decoderLM", numLayers=3, numHeads=2, preset="Llama", tiedEmbeddings=True),
    "Encoder": CLASSIFIER,
    "LSTM": shape_of("LSTM", "lstm", numLayers=4, layerRepeats=2),
}
TOKENS = torch.randint(0, 60, (3, 8), generator=torch.Generator().manual_seed(2))


def built(shape: ModelShape, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return build_model(shape).eval()


def come_back(model: Any, shape: ModelShape, folder: Path) -> Any:
    """The model, saved as a variant is and loaded again."""
    save_model(folder, model, model.built_as or shape, widths=model.widths())
    return load_model(folder)


def distilled(**settings: Any) -> Step:
    return Step(type="Distill", distill=Distill.model_validate({"steps": 6, "learningRate": "1e-3", **settings}))


# -------------------------------------------------------------------------------------------------------- half of it


@pytest.mark.parametrize("kind", SHAPES)
def test_every_other_layer_is_the_models_own_and_comes_back_from_disk(kind: str, tmp_path: Path) -> None:
    shape = SHAPES[kind]
    model, whole = built(shape), built(shape)
    count = whole.num_layers
    assert every_other_layer(model, shape) == f"{(count + 1) // 2} of {count} layers"
    for number, layer in enumerate(range(0, count, 2)):
        left = model.layers[str(number)].state_dict()
        assert all(torch.equal(left[name], tensor) for name, tensor in whole.layers[str(layer)].state_dict().items())
    assert len(model.layers) == model.num_layers == (count + 1) // 2
    again = come_back(model, shape, tmp_path / "student")
    assert torch.equal(again(TOKENS), model(TOKENS))
    assert not torch.equal(again(TOKENS), whole(TOKENS))


def test_half_of_a_pruned_model_keeps_the_widths_of_its_layers(tmp_path: Path) -> None:
    from builders.compress import apply

    model = fresh_model("DecoderLM")
    apply(model, [pruned("Structured", 50)], example_inputs("DecoderLM")[:1])
    every_other_layer(model, LM_SHAPE)
    assert model.widths() == {"attention": (32,), "mlp": (128,)}
    inputs = example_inputs("DecoderLM")
    assert torch.equal(come_back(model, LM_SHAPE, tmp_path / "student")(inputs), model(inputs))


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_half_of_a_model_of_the_library_is_one_that_the_library_loads(kind: str, tmp_path: Path) -> None:
    import transformers

    shape = from_scratch(tmp_path / "config", kind)
    model, whole = built(shape), built(shape)
    assert every_other_layer(model, shape) == "1 of 2 layers"
    assert model.built_as is None, "its config.json says how many layers it has"
    tokens = torch.randint(0, VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own = model(tokens)
        assert not torch.equal(own, whole(tokens))
        assert torch.equal(come_back(model, shape, tmp_path / "student")(tokens), own)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
        assert theirs.config.num_hidden_layers == len(model.blocks()) == 1
        torch.testing.assert_close(theirs(tokens).logits, own)
    first = whole.blocks()[0].state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in model.blocks()[0].state_dict().items())


def test_layers_that_do_not_fit_each_other_are_refused() -> None:
    for model, shape in (
        (fresh_model("ConvNet"), CONV_SHAPE),
        (built(one := shape_of("LSTM", "lstm", numLayers=1)), one),
    ):
        with pytest.raises(NotRetryable, match=r"distill\.student must not be EveryOtherLayer for this model") as error:
            every_other_layer(model, shape)
        assert error.value.reason == "InvalidSettings"


# --------------------------------------------------------------------------------------------------------- a lighter


def test_a_lighter_student_begins_as_the_model_where_their_tensors_are_alike(tmp_path: Path) -> None:
    model, whole = built(DECODER), built(DECODER)
    line = lighter(model, DECODER, {"numLayers": 2, "mlpWidth": 8})
    assert line.endswith("begin as they were")
    assert model.num_layers == 2
    assert torch.equal(model.token_embedding.weight, whole.token_embedding.weight)
    for number, layer in enumerate((0, 2)):
        own, theirs = model.layers[str(number)], whole.layers[str(layer)]
        assert torch.equal(own.attention.q.weight, theirs.attention.q.weight)
        assert own.mlp.expand.out_features == 8
    assert torch.equal(come_back(model, DECODER, tmp_path / "student")(TOKENS), model(TOKENS))


def test_a_narrower_student_of_a_classifier_of_images_is_a_model_of_its_own(tmp_path: Path) -> None:
    model = fresh_model("ConvNet")
    assert "of which 4 begin as they were" in lighter(model, CONV_SHAPE, {"baseChannels": 4})  # the head's biases
    inputs = example_inputs("ConvNet")
    assert torch.equal(come_back(model, CONV_SHAPE, tmp_path / "student")(inputs), model(inputs))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"numLayer": 2}, "that are numbers and shape its layers, .*numLayers, numHeads, .* and not numLayer$"),
        ({"contextLength": 8}, "and not contextLength$"),
        ({"numHeads": 3}, r"embeddingDim must be a multiple of numHeads \(of model.decoderLM\)"),
        ({"numLayers": 0}, "numLayers: Input should be greater than or equal to 1"),
        ({"numLayers": 6}, "must make a smaller model than the one before it"),
    ],
)
def test_settings_that_make_no_lighter_student_are_refused(changes: dict[str, int], sentence: str) -> None:
    with pytest.raises(NotRetryable, match=sentence) as error:
        lighter(built(DECODER), DECODER, changes)
    assert error.value.reason == "InvalidSettings"


def test_a_model_of_the_library_has_no_lighter_settings(tmp_path: Path) -> None:
    shape = from_scratch(tmp_path, "gpt2")
    with pytest.raises(NotRetryable, match=r"distill\.student must not be Lighter for model.type HuggingFace"):
        lighter(built(shape), shape, {"numLayers": 1})


# ----------------------------------------------------------------------------------------------------- what is learned


def teaching(shape: ModelShape, student: Any, inputs: Tensor, **how: Any) -> Teaching:
    return Teaching(built(shape, seed=3), student, inputs[:1], pad_id=shape.pad_id, **how)


def test_the_loss_is_that_of_the_paper() -> None:
    student, teacher = built(DECODER, seed=1), built(DECODER, seed=3)
    targets = TOKENS.roll(-1, dims=1)
    targets[:, -1] = IGNORED_TARGET
    objective = teaching(DECODER, student, TOKENS, temperature=3.0, labels_share=0.25)
    loss = objective.loss_sum(student, TOKENS, targets).item()
    own, its = (model(TOKENS)[:, :-1].flatten(0, 1).double() for model in (student, teacher))
    told = (its / 3).softmax(-1)
    divergence = (told * (told.log() - (own / 3).log_softmax(-1))).sum()
    expected = 0.75 * 9 * divergence + 0.25 * F.cross_entropy(own, targets[:, :-1].flatten(), reduction="sum")
    assert loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("shape", [DECODER, CLASSIFIER], ids=["DecoderLM", "Encoder"])
def test_a_samples_loss_does_not_hang_on_others_in_its_micro_batch(shape: ModelShape) -> None:
    student = built(replace(shape, settings=shape.settings), seed=1)
    inputs = TOKENS.clone()
    if shape.pad_id is not None:
        inputs[0, 3:] = shape.pad_id
    targets = torch.tensor([0, 1, 2]) if shape is CLASSIFIER else inputs.roll(-1, dims=1)
    objective = teaching(shape, student, inputs, hidden_weight=2.0)

    def loss(rows: Tensor, of: Tensor) -> float:
        return float(objective.loss_sum(student, rows, of).detach())

    whole = loss(inputs, targets)
    assert whole == pytest.approx(sum(loss(inputs[i : i + 1], targets[i : i + 1]) for i in range(3)), rel=1e-5)
    assert whole > float(teaching(shape, student, inputs).loss_sum(student, inputs, targets).detach())
    if shape.pad_id is not None:
        assert loss(inputs[:1], targets[:1]) == pytest.approx(loss(inputs[:1, :3], targets[:1]), rel=1e-5), "no padding"


def test_a_student_that_is_its_teacher_has_nothing_to_learn_of_its_layers() -> None:
    student = built(DECODER, seed=3)
    objective = teaching(DECODER, student, TOKENS, labels_share=0.0, hidden_weight=1.0)
    assert float(objective.loss_sum(student, TOKENS, TOKENS)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "model.safetensors",
            "larger does not hold a model saved by costopt: its model.safetensors is not the one",
        ),
        ("config.json", "larger does not hold a model saved by costopt: its config.json must be JSON"),
        (None, "larger does not hold a model saved by costopt: there is no such folder"),
    ],
)
def test_a_damaged_teacher_is_refused_in_one_sentence(
    name: str | None, said: str, trained: StepStage, tmp_path: Path
) -> None:
    stage = trained.copied(tmp_path / "storage")
    if name is not None:
        save_model(tmp_path / "larger", stage.model(), LM_SHAPE)
        content = (tmp_path / "larger" / name).read_bytes()
        (tmp_path / "larger" / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(NotRetryable) as refused:
        stage.applied(distilled(teacher=str(tmp_path / "larger")))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_narrower_layers_are_compared_by_a_projection_and_nothing_of_the_teacher_is_trained() -> None:
    narrow = shape_of("DecoderLM", "decoderLM", numLayers=2, numHeads=2, embeddingDim=8)
    student = built(narrow)
    objective = teaching(DECODER, student, TOKENS, hidden_weight=1.0)
    assert [tuple(each.weight.shape) for each in objective.projections] == [(16, 8), (16, 8)]
    objective.loss_sum(student, TOKENS, TOKENS).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert {name for name, _ in objective.named_parameters()} == {"projections.0.weight", "projections.1.weight"}


@given(layers=st.integers(1, 40), more=st.integers(0, 40))
def test_layers_learn_from_layers_in_order_and_the_last_from_the_last(layers: int, more: int) -> None:
    beside = [layer_beside(number, layers, layers + more) for number in range(layers)]
    assert beside == sorted(set(beside))
    assert beside[0] >= 0
    assert beside[-1] == layers + more - 1


def test_a_teacher_of_other_answers_or_layers_is_refused() -> None:
    student = built(DECODER)
    other = built(replace(DECODER, vocabulary_size=80))
    with pytest.raises(NotRetryable, match="the student's vocabulary or classes, 64, but has 80") as error:
        refuse_unlike(other, student, TOKENS, hidden=False)
    assert error.value.reason == "InvalidSettings"
    shallow = built(shape_of("DecoderLM", "decoderLM", numLayers=2, numHeads=2))
    assert refuse_unlike(shallow, student, TOKENS, hidden=False) == []
    with pytest.raises(NotRetryable, match=r"distill\.hiddenPercent must be 0 for this model"):
        refuse_unlike(shallow, student, TOKENS, hidden=True)
    images = fresh_model("ConvNet")
    with pytest.raises(NotRetryable, match="the outputs of its layers are not of tokens"):
        refuse_unlike(fresh_model("ConvNet"), images, example_inputs("ConvNet"), hidden=True)


# ------------------------------------------------------------------------------------------------------- the whole step


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StepStage:
    return StepStage.made("DecoderLM", tmp_path_factory.mktemp("language"))


def far(model: Any, teacher: Any, stage: StepStage) -> float:
    """How far the answers are from the teacher's, in nats, on samples that were held out."""
    data = stage.run().data
    assert data is not None
    inputs, _ = data.validation_batch(torch.arange(data.num_validation_samples).numpy())
    with torch.no_grad():
        own, its = model(inputs).log_softmax(-1), teacher(inputs).log_softmax(-1)
    return float(F.kl_div(own, its, reduction="sum", log_target=True)) / inputs.numel()


def test_a_pruned_model_is_led_back_to_what_its_teacher_answers(trained: StepStage, tmp_path: Path) -> None:
    stage = trained.copied(tmp_path / "storage").saved_rarely()
    prune = pruned("Structured", 50)
    cut, _ = stage.applied(prune)
    healed, lines = stage.applied(prune, distilled(steps=40, learningRate="3e-3", labelsPercent=0, hiddenPercent=100))
    assert lines[1].startswith("Distill StepsBefore: 40 steps on 1 rank, training loss")
    assert far(healed, stage.model(), stage) < far(cut, stage.model(), stage) / 2


def test_the_teacher_may_be_a_larger_model_of_another_job_but_not_one_of_other_data(
    trained: StepStage, tmp_path: Path
) -> None:
    stage = trained.copied(tmp_path / "storage")
    larger = ModelSettings.model_validate(
        {"type": "DecoderLM", "decoderLM": {"numLayers": 3, "numHeads": 4, "embeddingDim": 96, "contextLength": 32}}
    )
    shape = ModelShape(larger, vocabulary_size=256)
    save_model(tmp_path / "larger", built(shape), shape)
    _, lines = stage.applied(distilled(teacher=str(tmp_path / "larger")))
    assert lines[0].startswith("Distill StepsBefore: 6 steps")
    other = replace(shape, vocabulary_size=300)
    save_model(tmp_path / "other", built(other), other)
    with pytest.raises(NotRetryable, match=r"the model in distill\.teacher: .*other must be of this data's") as error:
        stage.applied(distilled(teacher=str(tmp_path / "other")))
    assert error.value.reason == "InvalidData"
