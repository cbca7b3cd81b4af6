"""A storage that anybody may have written to: what is not ours is passed over, or refused in a sentence.

Every file that is read back from a storage stands in a table here, and every name there that could be a link or a pipe.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from builders.compress import SHAPES, apply, dynamic, example_inputs, fresh_model
from builders.trainer import recipe, text_file, train_here, written
from costopt.schema.data import DataSettings
from costopt.schema.replica import Progress
from costopt.schema.variant_report import VariantStatus
from costopt_trainer.data import listing, load_data
from costopt_trainer.errors import NotRetryable
from costopt_trainer.launch.rank_error import RankError, read_error
from costopt_trainer.launch.termination_message import read_progress, read_report
from costopt_trainer.models.artifact import load_model, save_model
from costopt_trainer.replica_settings import read_settings
from costopt_trainer.reporting.reporter import Reporter
from costopt_trainer.storage.tensor_pieces import describe, shards_of
from costopt_trainer.training.checkpoint import Checkpoints
from costopt_trainer.training.checkpoint_state import fault_of_state
from costopt_trainer.training.process_group import ALONE

STEP = "checkpoints/step-00000008"

HOSTILE: list[Any] = [
    *(None, True, -1, 0, 2, 10**9, 10**30, -0.5, 1e308, "", "x", "../../x", "/etc/passwd", "\x1b[2J", "é" * 9999),
    *([], {}, [[]], {"a": {}}, {"": None}, [0] * 99),
]
RAW = [
    b"",
    b"{",
    b"[" * 99_999,
    b'{"step":' * 9_999,
    b"NaN",
    b"9" * 99_999,
    b"1e999",
    b'"\\ud800"',
    b"\xff",
    b"null",
    b"[]",
]


def with_one_change(document: Any, choose: Callable[[Any], Any]) -> Any:
    """The document with a hostile value somewhere, or without something."""
    if not isinstance(document, (dict, list)) or not document or choose(range(4)) == 0:
        return choose(HOSTILE)
    key = choose(sorted(document)) if isinstance(document, dict) else choose(range(len(document)))
    changed = document.copy()
    if choose(range(6)) == 0:
        del changed[key]
    else:
        changed[key] = with_one_change(document[key], choose)
    return changed


def hostile_forms(data: st.DataObject, content: bytes) -> bytes:
    """What somebody may have put in the place of a file of JSON."""
    if data.draw(st.integers(0, 4)) == 0:
        return data.draw(st.sampled_from(RAW) | st.binary(max_size=50))
    return json.dumps(with_one_change(json.loads(content), lambda of: data.draw(st.sampled_from(of)))).encode()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, and `storage`, where a training on it has ended."""
    folder = tmp_path_factory.mktemp("trained")
    assert train_here(recipe(text_file(folder)), folder / "storage") == 0
    return folder


