"""What is written down of a variant, accepted or rejected."""

from pathlib import Path

import pytest

from builders.compress import pruned, replica, train_stage
from costopt.artifacts import find_difference, read_manifest
from costopt.schema.artifact import Lineage
from costopt.schema.compression import Accept
from costopt_trainer.compress import making, measure, run
from costopt_trainer.storage.manifests import describe


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(measure, "MAX_RUNS", 1)
    monkeypatch.setattr(measure, "MIN_RUNS", 1)
    monkeypatch.setattr(making, "verify_in_fresh_process", lambda *_: None)  # tests of that have seconds for it
    return tmp_path


def test_a_variant_tells_where_it_comes_from_and_what_was_measured_accepted_or_rejected(storage: Path) -> None:
    recipe = train_stage("ConvNet", storage, steps=5)
    trained = storage / "artifacts/model"
    describe(trained, "model", Lineage(job="tiny", checkpoint_step=5, recipe=recipe), licence="mit")
    model = read_manifest(trained)
    variant = replica(recipe, pruned("Unstructured", 10)).variant
    assert variant is not None
    for accept in (Accept(max_quality_drop_percent="10000"), Accept(min_size_ratio="9")):
        report = run.make_variant(variant.model_copy(update={"accept": accept}), recipe, storage, job="tiny")
        assert report is not None
        folder = storage / report.artifact
        manifest = read_manifest(folder)
        assert find_difference(folder, manifest) is None
        assert [file.path for file in manifest.files] == ["config.json", "model.safetensors", "report.json"]
        assert manifest.report == report.in_short()
        assert manifest.name == "small"
        lineage = manifest.lineage
        assert (lineage.job, lineage.checkpoint_step, lineage.recipe) == ("tiny", 5, recipe)
        assert lineage.steps == variant.steps
        weights = next(file for file in model.files if file.path == "model.safetensors")
        assert lineage.model_sha256 == [weights.sha256]
        assert lineage.data_fingerprint is not None
        assert manifest.licence == "mit"
        assert manifest.machine == model.machine
    assert report.verdict == "Rejected"
