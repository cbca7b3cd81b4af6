"""A split that a model of the Hugging Face library cannot have is refused before any rank starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders.launch import replica
from costopt.schema.recipe import Recipe
from costopt.schema.replica import ReplicaSettings
from costopt_trainer.errors import NotRetryable
from costopt_trainer.launch.foreign_degrees import refuse_uneven_split


def recipe(folder: Path, tensor: int) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"type": "HuggingFace", "huggingFace": {"path": str(folder)}},
            "data": {"type": "PythonStandardLibrary"},
            "batch": {"globalBatchSize": 8, "microBatchSize": 8},
            "totalSteps": 1,
            "parallelism": {"tensor": tensor},
        }
    )


def folder_with(folder: Path, config: Any) -> Path:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


@pytest.mark.parametrize("nested", [False, True])
def test_a_degree_that_does_not_divide_the_key_heads_is_refused_with_those_that_do(
    tmp_path: Path, nested: bool
) -> None:
    heads = {"num_attention_heads": 12, "num_key_value_heads": 4}
    folder = folder_with(tmp_path, {"text_config": heads} if nested else heads)
    with pytest.raises(
        NotRetryable, match=r"must divide num_key_value_heads 4 of .* 3 does not.* that fit 6 ranks are 1, 2$"
    ):
        refuse_uneven_split(recipe(folder, 3), 6)
    refuse_uneven_split(recipe(folder, 4), 12)


@pytest.mark.parametrize("config", ["{", "[]", "{}", "[" * 100000, '{"num_attention_heads": "3"}'])
def test_what_tells_nothing_of_heads_is_left_to_the_ranks(tmp_path: Path, config: str) -> None:
    refuse_uneven_split(recipe(folder_with(tmp_path, config), 2), 2)
    refuse_uneven_split(recipe(tmp_path / "missing", 2), 2)


def test_the_launcher_says_so_in_one_sentence_and_starts_no_rank(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"num_attention_heads": 4})
    settings = ReplicaSettings(
        job_name="job", stage="train", num_nodes=1, processes_per_node=3, recipe=recipe(folder, 3)
    )
    with replica(tmp_path, None, settings=json.dumps(settings.to_plain())) as launcher:
        assert launcher.wait() == 78
        message = launcher.termination
    assert message.reason == "InvalidSettings"
    assert "must divide num_attention_heads 4" in message.message
    assert launcher.notes == f"costopt: InvalidSettings: {message.message}\n"