def sign(checkpoint: Path) -> None:
    """Make a manifest's hashes and tensors right: whoever can write the files can write it too."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["tensors"] = {}
    for name in manifest["files"]:
        content = (checkpoint / name).read_bytes()
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if name.endswith(".safetensors"):
            held = {key: describe(shards_of(tensor)[0], name) for key, tensor in load(content).items()}
            manifest["tensors"][name.partition("-")[0]] = held
    path.write_text(json.dumps(manifest))


def sentence_of(act: Callable[[], object]) -> str | None:
    """The one sentence that `act` is refused in; None if it is not."""
    try:
        act()
    except NotRetryable as error:
        sentence = str(error)
    else:
        return None
    assert "\n" not in sentence
    assert len(sentence) < 1000
    return sentence


def checkpoints_in(folder: Path) -> Checkpoints:
    return Checkpoints(folder, job="test", keep_last=2, gang=ALONE)


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
@settings(max_examples=150)
@given(data=st.data())
def test_a_checkpoint_is_whole_or_passed_over_whatever_its_json_says(
    name: str, trained: Path, data: st.DataObject
) -> None:
    folder = trained / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained / "storage/checkpoints/step-00000008", folder / "step-00000008")
    path = folder / "step-00000008" / name
    path.write_bytes(hostile_forms(data, path.read_bytes()))
    if name != "manifest.json":
        sign(path.parent)
    checkpoints = checkpoints_in(folder)
    found: list[int | None] = []
    sentence = sentence_of(lambda: found.append(checkpoints.newest(fault_of_state)))
    if sentence is not None:
        assert "can be used; the checkpoint of step 8 cannot be used (" in sentence
    elif found == [8]:  # then a training can go on from it
        Progress.model_validate({**checkpoints.read_state(8)["progress"], "totalSteps": 8})
        checkpoints.read_model(8)


@settings(max_examples=100)
@given(data=st.data())
def test_an_evaluation_is_figures_or_none(trained: Path, data: st.DataObject) -> None:
    folder = trained / "evaluation"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained / "storage/checkpoints/step-00000008", folder / "step-00000008")
    path = folder / "step-00000008/evaluation.json"
    path.write_bytes(hostile_forms(data, path.read_bytes()))
    figures = checkpoints_in(folder).read_evaluation(8)
    if figures is not None:
        Progress.model_validate({"step": 8, "totalSteps": 8, **figures})


@pytest.mark.parametrize("steps", [[], [dynamic()]], ids=["as trained", "int8"])
@settings(max_examples=60)
@given(data=st.data())
def test_a_saved_model_is_loaded_or_refused(steps: list[Any], trained: Path, data: st.DataObject) -> None:
    folder = trained / "model"
    model = fresh_model("DecoderLM")
    apply(model, steps, example_inputs("DecoderLM")[:1])
    save_model(folder, model, SHAPES["DecoderLM"], steps=steps)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if data.draw(st.booleans()):
        content = weights.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = hostile_forms(data, content[8:end])
        weights.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
        signed = {
            "weightsBytes": weights.stat().st_size,
            "weightsSha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
        config.write_text(json.dumps(json.loads(config.read_bytes()) | signed))
    else:
        config.write_bytes(hostile_forms(data, config.read_bytes()))
    sentence = sentence_of(lambda: load_model(folder))
    assert sentence is None or "does not hold a model saved by costopt" in sentence


@settings(max_examples=60)
@given(data=st.data())
def test_a_token_cache_is_of_this_text_or_made_again(trained: Path, data: st.DataObject) -> None:
    text = DataSettings.model_validate({"type": "Text", "text": {"path": str(trained / "text-0.txt")}})
    cache = trained / "cache"
    before = load_data(text, context_length=8, cache_dir=cache)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    contents = folder / "shards.json"
    contents.write_bytes(hostile_forms(data, contents.read_bytes()))
    after = load_data(text, context_length=8, cache_dir=cache)
    assert (before.fingerprint, before.vocabulary_size) == (after.fingerprint, after.vocabulary_size)
    assert (before.num_train_samples, before.num_validation_samples) == (
        after.num_train_samples,
        after.num_validation_samples,
    )
    assert all(0 <= entropy <= 8 for entropy in after.reference_entropies.values())


def test_tokens_beyond_the_vocabulary_are_made_again(tmp_path: Path) -> None:
    words = text_file(tmp_path)
    tokenizer = {"type": "BPE", "vocabularySize": 300}
    text = DataSettings.model_validate({"type": "Text", "text": {"path": str(words)}, "tokenizer": tokenizer})
    load_data(text, context_length=8, cache_dir=tmp_path / "cache")
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    content = b"\xff\xff" * 100
    (folder / "train.bin").write_bytes(content)
    contents = json.loads((folder / "shards.json").read_bytes())
    contents["files"]["train.bin"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "shards.json").write_text(json.dumps(contents))
    again = load_data(text, context_length=8, cache_dir=tmp_path / "cache")
    assert again.num_train_samples > len(content)


REPORT = VariantStatus.model_validate(
    {
        "name": "int8",
        "measured": (
            figures := {
                "sizeBytes": 1,
                "parameters": 1,
                "nonzeroPermille": 1,
                "latencyMicroseconds": 1,
                "validationLoss": "1",
                "engine": "TorchEager",
            }
        ),
        "baseline": figures,
        "sizeRatio": "1",
        "speedup": "1",
        "validationLossIncrease": "0",
        "artifact": "artifacts/int8",
        "reloaded": True,
    }
)
ERROR = {"message": {"message": "KeyError: 1", "extraInfo": {"time": "1700000000.5", "reason": "InvalidData"}}}
SETTINGS = {"jobName": "a", "stage": "train", "numNodes": 1, "processesPerNode": 1, "command": ["true"]}

READERS: dict[str, tuple[object, Callable[[Path], object]]] = {
    "a report": (REPORT.to_plain(), read_report),
    "progress": ({"step": 1, "totalSteps": 2, "results": {"a": "1"}}, read_progress),
    "an error file": (ERROR, read_error),
    "settings": (SETTINGS, lambda path: sentence_of(lambda: read_settings(path))),
}


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150)
@given(data=st.data())
def test_any_other_file_is_what_it_should_be_or_nothing(name: str, trained: Path, data: st.DataObject) -> None:
    plain, read = READERS[name]
    path = trained / "file.json"
    path.write_bytes(json.dumps(plain).encode())
    assert name == "settings" or read(path) is not None
    path.write_bytes(hostile_forms(data, path.read_bytes()))
    answer = read(path)
    assert answer is None or isinstance(answer, VariantStatus | Progress | RankError | str)
    if isinstance(answer, RankError):
        assert isinstance(answer.sentence, str)
        assert answer.is_echo in (True, False)


@pytest.mark.parametrize("line", RAW)
def test_a_line_that_is_none_goes_from_the_metrics(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = b'{"step":1}\n'
    path.write_bytes(kept + line + b"\n" + kept)
    Reporter(ALONE, None, path).resume_after(3)
    assert path.read_bytes() == kept + kept


def link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / ("folder" if path.name in FOLDERS else "file"))


def pipe(path: Path, _outside: Path) -> None:
    os.mkfifo(path)


def dangle(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "nothing")


FOLDERS = {"checkpoints", "step-00000008", "cache", "artifacts", "model", "KEY", ".KEY.partial"}
PLACES = [
    *("checkpoints", STEP, f"{STEP}/manifest.json", f"{STEP}/state.json", f"{STEP}/model-00000-00000.safetensors"),
    *(f"{STEP}/evaluation.json", "checkpoints/.step-00000008.partial", "metrics.jsonl"),
    *("cache", "cache/KEY", "cache/.KEY.lock", "cache/.KEY.partial", "cache/KEY/shards.json", "cache/KEY/train.bin"),
    *("artifacts", "artifacts/model", "artifacts/.model.partial", "artifacts/.model.replaced"),
]


@pytest.mark.slow
@pytest.mark.parametrize("put", [link, dangle, pipe])
@pytest.mark.parametrize("place", PLACES)
def test_a_link_or_a_pipe_with_one_of_our_names_leads_nowhere(
    place: str, put: Callable[[Path, Path], None], trained: Path, tmp_path: Path
) -> None:
    storage, outside = tmp_path / "storage", tmp_path / "outside"
    shutil.copytree(trained / "storage", storage)
    key = next(path.name for path in (storage / "cache").iterdir() if path.is_dir())
    path = storage / place.replace("KEY", key)
    if path.is_dir():
        shutil.copytree(path, outside / "folder")
        shutil.rmtree(path)
    else:
        (outside / "folder").mkdir(parents=True)
        (outside / "file").write_bytes(path.read_bytes() if path.is_file() else b"kept")
        path.unlink(missing_ok=True)
    if put is link and not (outside / "file").exists():
        (outside / "file").touch()
    if "cache/.KEY" in place:  # looked at only when tokens are made
        shutil.rmtree(storage / "cache" / key)
    FOLDERS.add(key)
    put(path, outside)
    before = {file: file.read_bytes() for file in outside.rglob("*") if file.is_file()}

    code: list[int] = []
    sentence = sentence_of(lambda: code.append(train_here(recipe(trained / "text-0.txt"), storage)))

    assert sentence is not None or code == [0]
    if sentence is not None:
        assert str(path) in sentence or "no checkpoint in" in sentence
    else:
        assert written(storage, 8) == written(trained / "storage", 8)
    assert {file: file.read_bytes() for file in outside.rglob("*") if file.is_file()} == before


def test_a_checkpoint_of_another_job_is_passed_over_and_its_job_is_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "storage/checkpoints", tmp_path / "checkpoints")
    others = Checkpoints(tmp_path / "checkpoints", job="other", keep_last=2, gang=ALONE)
    with pytest.raises(NotRetryable, match=r"of another job, .test.*: restore one"):
        others.newest(fault_of_state)
    assert "it is of another job, 'test'" in capsys.readouterr().err


def test_a_manifest_whose_paths_climb_is_none(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "storage/checkpoints", tmp_path / "checkpoints")
    for name in ("../../x", "/etc/passwd", "a/b", "..", "model-00000-00000.safetensors\x1b[2J"):
        for path in (tmp_path / "checkpoints").glob("*/manifest.json"):
            manifest = json.loads(path.read_bytes())
            path.write_text(json.dumps({**manifest, "files": {name: {"size": 1, "sha256": "0"}}}))
        with pytest.raises(NotRetryable, match="no checkpoint in"):
            checkpoints_in(tmp_path / "checkpoints").newest(fault_of_state)
        said = capsys.readouterr().err
        assert "names a file that is none of a checkpoint" in said
        assert "\x1b" not in said


def test_a_file_that_the_manifest_does_not_name_is_none_of_the_checkpoint(trained: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints/step-00000008"
    shutil.copytree(trained / "storage/checkpoints/step-00000008", checkpoint)
    shutil.copy(checkpoint / "random-00000-00000.safetensors", checkpoint / "model-00099-00000.safetensors")
    assert "cpu" not in checkpoints_in(tmp_path / "checkpoints").read_model(8)


@pytest.mark.parametrize("kind", ["model", "optimizer", "random"])
def test_tensors_that_do_not_fit_end_the_training_in_a_sentence(kind: str, trained: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(trained / "storage", tmp_path / "storage")
    shutil.rmtree(tmp_path / "storage/checkpoints/step-00000004")
    checkpoint = tmp_path / "storage" / STEP
    path = checkpoint / f"{kind}-00000-00000.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file({**tensors, name: torch.zeros(3)}, path)
    sign(checkpoint)
    sentence = sentence_of(lambda: train_here(recipe(trained / "text-0.txt"), tmp_path / "storage"))
    assert sentence is not None
    assert "the checkpoint of step 8 does not fit the model that is trained" in sentence


@pytest.mark.parametrize("key", ["../../outside-of-the-cache-folder", "", "x" * 64, "é"])
def test_a_checkpoint_that_names_a_text_elsewhere_has_no_listing_read_there(key: str, tmp_path: Path) -> None:
    cache = tmp_path / "a/b/cache"
    cache.mkdir(parents=True)
    own = "0123456789abcdef" * 4
    listing.keep(cache, own, {"mine.txt": "0"})
    with suppress(OSError):
        (cache / f"{key[:32]}.files.json").write_text('{"theirs.txt": "0"}')
    assert listing.differences(cache, key, own) == ""


def test_a_listings_names_are_safe_to_tell(tmp_path: Path) -> None:
    before, now = "0" * 64, "1" * 64
    listing.keep(tmp_path, before, {"a\x1b[2J\n.txt": "0"})
    listing.keep(tmp_path, now, {})
    assert listing.differences(tmp_path, before, now) == "a?[2J?.txt is gone"
