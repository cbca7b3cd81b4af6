"""The callbacks, and a loop with Accelerate alone, on two ranks under the real launcher: told to stop, all save one
step and leave, and what goes on from there ends with the weights of a training that nobody disturbed."""

import importlib.util
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from builders.launch import Replica, replica
from builders.waiting import wait_for
from builders.zygote import Zygote, zygote
from costopt.schema.replica import Progress

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

SCRIPTS = Path(__file__).resolve().parents[2] / "manifests/samples/own-scripts"
MODULES = {
    "hugging_face.py": ["accelerate", "transformers.trainer", "transformers.models.llama.modeling_llama"],
    "accelerate_loop.py": ["accelerate"],
    "lightning_module.py": ["lightning.pytorch"],
}
WEIGHTS = {
    "hugging_face.py": "model.safetensors",
    "accelerate_loop.py": "model.safetensors",
    "lightning_module.py": "weights.pt",
}


@pytest.fixture(scope="module")
def mother(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """What the scripts import, imported once."""
    modules = [module for several in MODULES.values() for module in several]
    for module in modules:
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            pytest.skip(f"needs {module}")
    with zygote(tmp_path_factory.mktemp("z"), modules) as mother:
        yield mother


def progress_in(folder: Path) -> Progress | None:
    file = folder / "progress.json"
    return Progress.model_validate_json(file.read_text()) if file.exists() else None


def rank_1_of(launcher: Replica) -> int:
    """Process id of the launcher's second rank."""
    children = Path(f"/proc/{launcher.process.pid}/task/{launcher.process.pid}/children").read_text().split()
    return next(int(pid) for pid in children if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))


def saved_steps(storage: Path) -> set[str]:
    return {path.name for path in (storage / "checkpoints").iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("script", MODULES)
def test_a_stop_of_one_rank_is_a_checkpoint_of_all_from_which_they_go_on_as_if_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mother: Zygote, script: str
) -> None:
    shutil.copytree(SCRIPTS, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    plain = {"jobName": "demo", "stage": "train", "numNodes": 1, "processesPerNode": 2, "inPlaceRestarts": 0}
    asked = {**plain, "command": list(mother.command(script))}

    def run(folder: str, storage: str, steps: int, reading: str = "0") -> AbstractContextManager[Replica]:
        environment = {"COSTOPT_STORAGE_DIR": str(tmp_path / storage), "STEPS": str(steps), "SAVE_EVERY": "1000000"}
        return replica(tmp_path / folder, None, settings=asked, environment={**environment, "READING_SECONDS": reading})

    with run("stopped", "storage", 1_000_000, "0.02") as launcher:
        wait_for(lambda: (told := progress_in(launcher.folder)) is not None and told.step >= 2)
        os.kill(rank_1_of(launcher), signal.SIGTERM)
        assert launcher.wait() == 143, launcher.notes
        assert "[rank 1] {" not in launcher.output, "rank 0 alone tells how far they are"
    told = progress_in(tmp_path / "stopped")
    assert told is not None
    assert told.step == told.last_checkpoint_step
    assert {int("".join(filter(str.isdigit, name))) for name in saved_steps(tmp_path / "storage")} >= {told.step}
    assert told.metered is not None
    assert min(told.metered.startup, told.metered.productive, told.metered.data_wait, told.metered.checkpoint) > 0

    steps = told.step + 3
    with run("resumed", "storage", steps) as resumed:
        assert resumed.wait() == 0, resumed.notes
    last = progress_in(tmp_path / "resumed")
    assert last is not None
    assert (last.step, last.resumed_from_step) == (steps, told.step)
    with run("whole", "undisturbed", steps) as whole:
        assert whole.wait() == 0, whole.notes
    model = f"artifacts/model/{WEIGHTS[script]}"
    assert (tmp_path / "storage" / model).read_bytes() == (tmp_path / "undisturbed" / model).read_bytes()
    for name in ("storage", "undisturbed"):
        lines = [json.loads(line)["step"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert lines == sorted(lines), "one rank reports"
