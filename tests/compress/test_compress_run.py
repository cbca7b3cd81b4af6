"""A variant from beginning to end, with real data, a trained model and a fresh process."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builders.compress import dynamic, pruned, read_json, replica, train_stage, weight_only
from costopt.names import ENV_STORAGE_DIR
from costopt.schema.recipe import Recipe
from costopt.schema.variant_report import EngineName, VariantStatus
from costopt_trainer.compress import measure, run
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, read_config, save_model

Stage = tuple[Path, Recipe]


@pytest.fixture(scope="module")
def trained_language(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    storage = tmp_path_factory.mktemp("language")
    return storage, train_stage("DecoderLM", storage, steps=80)


@pytest.fixture(scope="module")
def trained_images(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    storage = tmp_path_factory.mktemp("images")
    return storage, train_stage("ConvNet", storage)


@pytest.fixture
def language(trained_language: Stage, tmp_path: Path) -> Stage:
    """A trained decoder in a folder that only this test writes to: tests run in any order."""
    return shutil.copytree(trained_language[0], tmp_path / "storage"), trained_language[1]


@pytest.fixture
def images(trained_images: Stage, tmp_path: Path) -> Stage:
    """A trained classifier in a folder that only this test writes to: tests run in any order."""
    return shutil.copytree(trained_images[0], tmp_path / "storage"), trained_images[1]


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MAX_RUNS", measure.MIN_RUNS)


def _report(storage: Path, name: str) -> VariantStatus:
    return VariantStatus.model_validate_json((storage / "artifacts" / name / "report.json").read_bytes())


def _leftovers(storage: Path) -> list[str]:
    return [path.name for path in (storage / "artifacts").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_an_int8_variant_is_smaller_and_nearly_as_good(
    language: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, recipe = language
    monkeypatch.setenv(ENV_STORAGE_DIR, str(storage))
    run.main(replica(recipe, weight_only(), name="int8"))

    report = _report(storage, "int8")
    artifact = storage / report.artifact
    assert report.reloaded
    assert report.measured.size_bytes == (artifact / "model.safetensors").stat().st_size
    assert report.baseline.size_bytes == (storage / "artifacts/model/model.safetensors").stat().st_size
    assert report.measured.parameters == report.baseline.parameters
    assert float(report.size_ratio) > 2
    assert abs(float(report.validation_loss_increase)) < 0.01
    assert float(report.baseline.validation_loss) < 4  # 5.5 untrained
    assert (report.measured.engine, report.baseline.engine) == ("TorchEager", "TorchEager")
    assert report.faults == []
    assert report.measured.validation_accuracy_permille is None
    assert (report.loss_per, float(report.bytes_per_token or "nan")) == ("Token", 1.0)
    assert read_config(artifact).steps == (weight_only(),)
    assert _leftovers(storage) == []
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.startswith("int8: ") for line in lines)


def test_a_structured_variant_of_images_has_fewer_parameters(images: Stage) -> None:
    storage, recipe = images
    report = run.make_variant(replica(recipe, pruned("Structured", 50)).variant, recipe, storage)  # type: ignore[arg-type]
    assert report == _report(storage, "small")
    assert report.measured.parameters < report.baseline.parameters / 2
    assert load_model(storage / "artifacts/small").widths() == {"channels": (4, 8)}
    assert report.measured.validation_accuracy_permille is not None
    assert report.measured.validation_macro_f1_permille is not None
    assert (report.loss_per, report.bytes_per_token) == ("Sample", None)


def test_a_variant_that_has_lost_what_was_learned_is_marked_with_the_numbers(
    images: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, recipe = images
    report = run.make_variant(replica(recipe, pruned("Structured", 95)).variant, recipe, storage)  # type: ignore[arg-type]
    assert (
        float(report.baseline.validation_loss)
        < float(report.trivial_loss or 0)
        < float(report.measured.validation_loss)
    )
    assert "NoBetterThanGuessing" in [fault.reason for fault in report.faults]
    assert f"small: not worth deploying: {report.faults[-1].message}" in capsys.readouterr().out


@pytest.mark.slow
def test_pruning_and_then_quantizing_gives_one_artifact(images: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, recipe = images
    monkeypatch.setenv(ENV_STORAGE_DIR, str(storage))
    steps = (pruned("Structured", 25), pruned("Unstructured", 50), weight_only())
    for _ in range(2):  # a second run over a finished variant repeats harmlessly
        run.main(replica(recipe, *steps, name="both"))
        report = _report(storage, "both")
        assert report.measured.nonzero_permille < 600
        assert report.measured.parameters < report.baseline.parameters
        assert _leftovers(storage) == []


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["TorchCompiled", "TorchQuantized"])
def test_quantized_activations_run_under_either_engine_and_the_report_names_it(
    engine: EngineName, language: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = language
    monkeypatch.setattr(run, "engines_for", lambda _steps, _device: (engine,))
    if engine == "TorchCompiled" and shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    report = run.make_variant(replica(recipe, dynamic(), name="fast").variant, recipe, storage)  # type: ignore[arg-type]
    assert report.measured.engine == engine
    assert abs(float(report.validation_loss_increase)) < 0.02
    assert "NoBetterThanGuessing" not in [fault.reason for fault in report.faults]


def _tamper_bytes(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)


def _tamper_whole(folder: Path) -> None:
    config, model = read_config(folder), load_model(folder)
    next(model.parameters()).data.mul_(1.5)
    save_model(folder, model, config.shape, widths=config.widths, steps=config.steps)


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [(_tamper_bytes, "not the one that config.json was written for"), (_tamper_whole, "gives another output")],
)
def test_an_artifact_changed_before_it_is_verified_is_not_reported(
    images: Stage, monkeypatch: pytest.MonkeyPatch, tamper: object, sentence: str
) -> None:
    storage, recipe = images
    monkeypatch.setenv(ENV_STORAGE_DIR, str(storage))
    verify = run.verify_in_fresh_process

    def tamper_first(folder: Path, probe: Path) -> None:
        tamper(folder)  # type: ignore[operator]
        verify(folder, probe)

    monkeypatch.setattr(run, "verify_in_fresh_process", tamper_first)
    with pytest.raises(NotRetryable, match=sentence) as error:
        run.main(replica(recipe, pruned("Unstructured", 50), name="changed"))
    assert error.value.reason == "ArtifactMismatch"
    assert not (storage / "artifacts" / "changed").exists()


def test_a_verifying_process_that_crashes_is_worth_a_retry(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with exit code"):
        run.verify_in_fresh_process(tmp_path, tmp_path / "no-probe")


def test_a_full_disk_is_said_and_not_worth_a_retry(images: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, recipe = images
    monkeypatch.setenv(ENV_STORAGE_DIR, str(storage))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(NotRetryable, match=r"cannot write to .*artifacts \(File too large\)") as error:
            run.main(replica(recipe, pruned("Unstructured", 50), name="full"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.reason == "CheckpointNotWritable"
    assert not (storage / "artifacts" / "full").exists()


def test_without_a_trained_model_the_answer_is_a_sentence(
    images: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_STORAGE_DIR, str(tmp_path / "other"))
    with pytest.raises(NotRetryable, match=r"on a cluster spec\.storage must be set") as error:
        run.main(replica(images[1], weight_only()))
    assert error.value.reason == "InvalidSettings"


def test_data_of_another_shape_is_refused(images: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from builders.data import image_settings, write_images

    storage, recipe = images
    monkeypatch.setenv(ENV_STORAGE_DIR, str(storage))
    other = image_settings(write_images(tmp_path / "other.npz", count=40, side=12, classes=4))
    with pytest.raises(NotRetryable, match="the data must be what the model was trained on") as error:
        run.main(replica(recipe.model_copy(update={"data": other}), weight_only()))
    assert error.value.reason == "InvalidData"


def test_only_the_first_rank_makes_the_variant(images: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, recipe = images
    shutil.rmtree(storage)
    monkeypatch.setenv(ENV_STORAGE_DIR, str(storage))
    monkeypatch.setenv("RANK", "1")
    run.main(replica(recipe, weight_only()))
    assert not storage.exists()


@pytest.mark.slow
def test_sigterm_ends_with_143_and_leaves_nothing_half_written(language: Stage) -> None:
    storage, recipe = language
    settings = replica(recipe, pruned("Unstructured", 50), name="ended")
    code = (
        "import sys; from costopt.schema.replica import ReplicaSettings; from costopt_trainer.compress import run;"
        "run.main(ReplicaSettings.model_validate_json(sys.stdin.read()))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, ENV_STORAGE_DIR: str(storage)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(settings.model_dump_json(by_alias=True, exclude_none=True))
    process.stdin.close()
    assert "saved" in next(line for line in process.stdout if "saved" in line)
    process.send_signal(signal.SIGTERM)
    assert "ending before the variant is finished, which is made anew: SIGTERM" in process.stdout.read()
    assert process.wait(timeout=240) == 143
    assert not (storage / "artifacts" / "ended").exists()

    run.make_variant(settings.variant, recipe, storage)  # type: ignore[arg-type]
    assert read_json(storage / "artifacts/ended/report.json")["name"] == "ended"
    assert _leftovers(storage) == []


@pytest.mark.parametrize("name", ["linked", ".linked.unverified", "..linked.unverified.partial", ".linked.probe"])
def test_a_link_with_the_name_of_a_variants_files_is_replaced_and_leads_nowhere(
    name: str, images: Stage, tmp_path: Path
) -> None:
    storage, recipe = images
    kept = tmp_path / "kept"
    if name.endswith("probe"):
        kept.write_bytes(b"kept")
    else:
        kept.mkdir()
        (kept / "report.json").write_bytes(b"kept")
    (storage / "artifacts" / name).symlink_to(kept)
    variant = replica(recipe, pruned("Unstructured", 50), name="linked").variant
    run.make_variant(variant, recipe, storage)  # type: ignore[arg-type]
    assert (kept if kept.is_file() else kept / "report.json").read_bytes() == b"kept"
    assert not (storage / "artifacts/linked").is_symlink()
    assert _report(storage, "linked").reloaded
    assert _leftovers(storage) == []
