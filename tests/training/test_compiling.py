"""Compiled layers: kept for later attempts, bitwise the same when resumed, and run from nobody else's folder."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from builders.launch import replica
from builders.trainer import losses, recipe, text_file, train_here, written
from costopt.schema.memory import Memory
from costopt.schema.models import ModelSettings
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from costopt_trainer.training.compiling import FOLDER, _fault_of, compile_blocks, compiled
from costopt_trainer.training.memory import save_memory


@pytest.fixture
def fresh_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What this process has compiled so far is forgotten, and the caches of the environment stay its own."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiling(text: Path, **changes: object) -> Recipe:
    return recipe(text, compile=True, batch={"globalBatchSize": 4, "microBatchSize": 2}, totalSteps=4, **changes)


def start_anew() -> None:
    """As in a new process: what was compiled is on the disk only."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_a_resumed_training_finds_what_was_compiled_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    text = text_file(tmp_path)
    plain = recipe(text, batch={"globalBatchSize": 4, "microBatchSize": 2}, totalSteps=4)
    assert train_here(plain, tmp_path / "plain") == 0
    assert "unique_graphs" not in torch._dynamo.utils.counters["stats"]

    assert train_here(compiling(text), tmp_path / "whole") == 0
    found = torch._dynamo.utils.counters
    assert found["stats"]["unique_graphs"] == 1, "layers of one kind share a graph, and evaluations need none"
    assert found["inductor"]["fxgraph_cache_hit"] == 0
    start_anew()
    assert train_here(compiling(text), tmp_path / "parts", stop_after=2) == EXIT_PREEMPTED
    start_anew()
    assert train_here(compiling(text), tmp_path / "parts") == 0
    assert torch._dynamo.utils.counters["inductor"]["fxgraph_cache_miss"] == 0
    assert torch._dynamo.utils.counters["aot_autograd"]["autograd_cache_hit"] == 1

    assert written(tmp_path / "parts", 4) == written(tmp_path / "whole", 4)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert written(tmp_path / "whole", 4).keys() == written(tmp_path / "plain", 4).keys()
    assert oct((tmp_path / "parts/cache" / FOLDER).stat().st_mode)[-3:] == "700"


def kept_bytes(model: Any) -> int:
    """What a forward pass keeps for the backward pass."""
    kept = [0]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[0] += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.arange(64).view(4, 16) % 50).sum().backward()
    return kept[0]


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_layers_that_are_recomputed_keep_less_and_learn_the_same(tmp_path: Path) -> None:
    settings = {"numLayers": 2, "numHeads": 4, "embeddingDim": 32, "contextLength": 16}
    shape = ModelShape(ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": settings}), vocabulary_size=50)
    kept: dict[str, int] = {}
    gradients: list[torch.Tensor] = []
    for number, words in enumerate(("None", "Full", "Selective", "Full")):
        start_anew()
        torch.manual_seed(1)
        model = build_model(shape)
        save_memory(model, Memory.model_validate({"activationCheckpointing": words}))
        if number < 3:
            compile_blocks(model, tmp_path, aloud=True)
        kept[f"{words} {number}"] = kept_bytes(model)
        assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0) == (number < 3)
        found = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
        gradients.append(found)
        torch.testing.assert_close(found, gradients[0], rtol=1e-4, atol=1e-5)
    everything, full, selective, uncompiled = kept.values()
    assert full == uncompiled
    assert full < selective < everything


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_without_a_compiler_a_training_ends_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "/nonexistent/g++"))
    with pytest.raises(NotRetryable, match=r"recipe.compile must be left out: .* cannot be compiled here") as error:
        train_here(compiling(text_file(tmp_path)), tmp_path / "run")
    assert error.value.reason == "InvalidSettings"


@pytest.mark.slow
def test_sigterm_while_two_ranks_compile_ends_them_and_the_next_attempt_trains(tmp_path: Path) -> None:
    settings = {
        "jobName": "demo",
        "stage": "train",
        "numNodes": 1,
        "processesPerNode": 2,
        "recipe": compiling(text_file(tmp_path)).to_plain(),
    }
    with replica(tmp_path, None, settings=settings) as launcher:
        while "Compiling" not in launcher.phases:
            launcher.wait_for_output("", 1)
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.wait() == EXIT_PREEMPTED
        assert launcher.termination.progress is None or launcher.termination.progress.step == 0
    with replica(tmp_path, None, settings=settings) as launcher:
        assert launcher.wait() == 0, launcher.notes
        assert launcher.termination.progress is not None
        assert launcher.termination.progress.step == 4


def test_only_a_folder_of_ones_own_is_run_from(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / FOLDER
    assert _fault_of(folder) is None
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    assert _fault_of(folder) is None, "volumes of a cluster belong to a group"
    folder.chmod(0o777)
    assert "others may not write to it" in str(_fault_of(folder))
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    assert "must be a folder, but is a link" in str(_fault_of(folder))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user, which only root may")
def test_a_folder_of_another_user_is_not_run_from(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir(mode=0o700)
    os.chown(tmp_path / FOLDER, 4321, -1)
    assert "must belong to the user of this job" in str(_fault_of(tmp_path / FOLDER))


def test_errors_of_the_training_itself_are_not_laid_on_the_compiler() -> None:
    def fail() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied") as error:
        compiled(fail)
    assert not isinstance(error.value, NotRetryable)
