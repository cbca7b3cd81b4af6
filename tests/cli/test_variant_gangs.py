"""A variant of which a step trains, made by a gang on one machine."""

from pathlib import Path

import pytest

from builders.cli import TRAINING, costopt, write_manifest
from costopt.local.run_folder import RunFolder


@pytest.mark.slow
def test_a_variant_is_trained_by_as_many_nodes_as_its_model_and_each_gives_an_account(tmp_path: Path) -> None:
    healed = {
        "name": "healed",
        "measureSeconds": 6,
        "steps": [
            {"type": "Prune", "prune": {"structure": "Unstructured", "percent": 20}},
            {"type": "FineTune", "fineTune": {"steps": 12}},
        ],
    }
    recipe = {**TRAINING, "totalSteps": 10, "evaluation": {"everySteps": 10, "maxSamples": 8}}
    write_manifest(tmp_path, train={"numNodes": 2, "recipe": recipe}, compress=[healed])
    ended = costopt(tmp_path, "run", "job.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    run_folder = RunFolder(tmp_path / "runs/tiny")
    made = [record for record in run_folder.ledger().records if record.stage == "healed"]
    assert sorted((record.attempt, record.index, record.outcome) for record in made) == [
        (0, 0, "Succeeded"),
        (0, 1, "Succeeded"),
    ]
    for record in made:
        assert record.metered is not None
        assert min(record.metered.startup, record.metered.productive) > 0
    assert "on 2 ranks" in run_folder.log_file("tiny-healed-a0-0").read_text()
    status = run_folder.status()
    assert [variant.name for variant in status.variants] == ["healed"]
    assert status.bill is not None
    assert {"Startup", "Productive"} <= {line.cause for line in status.bill.lines if line.stage == "healed"}
    assert status.progress is not None
    assert status.progress.total_steps == 10, "the training's own"
