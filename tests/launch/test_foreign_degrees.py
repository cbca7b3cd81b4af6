"""A split that a model of the Hugging Face library cannot have is refused before any rank starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders.launch import replica
from costopt.schema.parallelism import Parallelism
from costopt.schema.recipe import Batch, Recipe
from costopt.schema.replica import ReplicaSettings
from costopt_trainer.errors import NotRetryable
from costopt_trainer.launch.foreign_degrees import refuse_uneven_split


def recipe(folder: Path, tensor: int) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"type": "HuggingFace", "huggingFace": {"path": str(folder)}},
            "data": {"type": "PythonStandardLibrary"},
            "batch": {"globalBatchSize": 24, "microBatchSize": 1},
            "totalSteps": 1,
            "parallelism": {"tensor": tensor},
        }
    )


def folder_with(folder: Path, config: Any) -> Path:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def refuse(recipe: Recipe, ranks: int) -> None:
    refuse_uneven_split(recipe, num_nodes=1, processes_per_node=ranks)


@pytest.mark.parametrize("nested", [False, True])
def test_a_degree_that_does_not_divide_the_key_heads_is_refused_with_those_that_do(
    tmp_path: Path, nested: bool
) -> None:
    heads = {"num_attention_heads": 12, "num_key_value_heads": 4}
    folder = folder_with(tmp_path, {"text_config": heads} if nested else heads)
    with pytest.raises(
        NotRetryable,
        match=r"must divide num_key_value_heads 4 of .* 3 does not; each of these alone would do: "
        r"recipe\.parallelism\.tensor 1, 2 or 4$",
    ):
        refuse(recipe(folder, 3), 12)
    refuse(recipe(folder, 4), 12)


@pytest.mark.parametrize("nested", [False, True])
def test_so_is_one_that_does_not_divide_the_width_of_an_mlp(tmp_path: Path, nested: bool) -> None:
    numbers = {"num_attention_heads": 12, "num_key_value_heads": 12, "intermediate_size": 46}
    folder = folder_with(tmp_path, {"text_config": numbers} if nested else numbers)
    with pytest.raises(NotRetryable, match=r"must divide intermediate_size 46 of .* 4 does not; .*tensor 1 or 2$"):
        refuse(recipe(folder, 4), 4)
    refuse(recipe(folder, 2), 4)


def test_heads_are_found_by_their_older_name(tmp_path: Path) -> None:
    with pytest.raises(NotRetryable, match="must divide n_head 6 of"):
        refuse(recipe(folder_with(tmp_path, {"n_head": 6}), 4), 4)


def test_the_degrees_that_are_named_divide_the_batch_as_well(tmp_path: Path) -> None:
    """8 samples in micro-batches of 2 are four, which are not for 24, 12, 8 or 6 data-parallel ranks."""
    folder = folder_with(tmp_path, {"num_attention_heads": 12})
    of_two = recipe(folder, 8).model_copy(update={"batch": Batch(global_batch_size=8, micro_batch_size=2)})
    with pytest.raises(NotRetryable, match=r"would do: recipe\.parallelism\.tensor 6 or 12$"):
        refuse(of_two, 24)
    for fitting in (6, 12):
        refuse(of_two.model_copy(update={"parallelism": Parallelism(tensor=fitting)}), 24)


@pytest.mark.parametrize("config", ["{", "[]", "{}", "[" * 100000, '{"num_attention_heads": "3"}'])
def test_what_tells_nothing_of_heads_is_left_to_the_ranks(tmp_path: Path, config: str) -> None:
    refuse(recipe(folder_with(tmp_path, config), 2), 2)
    refuse(recipe(tmp_path / "missing", 2), 2)


def test_the_launcher_says_so_in_one_sentence_and_starts_no_rank(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"num_attention_heads": 6, "intermediate_size": 32})
    settings = ReplicaSettings(
        job_name="job", stage="train", num_nodes=1, processes_per_node=3, recipe=recipe(folder, 3)
    )
    with replica(tmp_path, None, settings=json.dumps(settings.to_plain())) as launcher:
        assert launcher.wait() == 78
        message = launcher.termination
    assert message.reason == "InvalidSettings"
    assert "must divide intermediate_size 32 of" in message.message
    assert message.message.endswith("does not; each of these alone would do: recipe.parallelism.tensor 1")
    assert launcher.notes == f"costopt: InvalidSettings: {message.message}\n"
